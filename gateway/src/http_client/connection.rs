//! A connection to an HTTP server.

use std::fmt;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::HttpError;
use super::url::HttpUrl;

/// Time limit for connecting to one of the addresses of the host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of the head of a response; hyper accepts no smaller one than 8 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// A response with its whole body.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A connection to a server. It makes progress only during [`HttpConnection::exchange`].
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    /// Reads and writes the socket; `None` once the connection has ended.
    driver: Option<BoxFuture<'static, ()>>,
}

impl HttpConnection {
    /// Connects to the server of a URL. The TLS configuration should offer no ALPN protocol other than `http/1.1`.
    ///
    /// # Errors
    /// [`HttpError::Connect`].
    pub async fn open(url: &HttpUrl, tls: &Arc<rustls::ClientConfig>) -> Result<Self, HttpError> {
        let failed = |reason: String| HttpError::Connect { host: url.authority().to_owned(), reason };
        let stream = connect(url).await.map_err(|error| failed(error.to_string()))?;
        let opened = if url.is_tls() {
            let name =
                ServerName::try_from(url.host().to_owned()).map_err(|error| failed(error.to_string()))?;
            let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
            Self::start(stream.map_err(|error| failed(error.to_string()))?).await
        } else {
            Self::start(stream).await
        };
        opened.map_err(|error| failed(error.to_string()))
    }

    async fn start<S>(stream: S) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http1::Builder::new();
        let (sender, connection) =
            builder.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(connection.map(|_| ()).boxed()) })
    }

    /// Whether another request can be sent. Notices that the server has closed the connection.
    pub fn is_usable(&mut self) -> bool {
        if let Some(driver) = &mut self.driver
            && driver.now_or_never().is_some()
        {
            self.driver = None;
        }
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and reads the response, with at most `body_max` bytes of body.
    ///
    /// # Errors
    /// [`HttpError::Response`], [`HttpError::TooLarge`].
    pub async fn exchange(
        &mut self,
        method: Method,
        url: &HttpUrl,
        headers: HeaderMap,
        body: Bytes,
        body_max: usize,
    ) -> Result<HttpResponse, HttpError> {
        let invalid = |error: hyper::Error| HttpError::Response(error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(url.path_and_query())
            .header(header::HOST, url.authority())
            .body(Full::new(body))
            .map_err(|error| HttpError::Response(error.to_string()))?;
        request.headers_mut().extend(headers);
        let Self { sender, driver } = self;
        let exchange = async { read(sender.send_request(request).await.map_err(invalid)?, body_max).await };
        // The connection may end before the response has been read from its buffer.
        let drive = async {
            if let Some(running) = driver.as_mut() {
                running.await;
                *driver = None;
            }
            pending::<()>().await;
        };
        tokio::select! {
            result = exchange => result,
            () = drive => Err(HttpError::Response("the connection ended".to_owned())),
        }
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection").finish_non_exhaustive()
    }
}

async fn connect(url: &HttpUrl) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in tokio::net::lookup_host((url.host(), url.port())).await? {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is one small write, and its response is awaited.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn read(response: Response<Incoming>, body_max: usize) -> Result<HttpResponse, HttpError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, body_max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            HttpError::TooLarge { max: body_max }
        } else {
            HttpError::Response(error.to_string())
        }
    })?;
    Ok(HttpResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
}
