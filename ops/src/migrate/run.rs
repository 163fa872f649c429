//! Runs the stages of a migration in order, and reconnects after connection failures.
//!
//! Owns retries. Handles a lost connection like a killed process: the next attempt continues from the journal.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::copy::Copier;
use super::endpoints::Endpoints;
use super::error::{Error, MigrateError};
use super::journal::{self, Journal};
use super::preflight::{Preflight, PreflightScan};
use super::verify::Verifier;
use super::{MigrationPlan, MigrationReport, Observer, Stage};
use earshot_redis_link::{Backoff, LinkError};

/// How long a server may be unavailable without any progress.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// A run.
struct Runner<'p> {
    plan: &'p MigrationPlan,
    observer: CountingObserver<'p>,
    stop: &'p CancellationToken,
}

/// Passes progress to an observer and counts processed keys.
struct CountingObserver<'p> {
    observer: &'p dyn Observer,
    done: Cell<u64>,
}

impl Observer for CountingObserver<'_> {
    fn begin(&self, stage: Stage, keys: u64) {
        self.observer.begin(stage, keys);
    }

    fn advance(&self, keys: u64) {
        self.done.set(self.done.get() + keys);
        self.observer.advance(keys);
    }

    fn message(&self, line: &str) {
        self.observer.message(line);
    }
}

pub(super) async fn dry_run(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Preflight, MigrateError> {
    let run = Runner::new(plan, observer, stop);
    run.with_retry(async || run.preflight(true).await).await
}

pub(super) async fn run(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<MigrationReport, MigrateError> {
    let run = Runner::new(plan, observer, stop);
    let mut journal = Journal::open(&plan.state, &plan.fingerprint(), plan.rules.texts().count())?;
    run.with_retry(async || run.warn().await).await?;
    if !journal.resumed {
        run.with_retry(async || run.preflight(false).await).await?.check()?;
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
    Ok(MigrationReport { counts, settled, resumed })
}

pub(super) async fn verify(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<MigrationReport, MigrateError> {
    let run = Runner::new(plan, observer, stop);
    let mut journal = Journal::in_memory(&plan.fingerprint(), plan.rules.texts().count());
    run.with_retry(async || run.verify(&mut journal, true).await).await?;
    Ok(MigrationReport { counts: journal.state.counts, settled: 0, resumed: false })
}

impl<'p> Runner<'p> {
    fn new(plan: &'p MigrationPlan, observer: &'p dyn Observer, stop: &'p CancellationToken) -> Self {
        Self { plan, observer: CountingObserver { observer, done: Cell::new(0) }, stop }
    }

    async fn stages(&self, journal: &mut Journal) -> Result<(), MigrateError> {
        if journal.state.stage == journal::JournalStage::Move {
            self.with_retry(async || self.copy(journal).await).await?;
            journal.start_stage(journal::JournalStage::Verify);
            journal.save()?;
        }
        if self.plan.verify {
            self.with_retry(async || self.verify(journal, false).await).await?;
        }
        Ok(())
    }

    async fn warn(&self) -> Result<(), Error> {
        Endpoints::open(self.plan).await?.warn(&self.observer).await
    }

    async fn preflight(&self, is_dry_run: bool) -> Result<Preflight, Error> {
        let endpoints = self.connect(Stage::Preflight).await?;
        Box::pin(PreflightScan { plan: self.plan, endpoints, is_dry_run }.run(&self.observer, self.stop))
            .await
    }

    async fn copy(&self, journal: &mut Journal) -> Result<(), Error> {
        let endpoints = self.connect(Stage::Move).await?;
        let (plan, observer, stop) = (self.plan, &self.observer, self.stop);
        Box::pin(Copier { plan, endpoints, journal, observer, stop }.run()).await
    }

    async fn verify(&self, journal: &mut Journal, is_standalone: bool) -> Result<(), Error> {
        let endpoints = self.connect(Stage::Verify).await?;
        let (plan, observer, stop) = (self.plan, &self.observer, self.stop);
        Box::pin(Verifier { plan, endpoints, journal, is_standalone, observer, stop }.run()).await
    }

    async fn connect(&self, stage: Stage) -> Result<Endpoints, Error> {
        let mut endpoints = Endpoints::open(self.plan).await?;
        self.observer.begin(stage, endpoints.source.size().await?);
        Ok(endpoints)
    }

    /// Repeats a stage while its errors are transient. Progress restarts [`RETRY_TIMEOUT`].
    async fn with_retry<T>(
        &self,
        mut stage: impl AsyncFnMut() -> Result<T, Error>,
    ) -> Result<T, MigrateError> {
        let mut backoff = Backoff::new(&self.plan.from);
        let (mut since, mut stuck_at) = (Instant::now(), u64::MAX);
        loop {
            let cause = match stage().await {
                Ok(outcome) => return Ok(outcome),
                Err(Error::Fatal(error)) => return Err(error),
                Err(Error::Key(cause)) => return Err(MigrateError::Server(cause)),
                Err(Error::Transient(cause)) => cause,
            };
            if self.observer.done.get() != stuck_at {
                (since, stuck_at) = (Instant::now(), self.observer.done.get());
                backoff.reset();
            }
            if since.elapsed() > RETRY_TIMEOUT {
                return Err(MigrateError::Server(format!(
                    "{cause}; no progress for {RETRY_TIMEOUT:?}: fix the cause, then run the same command again"
                )));
            }
            self.observer.message(&format!("{cause}; retrying"));
            let pause = backoff.next(&LinkError::Unreachable(cause));
            if timeout(pause, self.stop.cancelled()).await.is_ok() {
                return Err(MigrateError::Stopped);
            }
        }
    }
}
