//! HTTP connections and requests like those of a browser.
//!
//! Owns the HTTP version, which the server chooses, and the time limit of each exchange. Must never decompress a
//! response: the check is whether it was compressed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use earshot_client::Tasks;
use earshot_client::http::{HttpConnection, HttpResponse, RequestBody};
use hyper::{Request, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::network::open;
use super::super::report::Finding;
use super::super::tls::{self, Trust};
use super::GatewayTarget;

/// Encodings that browsers accept.
const ENCODINGS: &str = "gzip, deflate, br, zstd";
/// Maximum number of body bytes that are read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A connection with or without TLS.
pub(super) trait IoStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> IoStream for T {}

/// Client for one gateway.
pub(super) struct HttpClient {
    address: SocketAddr,
    trust: Option<Trust>,
    authority: String,
    prefix: String,
    tasks: Tasks,
    /// Time limit of one exchange.
    pub(super) limit: Duration,
}

impl HttpClient {
    pub(super) fn new(
        target: &GatewayTarget,
        address: SocketAddr,
        tasks: Tasks,
        limit: Duration,
    ) -> Result<Self, String> {
        let trust = if target.endpoint.tls {
            let mut trust = Trust::new(&target.endpoint.host, &target.tls, "--ca-file")?;
            trust.protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Some(trust)
        } else {
            None
        };
        let (authority, prefix) = (target.authority(), target.prefix.clone());
        Ok(Self { address, trust, authority, prefix, tasks, limit })
    }

    /// Findings about TLS, if it is used.
    pub(super) async fn inspect_tls(&self) -> Vec<Finding> {
        let Some(trust) = &self.trust else { return Vec::new() };
        match Box::pin(tls::inspect(self.address, trust, self.limit)).await {
            Ok(secured) => secured.findings,
            Err(insecure) => vec![insecure.finding],
        }
    }

    /// Whether TLS is used.
    pub(super) fn is_secure(&self) -> bool {
        self.trust.is_some()
    }

    /// Requests a path below the prefix, with additional headers.
    pub(super) async fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Result<HttpResponse, String> {
        let exchange = Box::pin(self.exchange(path, headers));
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no response within {:?}", self.limit)),
        }
    }

    async fn exchange(&self, path: &str, headers: &[(&str, &str)]) -> Result<HttpResponse, String> {
        let (io, is_http2) = self.open(&[]).await.map_err(|error| error.to_string())?;
        let mut request = Request::get(self.uri(path, is_http2)).header(header::ACCEPT, "*/*");
        let own = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        if !is_http2 {
            request = request.header(header::HOST, &self.authority);
        }
        if !own("accept-encoding") {
            request = request.header(header::ACCEPT_ENCODING, ENCODINGS);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(RequestBody::default()).map_err(|error| error.to_string())?;
        HttpConnection::start(io, is_http2, &self.tasks).await?.send(request).await
    }

    /// Opens a connection; returns whether it uses HTTP/2. `only` replaces the browser's ALPN protocols.
    pub(super) async fn open(&self, only: &[&[u8]]) -> io::Result<(Box<dyn IoStream>, bool)> {
        let Some(trust) = &self.trust else {
            return Ok((Box::new(open(self.address, self.limit).await?), false));
        };
        let mut trust = trust.clone();
        if !only.is_empty() {
            trust.protocols = only.iter().map(|name| name.to_vec()).collect();
        }
        let stream = tls::connect(self.address, &trust, self.limit).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_http2))
    }

    fn uri(&self, path: &str, is_whole: bool) -> String {
        let path = format!("{}{path}", self.prefix);
        if is_whole { format!("https://{}{path}", self.authority) } else { path }
    }

    /// URL of a WebSocket.
    pub(super) fn socket_url(&self, path: &str) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }
}

/// The body of a response that ends, as far as it arrives within the limits.
pub(super) async fn body_text(mut response: HttpResponse, limit: Duration) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while let Some(Ok(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > BODY_BYTES_MAX {
                break;
            }
        }
    };
    // A partial body is sufficient.
    let _ = tokio::time::timeout(limit, read).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
