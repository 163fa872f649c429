//! What the tests are made of: processes, clients, and patience. It must never fake an answer.

pub(crate) mod api_publisher;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod cluster_publisher;
pub(crate) mod control_clients;
pub(crate) mod drill;
pub(crate) mod encoding;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod keyspace;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod nginx;
pub(crate) mod outage_subscribers;
pub(crate) mod process;
pub(crate) mod protobuf;
pub(crate) mod proxy;
pub(crate) mod publisher;
pub(crate) mod redis_server;
pub(crate) mod sentinel;
pub(crate) mod sse;
pub(crate) mod subscriber;
pub(crate) mod ws;
pub(crate) mod ws_frames;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use gateway::Gateway;
pub(crate) use redis_server::Redis;
pub(crate) use sse::SseClient;
pub(crate) use ws::WsClient;

/// How long anything may take before a test gives up; generous, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Held by a test that loads the machine: such tests run one at a time.
static HEAVY: Mutex<()> = Mutex::const_new(());

/// Waits for the other heavy tests to end.
pub(crate) async fn heavy() -> MutexGuard<'static, ()> {
    HEAVY.lock().await
}

/// The outcome of `work`, which must come within [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("still waiting after {PATIENCE:?}: {what}"),
    }
}

/// Waits until `probe` gives `Some`, at most [`PATIENCE`].
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(outcome) = probe().await {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still waiting after {PATIENCE:?}: {what}");
        sleep(GLANCE).await;
    }
}
