//! Serves HTTP with hyper on connections that are not passed to a shard.
//!
//! Replays the bytes read before hyper took over, selects HTTP/1.1 or HTTP/2, and enforces the timeouts of such
//! connections: idle, beyond the limit of connections, and during the drain. Routes belong to the router.

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

use super::StreamLogin;
use super::activity::{Activity, DrainTimeouts, TrackedBody};
use crate::admission::Permit;
use crate::auth::origin::HostPolicy;
use crate::drain::Drain;
use crate::metrics::{HttpTimeout, Metrics};

/// How long a client may take to read an error response before the connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Unsent bytes that hyper may hold for one HTTP/2 stream.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The limits of connections that hyper serves.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// How long a connection may be idle (`http.idle_timeout`).
    pub idle_timeout: Duration,
    /// How often an HTTP/2 client is pinged (`http.ping_interval`).
    pub ping_interval: Duration,
    /// The timeout of its reply (`http.ping_timeout`).
    pub ping_timeout: Duration,
    /// Concurrent streams of one HTTP/2 connection (`http.max_concurrent_streams`).
    pub max_concurrent_streams: u32,
    /// The lifetime of a connection beyond the limit (`limits.reserved_timeout`).
    pub reserved_timeout: Duration,
    /// How long a connection may last during the drain.
    pub drain: DrainTimeouts,
    /// The maximum size of a request head (`limits.request_header_bytes`).
    pub request_header_bytes: usize,
}

/// The peer of a connection; an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the peer.
    pub address: SocketAddr,
    /// The listener that accepted the connection is bound to a loopback address.
    pub via_loopback: bool,
}

/// The permit of a connection; an extension of its requests. A stream that takes over the connection takes the permit.
pub type SharedPermit = Shared<Permit>;

/// The login of the first request of a connection, if it was determined before hyper took over. A ticket would be spent
/// if it was presented again.
pub type SharedLogin = Shared<StreamLogin>;

/// A value that one request of a connection takes.
#[derive(Debug)]
pub struct Shared<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(Some(value))))
    }

    /// Takes the value; `None` if it was taken before.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves HTTP on sockets whose first bytes have been read.
#[derive(Debug)]
pub struct HttpServer {
    router: Router,
    hosts: HostPolicy,
    limits: HttpLimits,
    metrics: Arc<Metrics>,
    drain: Drain,
}

impl HttpServer {
    pub(super) fn new(
        router: Router,
        hosts: HostPolicy,
        limits: HttpLimits,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Self {
        Self { router, hosts, limits, metrics, drain }
    }

    /// Serves a connection until it ends; `prefetched` are the bytes read from it before, `login` is the one of its first
    /// request, if that was determined.
    pub(super) async fn serve_connection(
        &self,
        socket: TcpStream,
        peer: Peer,
        prefetched: Bytes,
        permit: Permit,
        login: Option<StreamLogin>,
    ) {
        let _counted = self.metrics.control.http_connections.enter();
        let activity = Activity::new();
        let is_reserved = permit.is_reserved();
        let timeout = tokio::select! {
            () = self.run_hyper(socket, peer, prefetched, permit, login, &activity) => return,
            // The client did not close the connection after the graceful shutdown, which `shutdown_requested` counted.
            () = async {
                activity.idle_for(self.limits.idle_timeout).await;
                activity.drain_expired(self.limits.drain).await;
            } => return,
            () = tokio::time::sleep(self.limits.reserved_timeout), if is_reserved => HttpTimeout::Reserved,
            () = async {
                self.drain.draining().await;
                activity.drain_expired(self.limits.drain).await;
            } => HttpTimeout::Shutdown,
        };
        // Dropping the connection drops the bodies of its streams, which ends them.
        self.count(timeout);
    }

    fn count(&self, timeout: HttpTimeout) {
        self.metrics.control.http_timeouts[timeout as usize].add(1);
    }

    /// Resolves when the connection must not accept further requests.
    async fn shutdown_requested(&self, activity: &Activity) {
        tokio::select! {
            () = self.drain.draining() => {}
            () = activity.idle_for(self.limits.idle_timeout) => self.count(HttpTimeout::Idle),
        }
    }

    async fn run_hyper(
        &self,
        socket: TcpStream,
        peer: Peer,
        prefetched: Bytes,
        permit: Permit,
        login: Option<StreamLogin>,
        activity: &Arc<Activity>,
    ) {
        let limits = &self.limits;
        let is_reserved = permit.is_reserved();
        let is_http2 = prefetched.starts_with(b"PRI * HTTP/2.0");
        let (permit, login) = (SharedPermit::new(permit), login.map(SharedLogin::new));
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            if let Some(login) = &login {
                request.extensions_mut().insert(login.clone());
            }
            if !is_http2 {
                request.extensions_mut().insert(permit.clone());
            }
            set_host_header(&mut request);
            let rejection = self.reject_host(&request, peer);
            respond(self.router.clone(), request, rejection, Arc::clone(activity))
        });
        // HTTP/2 connections also write pings, which are not progress.
        let record_writes = (!is_http2).then(|| Arc::clone(activity));
        let io = TokioIo::new(Rewind { prefetched, socket, record_writes });
        if is_http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(DrainExecutor(self.drain.clone()));
            builder.timer(TokioTimer::new()).max_send_buf_size(HTTP2_SEND_BUFFER_BYTES);
            builder.max_header_list_size(u32::try_from(limits.request_header_bytes).unwrap_or(u32::MAX));
            builder.keep_alive_interval(limits.ping_interval).keep_alive_timeout(limits.ping_timeout);
            builder.max_concurrent_streams(limits.max_concurrent_streams);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.shutdown_requested(activity) => connection.as_mut().graceful_shutdown(),
            }
            // Shards end the streams of the connection.
            let _ = connection.await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            // `Activity` enforces the timeout: an incomplete head is not progress.
            builder.header_read_timeout(None);
            builder.max_buf_size(limits.request_header_bytes.max(8192));
            builder.keep_alive(!is_reserved);
            // A client that shuts down its side after the request still reads the response. The next write detects a
            // closed connection.
            builder.half_close(true);
            let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.shutdown_requested(activity) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }

    /// Returns an error response if the request names a host that is not allowed.
    fn reject_host(&self, request: &Request<Incoming>, peer: Peer) -> Option<Response<Body>> {
        let host = request.headers().get(header::HOST);
        (!self.hosts.is_allowed(host, peer.via_loopback)).then(|| misdirected_response(host))
    }
}

