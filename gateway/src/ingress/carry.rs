//! Connections that hyper carries: everything that is not a stream on a socket of its own.
//!
//! Owns the bytes read before hyper came in, the choice between HTTP/1.1 and HTTP/2, and how long such connections may
//! last: while they are idle, beyond the limit, and when the gateway drains. Must never know a route.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::activity::{Activity, EndLimits, WatchedBody};
use super::origin::Hosts;
use crate::admission::Permit;
use crate::drain::Drain;
use crate::metrics::{HttpTimeout, Metrics};

/// How long a rejected client may take to read its response.
const FAREWELL: Duration = Duration::from_secs(2);

/// Unsent bytes that hyper may hold for one HTTP/2 stream.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The bounds of connections that hyper carries.
#[derive(Clone, Copy, Debug)]
pub struct CarryLimits {
    /// How long nothing may happen on one (`http.idle_timeout`).
    pub idle_timeout: Duration,
    /// How often an HTTP/2 client is pinged (`http.ping_interval`).
    pub ping_interval: Duration,
    /// The time for its answer (`http.ping_timeout`).
    pub ping_timeout: Duration,
    /// Streams at a time on one HTTP/2 connection (`http.max_concurrent_streams`).
    pub max_concurrent_streams: u32,
    /// How long one beyond the limit of connections may last (`limits.reserved_timeout`).
    pub reserved_timeout: Duration,
    /// How long one may last once the gateway drains.
    pub end: EndLimits,
    /// Bytes of a request's head (`limits.head_bytes`).
    pub head_bytes: usize,
}

/// Where a connection comes from; in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// It came by a listener on loopback.
    pub by_loopback: bool,
}

/// The permit of the connection that a request came on, in its extensions. A stream that takes the connection over takes
/// the permit.
#[derive(Clone, Debug)]
pub struct HeldPermit(Arc<Mutex<Option<Permit>>>);

impl HeldPermit {
    fn new(permit: Permit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    /// The permit, unless it was taken before.
    pub fn take(&self) -> Option<Permit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves HTTP on sockets whose first bytes are read already.
#[derive(Debug)]
pub struct Carrier {
    router: Router,
    hosts: Hosts,
    limits: CarryLimits,
    metrics: Arc<Metrics>,
    drain: Drain,
}

impl Carrier {
    pub(super) fn new(
        router: Router,
        hosts: Hosts,
        limits: CarryLimits,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Self {
        Self { router, hosts, limits, metrics, drain }
    }

    /// Serves one connection to its end.
    pub(super) async fn carry(&self, socket: TcpStream, peer: Peer, read: Bytes, permit: Permit) {
        let _counted = self.metrics.control.http_connections.enter();
        let activity = Activity::new();
        let is_reserved = permit.is_reserved();
        let ended = tokio::select! {
            () = self.serve(socket, peer, read, permit, &activity) => return,
            // Its client was asked to close it, and has not; `is_over` has counted it.
            () = async {
                activity.idle_for(self.limits.idle_timeout).await;
                activity.must_end(self.limits.end).await;
            } => return,
            () = tokio::time::sleep(self.limits.reserved_timeout), if is_reserved => HttpTimeout::Reserved,
            () = async {
                self.drain.draining().await;
                activity.must_end(self.limits.end).await;
            } => HttpTimeout::Shutdown,
        };
        // Its streams end with it: their bodies are dropped.
        self.count(ended);
    }

    fn count(&self, timeout: HttpTimeout) {
        self.metrics.control.http_timeouts[timeout as usize].add(1);
    }

    /// Resolves when no more requests are to be taken on a connection.
    async fn is_over(&self, activity: &Activity) {
        tokio::select! {
            () = self.drain.draining() => {}
            () = activity.idle_for(self.limits.idle_timeout) => self.count(HttpTimeout::Idle),
        }
    }

    async fn serve(
        &self,
        socket: TcpStream,
        peer: Peer,
        read: Bytes,
        permit: Permit,
        activity: &Arc<Activity>,
    ) {
        let limits = &self.limits;
        let is_reserved = permit.is_reserved();
        let is_http2 = read.starts_with(b"PRI * HTTP/2.0");
        let permit = HeldPermit::new(permit);
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            if !is_http2 {
                request.extensions_mut().insert(permit.clone());
            }
            name_host(&mut request);
            let refusal = self.refuse_host(&request, peer);
            answer_by(self.router.clone(), request, refusal, Arc::clone(activity))
        });
        // On HTTP/2 pings are written, too, which is no progress.
        let writes = (!is_http2).then(|| Arc::clone(activity));
        let io = TokioIo::new(Rewound { read, socket, writes });
        if is_http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(Spawner(self.drain.clone()));
            builder.timer(TokioTimer::new()).max_send_buf_size(HTTP2_SEND_BUFFER_BYTES);
            builder.max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
            builder.keep_alive_interval(limits.ping_interval).keep_alive_timeout(limits.ping_timeout);
            builder.max_concurrent_streams(limits.max_concurrent_streams);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.is_over(activity) => connection.as_mut().graceful_shutdown(),
            }
            // Its streams end with their shards.
            let _ = connection.await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            // A head that does not come is no progress: `Activity` ends its connection.
            builder.header_read_timeout(None);
            builder.max_buf_size(limits.head_bytes.max(8192));
            builder.keep_alive(!is_reserved);
            // A client that closes its side after the request still reads the response. A closed connection shows at
            // the next write.
            builder.half_close(true);
            let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.is_over(activity) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }

