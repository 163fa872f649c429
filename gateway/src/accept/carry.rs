//! Connections that hyper carries: everything that is not a stream on a socket of its own.
//!
//! Owns the bytes read before hyper came in, the choice between HTTP/1.1 and HTTP/2, and the end of such connections
//! when the gateway drains. Must never know a route.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::AcceptLimits;
use crate::drain::Drain;

/// How long a refused client may take to fetch its answer.
const FAREWELL: Duration = Duration::from_secs(2);

/// Pings on HTTP/2 connections, so that a dead one is noticed.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// The peer's address, in a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves HTTP on sockets whose first bytes are read already.
#[derive(Debug)]
pub struct Carrier {
    router: Router,
    limits: AcceptLimits,
    drain: Drain,
}

impl Carrier {
    pub(super) fn new(router: Router, limits: AcceptLimits, drain: Drain) -> Self {
        Self { router, limits, drain }
    }

    /// Serves one connection to its end.
    pub(super) async fn carry(&self, socket: TcpStream, peer: SocketAddr, read: Bytes) {
        let http2 = read.starts_with(b"PRI * HTTP/2.0");
        let io = TokioIo::new(Rewound { read, socket });
        let service = hyper::service::service_fn(|request| answer_by(self.router.clone(), request, peer));
        if http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(Spawner(self.drain.clone()));
            builder.timer(TokioTimer::new()).keep_alive_interval(HTTP2_PING).max_send_buf_size(64 * 1024);
            let mut connection = pin!(builder.serve_connection(io, service));
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.drain.draining() => connection.as_mut().graceful_shutdown(),
            }
            // Its streams end with their shards.
            let _ = connection.await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(self.limits.head_timeout);
            builder.max_buf_size(self.limits.head_bytes.max(8192));
            // Who says no more after asking still wants the answer. Who has gone is noticed at the next write to it.
            builder.half_close(true);
            let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.drain.draining() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }
}

async fn answer_by(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(Peer(peer));
    // HTTP/2 names the host elsewhere.
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    router.call(request).await
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
    // A client that does not even fetch its refusal is let go.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// A socket in front of which the bytes read so far stand again.
#[derive(Debug)]
pub struct Rewound {
    read: Bytes,
    socket: TcpStream,
}

impl Rewound {
    /// The socket, and what was not read again.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.socket, self.read)
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
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
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