async fn respond(
    mut router: Router,
    request: Request<Incoming>,
    rejection: Option<Response<Body>>,
    activity: Arc<Activity>,
) -> Result<Response<TrackedBody>, Infallible> {
    let response = async {
        match rejection {
            Some(rejection) => rejection,
            None => router.call(request).await.unwrap_or_else(|never| match never {}),
        }
    };
    Ok(activity.track(response).await)
}

/// Sets `Host` from `:authority` (HTTP/2) or from an absolute request target, which overrides `Host` (RFC 9112, 3.2.2).
fn set_host_header(request: &mut Request<Incoming>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

fn misdirected_response(host: Option<&HeaderValue>) -> Response<Body> {
    const CHARACTERS_MAX: usize = 100;
    let host = host.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).unwrap_or_default();
    let host: String = host.escape_debug().take(CHARACTERS_MAX).collect();
    tracing::debug!(host, "request rejected: the host is not allowed");
    let text = format!(
        "host \"{host}\" is not allowed: add it to `allowed_hosts`, or add the origin of its pages to `allowed_origins` (\"*\" \
         does not allow any host)\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response
}

/// Writes an error response for an invalid request, and closes the connection.
pub async fn write_error_response(mut socket: TcpStream, status: u16, reason: &str) {
    let phrase = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let response = format!(
        "HTTP/1.1 {status} {}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{reason}\n",
        phrase.unwrap_or_default(),
        reason.len() + 1,
    );
    let write_and_close = async {
        socket.write_all(response.as_bytes()).await?;
        socket.shutdown().await?;
        // With unread bytes, closing the socket sends a reset, and the client may lose the response.
        tokio::io::copy(&mut socket.take(64 * 1024), &mut tokio::io::sink()).await
    };
    // A client that does not read the response is disconnected.
    let _ = tokio::time::timeout(LINGER_TIMEOUT, write_and_close).await;
}

/// A socket with bytes that were read from it before; they are read first.
#[derive(Debug)]
pub struct Rewind {
    prefetched: Bytes,
    socket: TcpStream,
    /// Records each write as progress.
    record_writes: Option<Arc<Activity>>,
}

impl Rewind {
    /// Returns the socket and the bytes that were not read again.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.socket, self.prefetched)
    }

    fn record_write(&self, written: io::Result<usize>) -> io::Result<usize> {
        if let Some(activity) = self.record_writes.as_ref().filter(|_| written.is_ok()) {
            activity.record_progress();
        }
        written
    }
}

impl AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefetched.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let length = self.prefetched.len().min(buffer.remaining());
        buffer.put_slice(&self.prefetched[..length]);
        self.prefetched.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        Poll::Ready(self.record_write(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices));
        Poll::Ready(self.record_write(written))
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

/// Starts the streams of an HTTP/2 connection as tasks of [`Drain`].
#[derive(Clone, Debug)]
struct DrainExecutor(Drain);

impl<F> Executor<F> for DrainExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn_connection(task);
    }
}
