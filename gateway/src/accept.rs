//! Accepting connections, up to the parting of ways.
//!
//! Owns the listeners and the head of each connection's first request, which must be whole within a deadline and a
//! size: that is the defence against slow clients. A request for a stream goes, socket and all, to a shard; anything
//! else, refusals of streams included, goes on to hyper with the bytes read so far. Must never answer a well-formed
//! request itself.
//!
//! - [`listener`]: listening sockets, and the options of all connections.
//! - [`head`]: reading and judging the head.
//! - [`handshake`], [`sse`]: what a request for a stream asks for.
//! - [`origin`]: which browsers may come.
//! - [`carry`]: connections that hyper carries.

pub mod carry;
pub mod handshake;
pub mod head;
mod listener;
pub mod origin;
pub mod sse;

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use bytes::{Bytes, BytesMut};
use earshot_protocol::Disconnect;

use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::shard::{Arrival, ArrivalKind, Link, ShardLimits, Shards};
use carry::Carrier;
use handshake::Handshake;
use head::{Head, HeadError};
use listener::Listener;
pub use listener::bind;
use origin::Origins;

/// Connections beyond the limit that are listened to.
const RESERVE: usize = 128;

/// Bytes of a head that are read at once, when a connection is accepted.
const FIRST_READ_BYTES: usize = 4096;

/// The bounds of accepting.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// Bytes of a request's head (`limits.head_bytes`).
    pub head_bytes: usize,
    /// The time for it (`limits.head_timeout`).
    pub head_timeout: Duration,
}

/// What a request for a stream is judged by; shared with the routes that hyper carries.
#[derive(Debug)]
pub struct Gate {
    /// Which channels there are.
    pub node: Arc<Node>,
    /// Where streams go.
    pub shards: Arc<Shards>,
    /// How large they may be.
    pub limits: ShardLimits,
    /// From where browsers may come.
    pub origins: Origins,
    /// How many connections there may be.
    pub capacity: Capacity,
}

/// The bound on connections, and who counts against it.
#[derive(Debug)]
pub struct Capacity {
    limit: usize,
    /// Connections that are here or with hyper, not in a shard.
    attended: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Capacity {
    /// Room for so many connections (`limits.connections`).
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        Self { limit, attended: Arc::default(), metrics }
    }

    /// Connections of shards, and those on their way to one. In this order of reading, one that arrives meanwhile is
    /// never counted twice.
    fn streams(&self) -> usize {
        let streams = self.metrics.sum(|shard| &shard.websockets) + self.metrics.sum(|shard| &shard.sse);
        let arrived = self.metrics.sum(|shard| &shard.arrived);
        let underway = self.metrics.control.handed.value().saturating_sub(arrived);
        usize::try_from(streams + underway).unwrap_or(usize::MAX)
    }

    /// A newcomer over the limit is told to come again later; nobody who is here makes room for it.
    pub fn admit(&self, kind: ArrivalKind) -> ArrivalKind {
        if self.streams() < self.limit {
            return kind;
        }
        self.metrics.control.connections_refused.add(1);
        kind.refused(Disconnect::TooManyRequests)
    }

    /// Whether a connection is not even to be listened to. Some are, beyond the limit: a full node must be able to say
    /// so, and to show its health.
    fn is_exhausted(&self) -> bool {
        let attended = self.attended.load(Ordering::Relaxed);
        self.streams().saturating_add(attended) > self.limit.saturating_add(RESERVE)
    }
}

/// Everything that accepting needs.
#[derive(Debug)]
pub struct Acceptor {
    gate: Arc<Gate>,
    carrier: Carrier,
    limits: AcceptLimits,
    metrics: Arc<Metrics>,
    drain: Drain,
}

impl Acceptor {
    /// Ready to serve listeners; `router` answers whatever is not a stream.
    pub fn new(
        gate: Arc<Gate>,
        router: Router,
        limits: AcceptLimits,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Arc<Self> {
        let carrier = Carrier::new(router, limits, drain.clone());
        Arc::new(Self { gate, carrier, limits, metrics, drain })
    }

    /// Serves one listener until the drain begins.
    ///
    /// # Errors
    /// When the listener cannot be polled.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let listener = Listener::watch(listener)?;
        let acceptor = Arc::clone(self);
        self.drain.spawn(async move {
            tokio::select! {
                () = acceptor.accept(&listener) => {}
                () = acceptor.drain.draining() => {}
            }
        });
        Ok(())
    }

