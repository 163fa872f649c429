//! Reads a key set over HTTP. The only part of this module that does I/O.
//!
//! Must never follow a redirect, send credentials, or read more than [`BODY_BYTES_MAX`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};

use super::error::JwksError;
use crate::http_client::{HttpConnection, HttpUrl};

/// Time limit of a whole read: name lookup, connection, response.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a key set.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// A key set as its server sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedKeySet {
    /// The body.
    pub body: Bytes,
    /// How long it may be cached (`Cache-Control: max-age`).
    pub max_age: Option<Duration>,
}

/// Reads a key set.
pub trait FetchKeySet: fmt::Debug + Send + Sync {
    /// Reads it once. The caller limits the time.
    fn fetch(&self) -> BoxFuture<'_, Result<FetchedKeySet, JwksError>>;
}

/// Reads a key set from its URL.
pub struct HttpKeySetFetcher {
    url: HttpUrl,
    tls: Arc<rustls::ClientConfig>,
}

impl HttpKeySetFetcher {
    /// Reads from this URL, with this TLS configuration. It should offer no ALPN protocol other than `http/1.1`.
    pub fn new(url: HttpUrl, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { url, tls }
    }

    async fn exchange(&self) -> Result<FetchedKeySet, JwksError> {
        let mut connection = HttpConnection::open(&self.url, &self.tls).await?;
        let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, accept),
            (header::CONNECTION, HeaderValue::from_static("close")),
        ]);
        let response =
            connection.exchange(Method::GET, &self.url, headers, Bytes::new(), BODY_BYTES_MAX).await?;
        if response.status != StatusCode::OK {
            return Err(JwksError::Status(response.status.as_u16()));
        }
        Ok(FetchedKeySet { body: response.body, max_age: max_age(&response.headers) })
    }
}

impl FetchKeySet for HttpKeySetFetcher {
    fn fetch(&self) -> BoxFuture<'_, Result<FetchedKeySet, JwksError>> {
        self.exchange().boxed()
    }
}

impl fmt::Debug for HttpKeySetFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpKeySetFetcher").field(&self.url).finish()
    }
}

/// The `max-age` of `Cache-Control`. `no-cache` and `no-store` count as 0.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split(',')).filter_map(|directive| {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.strip_prefix("max-age=") {
            Some(seconds) => seconds.trim_matches('"').parse().ok(),
            None => matches!(directive.as_str(), "no-cache" | "no-store").then_some(0),
        }
    });
    seconds.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cache_control() {
        for (value, seconds) in [
            ("public, max-age=300, must-revalidate", Some(300)),
            ("Max-Age=5", Some(5)),
            ("no-store, max-age=300", Some(0)),
            ("private", None),
            ("max-age=x", None),
            ("s-maxage=7", None),
        ] {
            let headers = [(header::CACHE_CONTROL, value.parse().unwrap())].into_iter().collect();
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
