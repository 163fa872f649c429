//! What can be done to a Redis, and what must follow.
//!
//! Owns the list, and the course of one exercise: traffic flows, a fault comes, is known, goes, everybody hears again,
//! and the books are closed. Must never begin one while another's effects last.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::report::{Account, Outcome, Return, Tally, Verdict};
use super::scrape::{Numbers, Scrape};
use super::stage::{LOG, PLAIN, Stage};
use super::{GLANCE, until};

mod fault;
mod judge;

use self::judge::Evidence;

/// Numbers that everybody has heard before a fault comes.
const WARM: u64 = 50;
/// How long anything may take before the drill gives it up. Waits after a refusal are up to 10 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exercise {
    /// Nothing: whether it works at all.
    Steady,
    /// Redis is killed, and started again after a second.
    Kill,
    /// The same, after a long time.
    Outage,
    /// Redis hangs.
    Stop,
    /// The network between swallows everything while its connections stay open; then they are reset.
    HalfOpen,
    /// The network between closes every connection.
    Cut,
    /// Redis cuts off the subscriber alone.
    SubscriberKilled,
    /// The password is another one for a while.
    WrongPassword,
    /// More is published at once than Redis keeps for a subscriber.
    OutputBuffer,
    /// The right to hear a channel is taken away, and given back.
    RightRevoked,
    /// Another server becomes the primary, while the old one closes nothing.
    FailOver,
    /// The gateway itself is killed, and started again after a second.
    GatewayKilled,
}

/// What an exercise must have in its hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// A Redis that can be killed and started.
    Server,
    /// The network before it.
    Proxy,
    Gateway,
}

impl Exercise {
    /// Everything that can be chosen, in the order in which it is done.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::Outage,
        Self::Stop,
        Self::HalfOpen,
        Self::Cut,
        Self::SubscriberKilled,
        Self::WrongPassword,
        Self::OutputBuffer,
        Self::RightRevoked,
        Self::FailOver,
        Self::GatewayKilled,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|exercise| exercise.name() == name)
    }

    /// What flags and reports call it.
    pub fn name(self) -> &'static str {
        self.described().0
    }

    /// What is done, in words.
    pub fn about(self) -> &'static str {
        self.described().1
    }

    fn described(self) -> (&'static str, &'static str) {
        match self {
            Self::Steady => ("steady", "nothing is done: whether it works at all"),
            Self::Kill => ("kill", "Redis is killed, and started again after 1 s"),
            Self::Outage => ("outage", "Redis is killed, and started again after --outage"),
            Self::Stop => ("stop", "Redis hangs (SIGSTOP) for --outage, then goes on"),
            Self::HalfOpen => {
                ("half-open", "the network swallows everything for --outage, then resets its connections")
            }
            Self::Cut => ("cut", "the network closes every connection"),
            Self::SubscriberKilled => {
                ("subscriber-killed", "Redis closes the connection for subscriptions, and no other")
            }
            Self::WrongPassword => ("wrong-password", "the password is refused for a while"),
            Self::OutputBuffer => {
                ("output-buffer", "more is published at once than client-output-buffer-limit allows")
            }
            Self::RightRevoked => {
                ("right-revoked", "the right to hear a channel is taken away, and given back")
            }
            Self::FailOver => (
                "fail-over",
                "a replica becomes the primary, and the old primary a replica that closes nothing",
            ),
            Self::GatewayKilled => ("gateway-killed", "the gateway is killed, and started again after 1 s"),
        }
    }

    fn need(self) -> Need {
        match self {
            Self::Kill | Self::Outage | Self::Stop | Self::FailOver => Need::Server,
            Self::HalfOpen | Self::Cut => Need::Proxy,
            Self::GatewayKilled => Need::Gateway,
            Self::Steady
            | Self::SubscriberKilled
            | Self::WrongPassword
            | Self::OutputBuffer
            | Self::RightRevoked => Need::Nothing,
        }
    }

    fn returns(self) -> Return {
        match self {
            Self::WrongPassword | Self::RightRevoked => Return::Refusal,
            Self::GatewayKilled => Return::Gateway,
            _ => Return::Redis,
        }
    }

    /// Why it cannot be done here.
    fn is_out_of_reach(self, stage: &Stage) -> Option<&'static str> {
        match self.need() {
            Need::Server if stage.servers.is_none() => {
                Some("it needs a Redis that the drill started: leave --redis out")
            }
            Need::Proxy if stage.proxy.is_none() => Some(
                "the gateway does not reach its Redis through the drill: give --proxy, and point the gateway there",
            ),
            Need::Gateway if stage.gateway.is_none() => {
                Some("it needs a gateway that the drill started: leave --gateway out")
            }
            _ => None,
        }
    }
}

