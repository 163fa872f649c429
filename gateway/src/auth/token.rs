//! Detects tokens in requests, and logs the rejection of clients that send one. Tokens are never stored or parsed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The minimum time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Schemes without a token: browsers and proxies add them, and `apikey` is for the API.
const OTHER_SCHEMES: [&str; 5] = ["basic", "digest", "negotiate", "ntlm", "apikey"];

/// Query parameters that carry a token.
const QUERY_PARAMETERS: [&str; 5] = ["token", "access_token", "ticket", "jwt", "authorization"];

/// Whether the value of an `Authorization` header is a token (RFC 9110, section 11.4: a scheme, then white space).
pub fn is_token(authorization: &[u8]) -> bool {
    let scheme = authorization.split(u8::is_ascii_whitespace).find(|part| !part.is_empty());
    scheme.is_some_and(|scheme| {
        !OTHER_SCHEMES.iter().any(|other| scheme.eq_ignore_ascii_case(other.as_bytes()))
    })
}

/// Whether a query contains a token.
pub fn is_in_query(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| QUERY_PARAMETERS.contains(&key.as_ref()))
}

/// Logs that a client was rejected because of a token, at most once per [`LOG_INTERVAL`], with the number of rejections
/// since the last line. It never waits.
pub fn log_rejected(location: &'static str) {
    static REJECTED: AtomicU64 = AtomicU64::new(0);
    static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    REJECTED.fetch_add(1, Ordering::Relaxed);
    let Ok(mut logged) = LOGGED.try_lock() else { return };
    if logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
        return;
    }
    *logged = Some(Instant::now());
    tracing::warn!(
        location,
        rejected = REJECTED.swap(0, Ordering::Relaxed),
        "client rejected: it presented a token, but no authentication is configured; connect without a token"
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_input_is_classified(value in prop::collection::vec(any::<u8>(), 0..40), query in "\\PC{0,40}") {
            let _ = (is_token(&value), is_in_query(&query));
        }

        #[test]
        fn a_scheme_is_compared_without_case(scheme in prop::sample::select(OTHER_SCHEMES.to_vec()), upper: bool) {
            let scheme = if upper { scheme.to_uppercase() } else { scheme.to_owned() };
            let value = format!("{scheme} abc");
            prop_assert!(!is_token(value.as_bytes()));
        }
    }
}
