//! When the login of a connection expires.

use std::time::Duration;

use crate::auth::{Identity, UnixSeconds, unix_now};

/// How long a client may take to present a new token after its login has expired.
const GRACE: Duration = Duration::from_secs(25);

/// Seconds until a login expires, at least 1; `None` if it does not expire.
pub(super) fn time_to_live(identity: &Identity) -> Option<u32> {
    let left = time_left(identity.expires_at()?).as_secs().max(1);
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

/// The time until `expires_at`.
pub(super) fn time_left(expires_at: UnixSeconds) -> Duration {
    Duration::from_secs(expires_at.saturating_sub(unix_now()))
}

/// The time until a WebSocket ends, in which its client can present another token.
pub(super) fn time_left_with_grace(expires_at: UnixSeconds) -> Duration {
    time_left(expires_at.saturating_add(GRACE.as_secs()))
}

/// Whether a login has ended or expired, so that nothing new may begin with it.
pub(super) fn is_over(identity: &Identity) -> bool {
    identity.has_ended() || identity.expires_at().is_some_and(|at| time_left_with_grace(at).is_zero())
}
