//! Building blocks of the tests: real processes, clients, and waiting with a deadline. It must never fake a response.

pub(crate) mod api_publisher;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod cluster_publisher;
pub(crate) mod control_clients;
pub(crate) mod drill;
pub(crate) mod encoding;
pub(crate) mod gateway;
pub(crate) mod hook_server;
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
pub(crate) mod token_client;
pub(crate) mod ws;
pub(crate) mod ws_frames;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use gateway::Gateway;
pub(crate) use redis_server::Redis;
pub(crate) use sse::SseClient;
pub(crate) use ws::WsClient;

/// Longest wait before a test fails. Generous, because the machine may be busy.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval at which a condition is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Held by tests that put load on the machine: they run one at a time.
static EXCLUSIVE: Mutex<()> = Mutex::const_new(());

/// Waits until no other exclusive test runs; held until dropped.
pub(crate) async fn exclusive() -> MutexGuard<'static, ()> {
    EXCLUSIVE.lock().await
}

/// Returns the output of `work`. Panics after [`WAIT_TIMEOUT`].
pub(crate) async fn within_timeout<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(WAIT_TIMEOUT, work).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("still waiting after {WAIT_TIMEOUT:?}: {what}"),
    }
}

/// Polls until `probe` returns `Some`. Panics after [`WAIT_TIMEOUT`].
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(outcome) = probe().await {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still waiting after {WAIT_TIMEOUT:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
}
