//! A whole run: stages in their order, connections anew when they are lost.
//!
//! Owns patience. A lost connection and a killed process are the same to it: what goes on, goes on from the journal.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::carrying::Carrier;
use super::journal::{self, Journal};
use super::session::Session;
use super::survey::{Survey, Surveyor};
use super::trouble::{MigrateError, Trouble};
use super::verify::Verifier;
use super::{Observer, Plan, Report, Stage};
use crate::instance::{Backoff, Failure};

/// How long servers may be away at a time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run.
struct Run<'p> {
    plan: &'p Plan,
    observer: Counting<'p>,
    stop: &'p CancellationToken,
}

/// The observer, and how far it was told that the run has come.
struct Counting<'p> {
    observer: &'p dyn Observer,
    done: Cell<u64>,
}

impl Observer for Counting<'_> {
    fn begin(&self, stage: Stage, keys: u64) {
        self.observer.begin(stage, keys);
    }

    fn advance(&self, keys: u64) {
        self.done.set(self.done.get() + keys);
        self.observer.advance(keys);
    }

    fn say(&self, line: &str) {
        self.observer.say(line);
    }
}

pub(super) async fn survey(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Survey, MigrateError> {
    let run = Run::new(plan, observer, stop);
    run.patiently(async || run.survey(true).await).await
}

pub(super) async fn run(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Report, MigrateError> {
    let run = Run::new(plan, observer, stop);
    let mut journal = Journal::open(&plan.state, &plan.fingerprint(), plan.rules.texts().count())?;
    run.patiently(async || run.warn().await).await?;
    if !journal.resumed {
        run.patiently(async || run.survey(false).await).await?.judge()?;
    }
    let resumed = journal.resumed;
    let settled = journal.state.in_flight.len() as u64;
    let ended = run.stages(&mut journal).await;
    if let Err(error) = ended {
        if !matches!(error, MigrateError::State(_)) {
            journal.save()?;
        }
        return Err(error);
    }
    let counts = journal.state.counts.clone();
    journal.remove()?;
    Ok(Report { counts, settled, resumed })
}

pub(super) async fn verify(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Report, MigrateError> {
    let run = Run::new(plan, observer, stop);
    let mut journal = Journal::unkept(&plan.fingerprint(), plan.rules.texts().count());
    run.patiently(async || run.verify(&mut journal, true).await).await?;
    Ok(Report { counts: journal.state.counts, settled: 0, resumed: false })
}

impl<'p> Run<'p> {
    fn new(plan: &'p Plan, observer: &'p dyn Observer, stop: &'p CancellationToken) -> Self {
        Self { plan, observer: Counting { observer, done: Cell::new(0) }, stop }
    }

    async fn stages(&self, journal: &mut Journal) -> Result<(), MigrateError> {
        if journal.state.stage == journal::Stage::Move {
            self.patiently(async || self.carry(journal).await).await?;
            journal.enter(journal::Stage::Verify);
            journal.save()?;
        }
        if self.plan.verify {
            self.patiently(async || self.verify(journal, false).await).await?;
        }
        Ok(())
    }

    async fn warn(&self) -> Result<(), Trouble> {
        Session::open(self.plan).await?.warn(&self.observer).await
    }

    async fn survey(&self, thorough: bool) -> Result<Survey, Trouble> {
        let session = self.connect(Stage::Survey).await?;
        Box::pin(Surveyor { plan: self.plan, session, thorough }.run(&self.observer, self.stop)).await
    }

    async fn carry(&self, journal: &mut Journal) -> Result<(), Trouble> {
        let session = self.connect(Stage::Move).await?;
        let (plan, observer, stop) = (self.plan, &self.observer, self.stop);
        Box::pin(Carrier { plan, session, journal, observer, stop }.run()).await
    }

    async fn verify(&self, journal: &mut Journal, is_alone: bool) -> Result<(), Trouble> {
        let session = self.connect(Stage::Verify).await?;
        let (plan, observer, stop) = (self.plan, &self.observer, self.stop);
        Box::pin(Verifier { plan, session, journal, is_alone, observer, stop }.run()).await
    }

    async fn connect(&self, stage: Stage) -> Result<Session, Trouble> {
        let mut session = Session::open(self.plan).await?;
        self.observer.begin(stage, session.source.size().await?);
        Ok(session)
    }

    /// Does a stage, again and again as long as that may help. What has come further has earned new patience.
    async fn patiently<T>(
        &self,
        mut stage: impl AsyncFnMut() -> Result<T, Trouble>,
    ) -> Result<T, MigrateError> {
        let mut backoff = Backoff::new(&self.plan.from);
        let (mut since, mut stuck_at) = (Instant::now(), u64::MAX);
        loop {
            let cause = match stage().await {
                Ok(outcome) => return Ok(outcome),
                Err(Trouble::Ends(error)) => return Err(error),
                Err(Trouble::Key(cause)) => return Err(MigrateError::Server(cause)),
                Err(Trouble::Passing(cause)) => cause,
            };
            if self.observer.done.get() != stuck_at {
                (since, stuck_at) = (Instant::now(), self.observer.done.get());
                backoff.reset();
            }
            if since.elapsed() > PATIENCE {
                return Err(MigrateError::Server(format!(
                    "{cause}; that has been so for {PATIENCE:?}: run the same command again when it is better"
                )));
            }
            self.observer.say(&format!("{cause}; trying again"));
            let pause = backoff.next(&Failure::Unreachable(cause));
            if timeout(pause, self.stop.cancelled()).await.is_ok() {
                return Err(MigrateError::Stopped);
            }
        }
    }
}
