//! Recognises a token in an `Authorization` value, and logs clients that are rejected because of one.
//!
//! Tokens are neither kept nor logged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The minimum time between two log lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Schemes that carry no login token: what browsers and proxies add by themselves, and the API key.
const OTHER_SCHEMES: [&str; 5] = ["basic", "digest", "negotiate", "ntlm", "apikey"];

/// Whether the value of an `Authorization` header is a token (RFC 9110, section 11.4: a scheme, then white space).
pub fn is_token(authorization: &[u8]) -> bool {
    let scheme = authorization.split(u8::is_ascii_whitespace).find(|part| !part.is_empty());
    scheme.is_some_and(|scheme| {
        !OTHER_SCHEMES.iter().any(|other| scheme.eq_ignore_ascii_case(other.as_bytes()))
    })
}

/// Logs that a client with a token was rejected, at most once in ten seconds, with the number since the last line.
/// Does not block.
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