    /// The refusal of a request for a host that is not served here.
    fn refuse_host(&self, request: &Request<Incoming>, peer: Peer) -> Option<Response<Body>> {
        let host = request.headers().get(header::HOST);
        (!self.hosts.admit(host, peer.by_loopback)).then(|| misdirected(host))
    }
}

async fn answer_by(
    mut router: Router,
    request: Request<Incoming>,
    refusal: Option<Response<Body>>,
    activity: Arc<Activity>,
) -> Result<Response<WatchedBody>, Infallible> {
    let answer = async {
        match refusal {
            Some(refusal) => refusal,
            None => router.call(request).await.unwrap_or_else(|never| match never {}),
        }
    };
    Ok(activity.watch(answer).await)
}

/// HTTP/2 names the host in `:authority`. A target in absolute form counts more than `Host` (RFC 9112, 3.2.2).
fn name_host(request: &mut Request<Incoming>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

fn misdirected(host: Option<&HeaderValue>) -> Response<Body> {
    const CHARACTERS_MAX: usize = 100;
    let host = host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).unwrap_or_default();
    let host: String = host.escape_debug().take(CHARACTERS_MAX).collect();
    tracing::debug!(host, "request refused: its host is not listed");
    let text = format!(
        "host \"{host}\" is not served here: list it in `hosts`, or the origin of its pages in `allowed_origins` (\"*\" \
         names no host)\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response
}

/// Answers a request that is not worth hyper's time, and closes the connection.
pub async fn answer(mut socket: TcpStream, status: u16, reason: &str) {
    let phrase = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let answer = format!(
        "HTTP/1.1 {status} {}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{reason}\n",
        phrase.unwrap_or_default(),
        reason.len() + 1,
    );
    let farewell = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        // Bytes left unread would turn the close into a reset, and the answer could be lost.
        tokio::io::copy(&mut socket.take(64 * 1024), &mut tokio::io::sink()).await
    };
    // A client that does not read its rejection is disconnected.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// A socket in front of which the bytes read so far stand again.
#[derive(Debug)]
pub struct Rewound {
    read: Bytes,
    socket: TcpStream,
    /// Where bytes that the client takes count as progress.
    writes: Option<Arc<Activity>>,
}

impl Rewound {
    /// The socket, and what was not read again.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.socket, self.read)
    }

    fn wrote(&self, written: io::Result<usize>) -> io::Result<usize> {
        if let Some(activity) = self.writes.as_ref().filter(|_| written.is_ok()) {
            activity.progressed();
        }
        written
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        Poll::Ready(self.wrote(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices));
        Poll::Ready(self.wrote(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Starts the streams of an HTTP/2 connection as tasks that are waited for.
#[derive(Clone, Debug)]
struct Spawner(Drain);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn_work(task);
    }
}
