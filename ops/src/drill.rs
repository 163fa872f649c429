//! Failure drills: inject faults into Redis, and verify that the gateway detects and reports each fault, recovers, and
//! loses no message silently.
//!
//! Owns the order of the faults and the assertions. Runs outside the gateway: as its client, as a publisher to Redis,
//! and as the network between both. Must never leave behind a process, a directory or a changed Redis; must never break
//! what it did not start unless permitted.
//!
//! - `fault`: the faults, their requirements and their assertions.
//! - `environment`: what a fault requires; `gateway_process`, `server`: child processes; `child`, `directory`:
//!   processes and their directories; `undo`: changes to be undone.
//! - `backend`: a Redis connection; `proxy`: the network before Redis; `http`: requests to the gateway.
//! - `publisher`: sends; `subscriber`, `verifying_clients`, `background_load`: receive.
//! - `health_monitor`, `scrape`: health and metrics of the gateway.
//! - `report`: the results.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use earshot_client::Tasks;
use earshot_redis_link::ConnectConfig;

mod backend;
mod background_load;
mod child;
mod directory;
mod environment;
mod fault;
mod gateway_process;
mod health_monitor;
mod http;
mod proxy;
mod publisher;
mod report;
mod scrape;
mod server;
mod subscriber;
mod undo;
mod verifying_clients;

pub use fault::Fault;
pub use report::{Account, Check, DrillReport, DrillTotals, Outcome, RecoveryOutcome, Verdict};

use self::environment::DrillEnvironment;
use self::undo::Undo;

/// Interval between checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Options of a drill.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is tested.
    pub target: DrillTarget,
    /// The faults, in order.
    pub faults: Vec<Fault>,
    /// Duration of the long faults: outage, stop, half-open.
    pub outage: Duration,
    /// Number of channels subscribed to as background load.
    pub channels: usize,
}

/// The gateway and Redis to test.
#[derive(Clone, Debug)]
pub enum DrillTarget {
    /// Child processes, which end with the drill.
    Own {
        /// `redis-server`: a path, or a name in PATH.
        redis_server: PathBuf,
        /// Keep the directory with the configurations and logs of the child processes.
        keep: bool,
    },
    /// A gateway and a Redis that the drill did not start.
    External(Box<External>),
}

/// A gateway and a Redis that the drill did not start.
#[derive(Clone, Debug)]
pub struct External {
    /// Address of the gateway, `host:port`, without TLS.
    pub gateway: String,
    /// Key of its HTTP API, if it has one.
    pub api_key: Option<String>,
    /// The Redis of its `pubsub` channels, with a user that may change users and settings.
    pub redis: ConnectConfig,
    /// Address on which the drill listens in place of that Redis, if the gateway connects through the drill.
    pub proxy: Option<String>,
    /// A `pubsub` channel on which no other client publishes.
    pub channel: String,
    /// A `stream` channel on which no other client publishes, if there is one.
    pub stream_channel: Option<String>,
}

/// Runs the drill, or stops when `interrupted` resolves. Undoes all changes in both cases. Reports progress to
/// `progress`.
///
/// # Errors
/// Returns why the drill could not start or was interrupted, and which changes could not be undone.
pub async fn run(
    settings: &Settings,
    progress: &(dyn Fn(&str) + Sync),
    interrupted: impl Future<Output = ()>,
) -> Result<DrillReport, String> {
    let (tasks, undo) = (Tasks::default(), Undo::default());
    let outcome = tokio::select! {
        outcome = Box::pin(all(settings, progress, &tasks, &undo)) => outcome,
        () = interrupted => Err("interrupted".to_owned()),
    };
    if matches!(settings.target, DrillTarget::Own { .. }) {
        undo.clear();
    }
    let undone = undo.run_all_in_time().await;
    tasks.stop().await;
    match (outcome, undone) {
        (outcome, Ok(())) => outcome,
        (_, Err(error)) => Err(format!(
            "cannot undo a change in Redis: {error}; check its ACL and client-output-buffer-limit"
        )),
    }
}

async fn all(
    settings: &Settings,
    progress: &(dyn Fn(&str) + Sync),
    tasks: &Tasks,
    undo: &Undo,
) -> Result<DrillReport, String> {
    progress("preparing");
    let mut environment = Box::pin(DrillEnvironment::build(settings, tasks, undo)).await?;
    let mut report = DrillReport {
        redis: environment.redis_location(),
        gateway: environment.gateway_location(),
        channels: settings.channels,
        outcomes: Vec::new(),
    };
    let baseline = Box::pin(fault::run(Fault::Baseline, &mut environment)).await;
    let is_working = baseline.verdict == Verdict::Passed;
    progress(baseline.to_string().trim_end());
    report.outcomes.push(baseline);
    // Without a passed baseline the results of faults mean nothing.
    for fault in settings.faults.iter().copied().filter(|_| is_working) {
        progress(&format!("{} …", fault.name()));
        let outcome = Box::pin(fault::run(fault, &mut environment)).await;
        progress(outcome.to_string().trim_end());
        report.outcomes.push(outcome);
    }
    Ok(report)
}

/// Waits until `condition` is true, at most `limit`. Returns whether it became true.
async fn until(limit: Duration, interval: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(interval).await;
    }
}
