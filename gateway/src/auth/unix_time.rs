//! Time in tokens, tickets and signed names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970-01-01 00:00 UTC.
pub type UnixSeconds = u64;

/// The time of the system clock.
pub fn unix_now() -> UnixSeconds {
    since_1970().as_secs()
}

/// The time of the system clock in milliseconds since 1970.
pub fn unix_milliseconds() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "tokens refer to the time of other machines, not to a monotonic clock"
)]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}
