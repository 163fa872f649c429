//! The log line of clients that are refused for their token.
//!
//! Owns how often it is written. Must never hold a token.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Logs that a client presented a token and was refused, at most once in ten seconds, with the number since the last
/// line. It never waits.
pub fn log_refused(presented: &'static str) {
    static REFUSED: AtomicU64 = AtomicU64::new(0);
    static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    REFUSED.fetch_add(1, Ordering::Relaxed);
    let Ok(mut logged) = LOGGED.try_lock() else { return };
    if logged.is_some_and(|logged| logged.elapsed() < INTERVAL) {
        return;
    }
    *logged = Some(Instant::now());
    tracing::warn!(
        presented,
        refused = REFUSED.swap(0, Ordering::Relaxed),
        "a client presented a token and is refused: no login is configured, so no token can be checked; let the client \
         connect without one"
    );
}
