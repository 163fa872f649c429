//! Time in tokens, tickets and signed names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970-01-01 00:00 UTC.
pub type UnixSeconds = u64;

/// The time of the system clock.
#[expect(
    clippy::disallowed_methods,
    reason = "tokens refer to the time of other machines, not to a monotonic clock"
)]
pub fn unix_now() -> UnixSeconds {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
