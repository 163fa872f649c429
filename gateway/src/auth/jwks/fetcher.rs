//! Reads a key set over HTTP. The only I/O of this module.
//!
//! Must never follow a redirect, send credentials, or read more than [`BODY_BYTES_MAX`].

use std::fmt;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::JwksError;
use super::url::JwksUrl;

/// Time limit of a whole read: name lookup, connection, response.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for connecting to one of the addresses of the host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a key set.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of the head of a response; hyper accepts no smaller one than 8 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;

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
    url: JwksUrl,
    tls: Arc<rustls::ClientConfig>,
}

impl HttpKeySetFetcher {
    /// Reads from this URL, with this TLS configuration. It should offer no ALPN protocol besides `http/1.1`.
    pub fn new(url: JwksUrl, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { url, tls }
    }

    async fn exchange(&self) -> Result<FetchedKeySet, JwksError> {
        let stream = self.connect().await?;
        if !self.url.is_tls() {
            return self.request(stream).await;
        }
        let name = ServerName::try_from(self.url.host().to_owned())
            .map_err(|error| self.connect_error(&error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        self.request(stream.map_err(|error| self.connect_error(&error.to_string()))?).await
    }

    async fn connect(&self) -> Result<TcpStream, JwksError> {
        let addresses = tokio::net::lookup_host((self.url.host(), self.url.port())).await;
        let mut last = io::Error::other("the name has no address");
        for address in addresses.map_err(|error| self.connect_error(&error.to_string()))? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(self.connect_error(&last.to_string()))
    }

    async fn request<S>(&self, stream: S) -> Result<FetchedKeySet, JwksError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let invalid = |error: hyper::Error| JwksError::Response(error.to_string());
        let request = Request::get(self.url.path_and_query())
            .header(header::HOST, self.url.authority())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| JwksError::Response(error.to_string()))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(invalid)?;
        let exchange = async { read(sender.send_request(request).await.map_err(invalid)?).await };
        // The connection may end before the response has been read from its buffer.
        let drive = connection.then(|_| pending::<()>());
        tokio::select! {
            result = exchange => result,
            () = drive => Err(JwksError::Response("the connection ended".to_owned())),
        }
    }

    fn connect_error(&self, reason: &str) -> JwksError {
        JwksError::Connect { host: self.url.authority().to_owned(), reason: reason.to_owned() }
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

async fn read(response: Response<Incoming>) -> Result<FetchedKeySet, JwksError> {
    if response.status() != StatusCode::OK {
        return Err(JwksError::Status(response.status().as_u16()));
    }
    let max_age = max_age(response.headers());
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            JwksError::TooLarge { max: BODY_BYTES_MAX }
        } else {
            JwksError::Response(error.to_string())
        }
    })?;
    Ok(FetchedKeySet { body: body.to_bytes(), max_age })
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
