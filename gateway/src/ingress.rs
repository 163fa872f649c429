//! Accepting connections, up to the parting of ways.
//!
//! Owns the listeners and the head of each connection's first request, which must be whole within a deadline and a
//! size: that is the defence against slow clients. A request for a stream goes, socket and all, to a shard; anything
//! else, refusals of streams included, goes on to hyper with the bytes read so far. Each connection holds a permit from
//! the moment it is accepted. Must never answer a well-formed request itself.
//!
//! - [`listener`]: listening sockets, and the options of all connections.
//! - [`head`]: reading and judging the head.
//! - [`handshake`], [`sse`]: what a request for a stream asks for.
//! - [`origin`]: which origins and hosts are allowed.
//! - [`cors`]: how pages of other origins may read the answers.
//! - `credentials`: tokens, which cannot be verified without a login.
//! - [`carry`]: connections that hyper carries; [`activity`]: what happens on one of them.

pub mod activity;
pub mod carry;
pub mod cors;
mod credentials;
pub mod handshake;
pub mod head;
mod listener;
pub mod origin;
pub mod sse;

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::{Bytes, BytesMut};
use earshot_protocol::Disconnect;

use crate::admission::{Admission, Permit};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::shard::{Arrival, ArrivalKind, Link, ShardLimits, Shards};
use carry::{Carrier, CarryLimits, Peer};
use handshake::Handshake;
use head::{Head, HeadError};
use listener::Listener;
pub use listener::bind;
use origin::{Hosts, Origins};

/// Requests for the state of the gateway, which are answered when nothing else is.
const STATE_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Bytes of a head that are read at once, when a connection is accepted.
const FIRST_READ_BYTES: usize = 4096;

/// The bounds of accepting.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// Bytes of a request's head (`limits.head_bytes`).
    pub head_bytes: usize,
    /// The time for it (`limits.head_timeout`).
    pub head_timeout: Duration,
    /// Of what hyper carries.
    pub carry: CarryLimits,
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
    /// Bytes of a request's head (`limits.head_bytes`).
    pub head_bytes: usize,
    /// From where browsers may come.
    pub origins: Origins,
    /// Which hosts they may ask for.
    pub hosts: Hosts,
    /// How many connections there may be.
    pub admission: Admission,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

/// Everything that accepting needs.
#[derive(Debug)]
pub struct Acceptor {
    gate: Arc<Gate>,
    carrier: Carrier,
    limits: AcceptLimits,
    drain: Drain,
}

impl Acceptor {
    /// Ready to serve listeners; `router` answers whatever is not a stream.
    pub fn new(gate: Arc<Gate>, router: Router, limits: AcceptLimits, drain: Drain) -> Arc<Self> {
        let carrier =
            Carrier::new(router, gate.hosts.clone(), limits.carry, Arc::clone(&gate.metrics), drain.clone());
        Arc::new(Self { gate, carrier, limits, drain })
    }

