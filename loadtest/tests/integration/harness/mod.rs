//! What the tests are made of: servers, the load test as a process, and patience.

pub(crate) mod loadtest;
pub(crate) mod misbehaving;
pub(crate) mod server;

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take before a test gives up; generous, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` gives `Some`, at most [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(outcome) = probe() {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still waiting after {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}
