//! The drill: a Redis is taken away in every way that there is, and it is proven that the gateway knows, says so, heals,
//! and loses nothing without a word.
//!
//! Owns what is done, in which order, and what is expected of whom. It stands outside: it is a client of the gateway, a
//! backend of the Redis, and the network between. Must never leave behind a process, a directory, or a Redis that is
//! not as it was; and must never break what it did not start unless it was told to.
//!
//! - `exercise`: what can be done to a Redis, and what must follow.
//! - `stage`: everything that an exercise needs; `own_gateway`, `server`: its own children; `child`, `directory`:
//!   processes and their places; `restore`: what was changed at others.
//! - `backend`: a Redis, spoken to; `proxy`: the network before it; `http`: the gateway, asked.
//! - `publisher`; `listener`, `witnesses`, `crowd`: who publishes and who hears; `ledger`: the arithmetic.
//! - `watch`, `scrape`: what the gateway says of itself.
//! - `report`: what came of it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::drain::Drain;
use crate::instance::InstanceSettings;

mod backend;
mod child;
mod crowd;
mod directory;
mod exercise;
mod http;
mod ledger;
mod listener;
mod own_gateway;
mod proxy;
mod publisher;
mod report;
mod restore;
mod scrape;
mod server;
mod stage;
mod watch;
mod witnesses;

pub use exercise::Exercise;
pub use report::{Account, Check, Outcome, Report, Return, Tally, Verdict};

use self::restore::Restore;
use self::stage::Stage;

/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(2);

/// What is done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it is done to.
    pub place: Place,
    /// The exercises, in order.
    pub exercises: Vec<Exercise>,
    /// How long the long ones last: outage, stop, half-open.
    pub outage: Duration,
    /// Channels that are subscribed to beside those that are accounted for.
    pub channels: usize,
}

/// A gateway and its Redis.
#[derive(Clone, Debug)]
pub enum Place {
    /// Children of the drill's own, which end with it.
    Own {
        /// `redis-server`: a path, or a name in PATH.
        redis_server: PathBuf,
        /// Whether the directory with the configurations and logs of the children is kept.
        keep: bool,
    },
    /// Somebody else's, which may be broken.
    Named(Box<Named>),
}

/// A gateway and a Redis that somebody else has started.
#[derive(Clone, Debug)]
pub struct Named {
    /// Where the gateway listens, as `host:port`, without TLS.
    pub gateway: String,
    /// The key of its HTTP API, if it wants one.
    pub api_key: Option<String>,
    /// The Redis that its `pubsub` channels are on, with a user who may break it.
    pub redis: InstanceSettings,
    /// Where the drill listens in the place of that Redis, if the gateway reaches it through the drill.
    pub proxy: Option<String>,
    /// A `pubsub` channel of the gateway's that nobody else publishes on.
    pub channel: String,
    /// A `stream` channel of the gateway's, if there is one for the drill.
    pub stream_channel: Option<String>,
}

/// Does everything, or stops when `interrupted` resolves; then, too, nothing is left behind. What is being done is told
/// to `tell`.
///
/// # Errors
/// Why it could not begin, or that it was interrupted, and what could not be made as it was.
pub async fn run(
    settings: &Settings,
    tell: &(dyn Fn(&str) + Sync),
    interrupted: impl Future<Output = ()>,
) -> Result<Report, String> {
    let (drain, restore) = (Drain::default(), Restore::default());
    let outcome = tokio::select! {
        outcome = Box::pin(all(settings, tell, &drain, &restore)) => outcome,
        () = interrupted => Err("interrupted".to_owned()),
    };
    if matches!(settings.place, Place::Own { .. }) {
        restore.forget();
    }
    let restored = restore.carry_out_in_time().await;
    drain.stop().await;
    match (outcome, restored) {
        (outcome, Ok(())) => outcome,
        (_, Err(why)) => Err(format!(
            "the Redis is not as it was: {why}; look at its ACL and at client-output-buffer-limit"
        )),
    }
}

async fn all(
    settings: &Settings,
    tell: &(dyn Fn(&str) + Sync),
    drain: &Drain,
    restore: &Restore,
) -> Result<Report, String> {
    tell("preparing");
    let mut stage = Box::pin(Stage::set(settings, drain, restore)).await?;
    let mut report = Report {
        redis: stage.redis_location(),
        gateway: stage.gateway_location(),
        channels: settings.channels,
        outcomes: Vec::new(),
    };
    let steady = Box::pin(exercise::carry_out(Exercise::Steady, &mut stage)).await;
    let hears = steady.verdict == Verdict::Passed;
    tell(steady.to_string().trim_end());
    report.outcomes.push(steady);
    // Without a fault it does not work: what faults would show would be nothing new.
    for exercise in settings.exercises.iter().copied().filter(|_| hears) {
        tell(&format!("{} …", exercise.name()));
        let outcome = Box::pin(exercise::carry_out(exercise, &mut stage)).await;
        tell(outcome.to_string().trim_end());
        report.outcomes.push(outcome);
    }
    Ok(report)
}

/// Waits until something is so, at most `limit`; whether it is.
async fn until(limit: Duration, pace: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(pace).await;
    }
}
