//! Test harness: servers, the load test as a process, and waiting with a deadline.

pub(crate) mod faulty_server;
pub(crate) mod loadtest;
pub(crate) mod server;

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// Deadline for any wait; generous, because the machine may be busy.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `probe` returns `Some`. Panics after [`WAIT_TIMEOUT`].
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(outcome) = probe() {
            return outcome;
        }
        assert!(Instant::now() < deadline, "timed out after {WAIT_TIMEOUT:?}: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// First core that this process may run on.
pub(crate) fn first_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    list.split(['-', ',']).next().unwrap().to_owned()
}