/// Why an exercise did not come to its end.
#[derive(Debug)]
enum Trouble {
    /// It cannot be done at this place.
    Impossible(String),
    /// Something did not go as it must.
    Wrong(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// When a fault came and went, and what was seen meanwhile.
#[derive(Debug)]
struct Spell {
    fault: Instant,
    back: Instant,
    /// The metrics while it was known.
    during: Option<Numbers>,
}

/// How everything stood when an exercise began.
struct Start {
    numbers: Numbers,
    /// Published so far, on each channel.
    published: [u64; 2],
    counts: Vec<[super::ledger::Count; 2]>,
    returns: Vec<u64>,
}

/// Does one exercise, from the first number to the last.
pub(super) async fn carry_out(exercise: Exercise, stage: &mut Stage) -> Outcome {
    let outcome = Outcome::new(exercise.name(), exercise.returns());
    if let Some(why) = exercise.is_out_of_reach(stage) {
        return outcome.ended(Verdict::Skipped, why.to_owned());
    }
    match Box::pin(course(exercise, stage, outcome.clone())).await {
        Ok(outcome) => outcome,
        Err(Trouble::Impossible(why)) => outcome.ended(Verdict::Skipped, why),
        Err(Trouble::Wrong(why)) => outcome.ended(Verdict::Failed, why),
    }
}

async fn course(exercise: Exercise, stage: &mut Stage, mut outcome: Outcome) -> Result<Outcome, Trouble> {
    let start = begin(stage).await?;
    flow(stage).await?;
    stage.watch.begin();
    let spell = fault::bring(exercise, stage).await;
    // Whatever went wrong: what was changed is undone before anything else.
    let restored = stage.restore.carry_out().await;
    let spell = spell?;
    restored?;
    let settled = settle(exercise, stage).await;
    let last = rest(stage).await?;
    outcome.known = stage.watch.seen().known.map(|known| known.saturating_duration_since(spell.fault));
    let came = stage.witnesses.iter().map(|witness| witness.came(PLAIN));
    let heard: Option<Vec<Duration>> =
        came.map(|came| came.map(|came| came.saturating_duration_since(spell.back))).collect();
    if exercise != Exercise::Steady {
        outcome.heard = heard.as_ref().and_then(|heard| heard.iter().min().copied());
        outcome.heard_by_all = heard.as_ref().and_then(|heard| heard.iter().max().copied());
    } else {
        outcome.known = None;
    }
    close(stage, &start, last, &mut outcome).await?;
    let after = Scrape::take(&mut stage.client).await.map(|scrape| scrape.numbers());
    let ends = stage.witnesses.iter().zip(&start.returns).filter_map(|(witness, before)| {
        let (returns, why) = witness.returns();
        (returns > *before).then(|| format!("{}: {why}", witness.transport.as_str()))
    });
    let evidence = Evidence {
        before: start.numbers,
        during: spell.during,
        after,
        seen: stage.watch.seen(),
        last: stage.watch.last(),
        settled,
        ends: ends.collect(),
    };
    judge::judge(exercise, &evidence, &mut outcome);
    Ok(outcome)
}

/// Everything as it stands, while nobody publishes.
async fn begin(stage: &mut Stage) -> Result<Start, Trouble> {
    let numbers = Scrape::take(&mut stage.client).await?.numbers();
    let counts = stage.witnesses.iter().map(|witness| {
        [PLAIN, LOG].map(|channel| {
            if channel < witness.channels.len() {
                witness.count(channel)
            } else {
                super::ledger::Count::default()
            }
        })
    });
    Ok(Start {
        numbers,
        published: [stage.plain.last(), stage.log.as_ref().map_or(0, super::publisher::Publisher::last)],
        counts: counts.collect(),
        returns: stage.witnesses.iter().map(|witness| witness.returns().0).collect(),
    })
}

/// Lets the publishers go, until everybody has heard a little.
async fn flow(stage: &Stage) -> Result<(), Trouble> {
    let plain = stage.plain.last() + WARM;
    let log = stage.log.as_ref().map(|log| log.last() + WARM / 5);
    stage.plain.go();
    if let Some(publisher) = &stage.log {
        publisher.go();
    }
    let hears = |witness: &std::sync::Arc<super::listener::Listener>| {
        witness.has(PLAIN..PLAIN + 1, plain) && log.is_none_or(|log| witness.has(LOG..LOG + 1, log))
    };
    if until(PATIENCE / 3, GLANCE, || stage.witnesses.iter().all(hears)).await {
        return Ok(());
    }
    let mut deaf =
        stage.witnesses.iter().filter(|witness| !hears(witness)).map(|witness| witness.transport.as_str());
    Err(Trouble::Wrong(format!(
        "what is published is not heard by {} before any fault: does the gateway listen to this Redis, on {}?",
        deaf.by_ref().collect::<Vec<_>>().join(", "),
        stage.channel
    )))
}

/// Waits until everything is well and everybody hears; what is missing.
async fn settle(exercise: Exercise, stage: &mut Stage) -> Option<String> {
    let log = stage.log.as_ref().map(|log| log.last() + 2);
    let hears = |witness: &std::sync::Arc<super::listener::Listener>| {
        let plain = exercise == Exercise::Steady || witness.came(PLAIN).is_some();
        witness.is_there() && plain && log.is_none_or(|log| witness.has(LOG..LOG + 1, log))
    };
    let all_well = || stage.watch.last().is_well() && stage.witnesses.iter().all(hears);
    if !until(PATIENCE, GLANCE, all_well).await {
        let deaf: Vec<_> = stage
            .witnesses
            .iter()
            .filter(|witness| !hears(witness))
            .map(|witness| witness.transport.as_str())
            .collect();
        let said = stage.watch.last().said();
        return Some(format!("{PATIENCE:?} later: {said}; not heard again by: {}", deaf.join(", ")));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Scrape::take(&mut stage.client).await.map(|scrape| scrape.numbers()) {
            Ok(numbers) if numbers.wanted == numbers.confirmed && numbers.up == 1.0 => return None,
            Ok(numbers) if Instant::now() > deadline => {
                let Numbers { wanted, confirmed, .. } = numbers;
                return Some(format!(
                    "{PATIENCE:?} later {confirmed} of {wanted} subscriptions are confirmed"
                ));
            }
            Err(why) if Instant::now() > deadline => return Some(why),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Ends the traffic, and waits until the last number has come; the last numbers.
async fn rest(stage: &mut Stage) -> Result<[u64; 2], Trouble> {
    let plain = stage.plain.rest(PATIENCE).await?;
    let log = match &mut stage.log {
        Some(log) => Some(log.rest(PATIENCE).await?),
        None => None,
    };
    let has = |witness: &std::sync::Arc<super::listener::Listener>| {
        witness.has(PLAIN..PLAIN + 1, plain) && log.is_none_or(|log| witness.has(LOG..LOG + 1, log))
    };
    // What does not come is lost, and is counted so.
    until(PATIENCE / 3, GLANCE, || stage.witnesses.iter().all(has)).await;
    Ok([plain, log.unwrap_or(0)])
}

/// Closes the books.
async fn close(
    stage: &mut Stage,
    start: &Start,
    last: [u64; 2],
    outcome: &mut Outcome,
) -> Result<(), Trouble> {
    for (witness, before) in stage.witnesses.iter().zip(&start.counts) {
        for (channel, name) in [(PLAIN, "plain"), (LOG, "log")].into_iter().take(witness.channels.len()) {
            witness.close(channel, last[channel]);
            let count = witness.count(channel).since(before[channel]);
            let tally = Tally::of(count, last[channel] - start.published[channel]);
            outcome.total = outcome.total.plus(tally);
            outcome.accounts.push(Account { client: witness.transport.as_str(), channel: name, tally });
        }
    }
    if stage.crowd.channels() > 0 {
        let redis = stage.redis();
        let count = stage.crowd.hear(&redis, PATIENCE).await?;
        outcome.crowd = Some(Tally::of(count, stage.crowd.channels() as u64));
    }
    Ok(())
}
