//! Polls `/ready` and `/health` of the gateway.
//!
//! Owns the observations since the last fault, and the time of its detection. Must never evaluate it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::http::{Client, HttpTarget};

/// Interval between samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);
/// Time limit of a request; generous, since the gateway responds even while all shards are busy.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One sample.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthSample {
    /// Both endpoints responded.
    pub(super) responds: bool,
    /// `/ready` is 200.
    pub(super) ready: bool,
    pub(super) status: String,
    pub(super) cache: String,
    /// Number of connections in `/health`.
    pub(super) links: usize,
    reconnects: u64,
}

impl HealthSample {
    /// Whether the gateway is healthy.
    pub(super) fn is_healthy(&self) -> bool {
        self.responds && self.ready && self.status == "ok" && self.cache == "redis"
    }

    /// Description for messages.
    pub(super) fn description(&self) -> String {
        match self {
            Self { responds: false, .. } => "the gateway does not respond".to_owned(),
            Self { ready, status, cache, .. } => {
                format!("/ready {}, status {status}, cache {cache}", if *ready { 200 } else { 503 })
            }
        }
    }
}

/// What was observed since the last fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    /// When the gateway first reported a problem, or had reconnected.
    pub(super) detected: Option<Instant>,
    /// `/ready` was 503.
    pub(super) unready: bool,
    /// `/health` was `degraded`, with cache `memory`.
    pub(super) degraded: bool,
    /// Reported causes.
    pub(super) causes: BTreeSet<String>,
    /// Samples without a response.
    pub(super) unanswered: u64,
}

#[derive(Debug, Default)]
struct MonitorState {
    summary: Summary,
    last: HealthSample,
    /// Before the fault.
    reconnects: u64,
}

/// Polls until the tasks are stopped.
#[derive(Clone, Debug)]
pub(super) struct HealthMonitor(Arc<Mutex<MonitorState>>);

impl HealthMonitor {
    pub(super) fn start(target: &HttpTarget) -> Self {
        let monitor = Self(Arc::default());
        let (sampling, tasks) =
            (monitor.clone().sample_loop(Client::new(target.clone(), REQUEST_TIMEOUT)), target.tasks.clone());
        target.tasks.spawn(async move {
            tokio::select! {
                () = sampling => {}
                () = tasks.stopped() => {}
            }
        });
        monitor
    }

    /// Starts a new summary, before a fault.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        (state.summary, state.reconnects) = (Summary::default(), state.last.reconnects);
    }

    pub(super) fn summary(&self) -> Summary {
        self.state().summary.clone()
    }

    pub(super) fn last(&self) -> HealthSample {
        self.state().last.clone()
    }

    async fn sample_loop(self, mut client: Client) {
        loop {
            let ready = client.fetch("/ready").await;
            let health = client.fetch("/health").await;
            self.record(ready.ok().map(|(status, _)| status), health.ok());
            sleep(SAMPLE_INTERVAL).await;
        }
    }

    fn record(&self, ready: Option<u16>, health: Option<(u16, bytes::Bytes)>) {
        let (Some(ready), Some((200, health))) = (ready, health) else { return self.record_unanswered() };
        let health: Value = serde_json::from_slice(&health).unwrap_or_default();
        let empty = Vec::new();
        let links = health["links"].as_array().unwrap_or(&empty);
        let text = |name: &str| health[name].as_str().unwrap_or_default().to_owned();
        let sample = HealthSample {
            responds: true,
            ready: ready == 200,
            status: text("status"),
            cache: text("cache"),
            links: links.len(),
            reconnects: links.iter().filter_map(|link| link["reconnects"].as_u64()).sum(),
        };
        let mut state = self.state();
        let reconnected = sample.reconnects > state.reconnects;
        let MonitorState { summary, .. } = &mut *state;
        summary.unready |= !sample.ready;
        summary.degraded |= sample.status == "degraded" && sample.cache == "memory";
        summary.causes.extend(links.iter().filter_map(|link| link["cause"].as_str()).map(ToOwned::to_owned));
        if summary.detected.is_none() && (!sample.ready || reconnected) {
            summary.detected = Some(Instant::now());
        }
        state.last = sample;
    }

    fn record_unanswered(&self) {
        let mut state = self.state();
        state.summary.unanswered += 1;
        state.summary.detected.get_or_insert_with(Instant::now);
        state.last = HealthSample::default();
    }

    fn state(&self) -> MutexGuard<'_, MonitorState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