    /// Serves one listener until the drain begins.
    ///
    /// # Errors
    /// When the listener cannot be polled.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let by_loopback = listener.local_addr()?.ip().is_loopback();
        let listener = Listener::watch(listener)?;
        let acceptor = Arc::clone(self);
        self.drain.spawn(async move {
            tokio::select! {
                () = acceptor.accept(&listener, by_loopback) => {}
                () = acceptor.drain.draining() => {}
            }
        });
        Ok(())
    }

    async fn accept(self: &Arc<Self>, listener: &Listener, by_loopback: bool) {
        let mut scratch = vec![0; FIRST_READ_BYTES];
        loop {
            let accepted =
                |socket, address| self.accepted(socket, Peer { address, by_loopback }, &mut scratch);
            let turn = listener.accept(accepted).await;
            if let Err(error) = turn {
                // Out of file descriptors or memory: existing connections are served, new ones wait.
                tracing::warn!(%error, "cannot accept: raise the limit of open files");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Most clients have asked by the time they are accepted: those for a stream go to their shard at once, without a
    /// task, a timer and a poll of their own.
    fn accepted(self: &Arc<Self>, mut socket: mio::net::TcpStream, peer: Peer, scratch: &mut [u8]) {
        self.gate.metrics.control.connections_accepted.add(1);
        let begun = match socket.read(scratch) {
            Ok(0) => return,
            Ok(length) => &scratch[..length],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => &[],
            Err(_) => return,
        };
        let head = Head::parse(begun, self.limits.head_bytes).ok().flatten();
        let Some(permit) = self.gate.permit(head.as_ref()) else { return };
        let Some((head, (kind, greeting))) =
            head.and_then(|head| self.gate.stream(&head, peer).map(|stream| (head, stream)))
        else {
            return self.attend(socket, peer, begun.into(), permit);
        };
        let (permit, kind) = self.gate.admit(permit, kind);
        let early = Bytes::copy_from_slice(head.rest(begun));
        let link = Link::Socket(socket);
        let mut arrival = Box::new(Arrival { link, kind, permit, greeting, greeted: 0, early });
        if arrival.greet().is_err() {
            return;
        }
        if let Err(arrival) = self.gate.shards.try_take(arrival) {
            let shards = Arc::clone(&self.gate.shards);
            self.work(async move { shards.take(arrival).await });
        }
    }

    /// Serves a connection whose request is incomplete or is not for a stream; `begun` has been read of it.
    fn attend(self: &Arc<Self>, socket: mio::net::TcpStream, peer: Peer, begun: BytesMut, permit: Permit) {
        // Out of memory for a poll: the connection is closed.
        let Ok(socket) = tokio::net::TcpStream::from_std(socket.into()) else { return };
        let acceptor = Arc::clone(self);
        self.work(async move { acceptor.serve_one(socket, peer, begun, permit).await });
    }

    /// Starts a task for a connection, which holds the connection's permit.
    fn work(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.drain.clone();
        self.drain.spawn_work(async move {
            tokio::select! {
                () = task => {}
                () = stop.stopped() => {}
            }
        });
    }

    async fn serve_one(
        &self,
        mut socket: tokio::net::TcpStream,
        peer: Peer,
        begun: BytesMut,
        permit: Permit,
    ) {
        let mut time = self.limits.head_timeout;
        if permit.is_reserved() {
            time = time.min(self.limits.carry.reserved_timeout);
        }
        let read = head::read(&mut socket, begun, self.limits.head_bytes);
        let read = tokio::select! {
            read = tokio::time::timeout(time, read) => read,
            // A client that has not sent a request yet can send it to another node.
            () = self.drain.draining() => return,
        };
        let (head, bytes) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(HeadError::Closed)) => return,
            Ok(Err(error)) => return self.refuse(socket, error).await,
            Err(_) => return self.refuse(socket, HeadError::TooSlow).await,
        };
        match self.gate.stream(&head, peer) {
            Some((kind, greeting)) => {
                let (permit, kind) = self.gate.admit(permit, kind);
                // A copy, since a slice would keep the whole head in memory.
                let early = Bytes::copy_from_slice(head.rest(&bytes));
                if let Ok(socket) = socket.into_std() {
                    let link = Link::Socket(mio::net::TcpStream::from_std(socket));
                    let arrival = Arrival { link, kind, permit, greeting, greeted: 0, early };
                    self.gate.shards.take(Box::new(arrival)).await;
                }
            }
            None => {
                let permit = self.gate.admission.promote(permit);
                // Apart from the task, which would be that large while the head is read, too.
                Box::pin(self.carrier.carry(socket, peer, bytes, permit)).await;
            }
        }
    }

    async fn refuse(&self, socket: tokio::net::TcpStream, error: HeadError) {
        self.gate.metrics.control.requests_rejected.add(1);
        carry::answer(socket, error.status(), &error.to_string()).await;
    }
}

impl Gate {
    /// A permit for a connection whose request has this head, as far as it is known. `None`: the connection is closed
    /// without an answer.
    fn permit(&self, head: Option<&Head>) -> Option<Permit> {
        let asks_for_state = || head.is_some_and(|head| STATE_PATHS.contains(&head.request().uri().path()));
        let permit = self.admission.admit();
        let permit = permit.or_else(|| asks_for_state().then(|| self.admission.admit_state_request())?);
        if permit.is_none() {
            self.metrics.control.connections_rejected.add(1);
        }
        permit
    }

    /// A stream on a connection with this permit. Beyond the limit, its client is asked to reconnect later: no
    /// connection is closed to make room.
    pub fn admit(&self, permit: Permit, kind: ArrivalKind) -> (Permit, ArrivalKind) {
        let permit = self.admission.promote(permit);
        if !permit.is_reserved() {
            return (permit, kind);
        }
        self.metrics.control.connections_rejected.add(1);
        (permit, kind.refused(Disconnect::TooManyRequests))
    }

    /// A stream inside a connection of several, which has a permit of its own. `None`: there is not even one for a
    /// refusal.
    pub fn admit_inner(&self, kind: ArrivalKind) -> Option<(Permit, ArrivalKind)> {
        let permit = self.permit(None)?;
        Some(self.admit(permit, kind))
    }

    /// What to do with a request for a stream that can be granted; `None` for anything else.
    fn stream(&self, head: &Head, peer: Peer) -> Option<(ArrivalKind, Bytes)> {
        let request = head.request();
        let is_absolute = request.uri().authority().is_some();
        let host = request.headers().get(axum::http::header::HOST);
        if is_absolute || !self.hosts.admit(host, peer.by_loopback) {
            return None;
        }
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
        Some((granted.kind, crate::shard::sse::head(&granted.cors)))
    }
}

/// Takes the socket of a WebSocket back after hyper's upgrade.
pub async fn take_upgraded(
    gate: &Gate,
    socket: TcpStream,
    (permit, kind): (Permit, ArrivalKind),
    early: Bytes,
) {
    let link = Link::Socket(mio::net::TcpStream::from_std(socket));
    let arrival = Arrival { link, kind, permit, greeting: Bytes::new(), greeted: 0, early };
    gate.shards.take(Box::new(arrival)).await;
}
