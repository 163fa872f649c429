//! Connections and requests, as a browser makes them.
//!
//! Owns the choice of HTTP version, which is the server's, and the bound of each exchange. Must never unpack what comes
//! back: whether it was compressed is what is asked.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Request, Version, header};
use bytes::Bytes;
use futures::StreamExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::super::network::open;
use super::super::report::Finding;
use super::super::tls::{self, Trust};
use super::Target;
use crate::drain::Drain;

/// What browsers say that they can unpack.
const ENCODINGS: &str = "gzip, deflate, br, zstd";
/// Bytes of an answer that are looked at.
const BODY_MOST: usize = 64 * 1024;

/// A connection, with or without TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The way to a gateway.
pub(super) struct Way {
    address: SocketAddr,
    trust: Option<Trust>,
    authority: String,
    prefix: String,
    drain: Drain,
    /// The longest that one exchange may take.
    pub(super) limit: Duration,
}

/// The head of an answer, with its body to come.
pub(super) struct Answer {
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: BodyDataStream,
    /// From the request to the head.
    pub(super) took: Duration,
}

impl Way {
    pub(super) fn new(
        target: &Target,
        address: SocketAddr,
        drain: Drain,
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
        Ok(Self { address, trust, authority, prefix, drain, limit })
    }

    /// What is to be said about TLS, where it is spoken.
    pub(super) async fn inspect_tls(&self) -> Vec<Finding> {
        let Some(trust) = &self.trust else { return Vec::new() };
        match Box::pin(tls::inspect(self.address, trust, self.limit)).await {
            Ok(secured) => secured.findings,
            Err(insecure) => vec![insecure.finding],
        }
    }

    /// Whether TLS is spoken.
    pub(super) fn is_secure(&self) -> bool {
        self.trust.is_some()
    }

    /// Asks for a path below the prefix, with these headers besides a browser's own.
    pub(super) async fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let exchange = Box::pin(self.exchange(path, headers));
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.limit)),
        }
    }

    async fn exchange(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        let (wire, is_http2) = self.open(&[]).await?;
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
        let request = request.body(Body::empty()).map_err(io::Error::other)?;
        let began = Instant::now();
        let response = self.send(wire, is_http2, request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        Ok(Answer {
            version: head.version,
            status: head.status.as_u16(),
            headers: head.headers,
            body: Body::new(body).into_data_stream(),
            took: began.elapsed(),
        })
    }

    async fn send(
        &self,
        wire: Box<dyn Wire>,
        is_http2: bool,
        request: Request<Body>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        let wire = TokioIo::new(wire);
        if is_http2 {
            let (mut sender, connection) = http2::handshake(Tasks(self.drain.clone()), wire).await?;
            self.drive(connection);
            return sender.send_request(request).await;
        }
        let (mut sender, connection) = http1::handshake(wire).await?;
        self.drive(connection);
        sender.send_request(request).await
    }

    /// Lets a connection live until the look is over.
    fn drive<T>(&self, connection: impl Future<Output = T> + Send + 'static) {
        let drain = self.drain.clone();
        self.drain.spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = drain.stopped() => {}
            }
        });
    }

    /// A connection; whether HTTP/2 is spoken on it. `only`: these protocols in the place of a browser's.
    pub(super) async fn open(&self, only: &[&[u8]]) -> io::Result<(Box<dyn Wire>, bool)> {
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

    /// The address of a WebSocket.
    pub(super) fn socket_url(&self, path: &str) -> String {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }
}

impl Answer {
    /// The value of a header, if it is there and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// More of the body; `None` at its end.
    pub(super) async fn more(&mut self) -> Option<Result<Bytes, String>> {
        let more = self.body.next().await?;
        Some(more.map_err(|error| error.to_string()))
    }

    /// The whole body, of an answer that ends.
    pub(super) async fn text(mut self, limit: Duration) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while let Some(Ok(more)) = self.more().await {
                bytes.extend_from_slice(&more);
                if bytes.len() > BODY_MOST {
                    break;
                }
            }
        };
        // What came in time is enough.
        let _ = tokio::time::timeout(limit, read).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Starts what an HTTP/2 connection needs beside it.
#[derive(Clone)]
struct Tasks(Drain);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let drain = self.0.clone();
        self.0.spawn(async move {
            tokio::select! {
                _ = task => {}
                () = drain.stopped() => {}
            }
        });
    }
}