    async fn accept(self: &Arc<Self>, listener: &Listener) {
        let mut scratch = vec![0; FIRST_READ_BYTES];
        loop {
            let turn = listener.accept(|socket, peer| self.accepted(socket, peer, &mut scratch)).await;
            if let Err(error) = turn {
                // Out of file descriptors or memory: those who are here go on, the newcomers wait.
                tracing::warn!(%error, "cannot accept: raise the limit of open files");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Most clients have asked by the time they are accepted: those for a stream go to their shard at once, without a
    /// task, a timer and a poll of their own.
    fn accepted(self: &Arc<Self>, mut socket: mio::net::TcpStream, peer: SocketAddr, scratch: &mut [u8]) {
        self.metrics.control.accepted.add(1);
        if self.gate.capacity.is_exhausted() {
            return self.metrics.control.connections_refused.add(1);
        }
        let begun = match socket.read(scratch) {
            Ok(0) => return,
            Ok(length) => &scratch[..length],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => &[],
            Err(_) => return,
        };
        let Some((head, (kind, greeting))) = self.stream(begun) else {
            return self.attend(socket, peer, begun.into());
        };
        let kind = self.gate.capacity.admit(kind);
        let early = Bytes::copy_from_slice(head.rest(begun));
        let mut arrival = Box::new(Arrival { link: Link::Socket(socket), kind, greeting, greeted: 0, early });
        if arrival.greet().is_err() {
            return;
        }
        if let Err(arrival) = self.gate.shards.try_take(arrival) {
            let shards = Arc::clone(&self.gate.shards);
            self.work(async move { shards.take(arrival).await });
        }
    }

    /// A whole head that asks for a stream, if that is what these bytes begin with.
    fn stream(&self, begun: &[u8]) -> Option<(Head, (ArrivalKind, Bytes))> {
        let head = Head::parse(begun, self.limits.head_bytes).ok()??;
        let stream = self.gate.stream(&head)?;
        Some((head, stream))
    }

    /// Somebody who takes longer, or wants something else, of whom `begun` has been read.
    fn attend(self: &Arc<Self>, socket: mio::net::TcpStream, peer: SocketAddr, begun: BytesMut) {
        // Out of memory for a poll: the connection is closed.
        let Ok(socket) = tokio::net::TcpStream::from_std(socket.into()) else { return };
        let acceptor = Arc::clone(self);
        self.work(async move { acceptor.serve_one(socket, peer, begun).await });
    }

    /// Starts a task that counts as a connection until it ends.
    fn work(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let attendance = Attendance::begin(&self.gate.capacity.attended);
        let stop = self.drain.clone();
        self.drain.spawn_work(async move {
            tokio::select! {
                () = task => {}
                () = stop.stopped() => {}
            }
            drop(attendance);
        });
    }

    async fn serve_one(&self, mut socket: tokio::net::TcpStream, peer: SocketAddr, begun: BytesMut) {
        let read = head::read(&mut socket, begun, self.limits.head_bytes);
        let read = tokio::select! {
            read = tokio::time::timeout(self.limits.head_timeout, read) => read,
            // Whoever has not asked for anything yet can ask elsewhere.
            () = self.drain.draining() => return,
        };
        let (head, bytes) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(HeadError::Closed)) => return,
            Ok(Err(error)) => return self.refuse(socket, error).await,
            Err(_) => return self.refuse(socket, HeadError::TooSlow).await,
        };
        match self.gate.stream(&head) {
            Some((kind, greeting)) => {
                let kind = self.gate.capacity.admit(kind);
                // A copy, since a slice would keep the whole head in memory.
                let early = Bytes::copy_from_slice(head.rest(&bytes));
                self.hand_over(socket, kind, greeting, early).await;
            }
            // Health, metrics and the API are not counted: a full node is to be looked at.
            None => self.carrier.carry(socket, peer, bytes).await,
        }
    }

    async fn hand_over(
        &self,
        socket: tokio::net::TcpStream,
        kind: ArrivalKind,
        greeting: Bytes,
        early: Bytes,
    ) {
        if let Ok(socket) = socket.into_std() {
            let link = Link::Socket(mio::net::TcpStream::from_std(socket));
            self.gate.shards.take(Box::new(Arrival { link, kind, greeting, greeted: 0, early })).await;
        }
    }

    async fn refuse(&self, socket: tokio::net::TcpStream, error: HeadError) {
        self.metrics.control.heads_refused.add(1);
        carry::answer(socket, error.status(), &error.to_string()).await;
    }
}

impl Gate {
    /// What to do with a request for a stream that can be granted; `None` for anything else.
    fn stream(&self, head: &Head) -> Option<(ArrivalKind, Bytes)> {
        let request = head.request();
        if handshake::is_path(request.uri().path()) {
            return match handshake::judge(request, &self.origins) {
                Handshake::Granted { response, encoding, refusal } => {
                    Some((ArrivalKind::WebSocket { encoding, refusal }, response))
                }
                Handshake::Refused { .. } => None,
            };
        }
        let wish = sse::wish(request)?;
        if request.version() != axum::http::Version::HTTP_11 {
            return None;
        }
        let granted = wish.grant(self, request.headers()).ok()?;
        Some((granted.kind, crate::shard::sse::head(granted.allow_origin.as_deref())))
    }
}

/// A connection counts as attended while this lives.
#[derive(Debug)]
struct Attendance(Arc<AtomicUsize>);

impl Attendance {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes the socket of a WebSocket back after hyper's upgrade.
pub async fn take_upgraded(gate: &Gate, socket: TcpStream, kind: ArrivalKind, early: Bytes) {
    let link = Link::Socket(mio::net::TcpStream::from_std(socket));
    gate.shards.take(Box::new(Arrival { link, kind, greeting: Bytes::new(), greeted: 0, early })).await;
}
