//! Shards: the data plane.
//!
//! A shard is one thread with its own poll. It owns its connections outright: sockets, outboxes, subscriptions. A
//! connection is born in one shard and dies there. Nothing else reads, writes or counts for it, and a shard never
//! awaits a lock nor does any I/O but the non-blocking reads and writes of its own sockets.
//!
//! - [`reactor`]: the loop: what wakes a shard and in which order it works.
//! - [`life`]: how a connection arrives, ends and is gone; [`timers`]: its pings and deadlines.
//! - [`subscribing`]: which channels the shard hears, and for whom.
//! - [`recovery`]: what a client missed, and the one sequence of reply, recovered and live publications.
//! - [`paged_recovery`]: recoveries that are longer than one page.
//! - [`broadcast`]: publications and gaps on their way to subscribers; [`writing`]: from outboxes onto links.
//! - [`pending`]: replies that wait for their turn, and the commands that wait with them.
//! - [`session`], [`stream`]: the rules of a WebSocket session and of an SSE stream; [`commands`]: what each command does.
//! - [`websocket`], [`sse`]: frames and events on the wire.
//! - [`connection`], [`channels`], [`outbox`], [`wheel`], [`link`]: what a shard is made of.

mod backlog;
#[doc(hidden)]
pub mod bench;
mod broadcast;
mod channels;
mod commands;
mod connection;
mod life;
mod link;
#[cfg(test)]
mod model;
mod outbox;
mod paged_recovery;
mod pending;
mod reactor;
mod recovery;
mod session;
mod slow;
pub mod sse;
mod stream;
mod subscribing;
mod timers;
pub mod token;
mod websocket;
mod wheel;
mod writing;

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use earshot_protocol::{ChannelName, Cursor, Disconnect, Encoding};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

pub use link::{Link, StreamBody};

use crate::admission::Permit;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::node::messages::PageLimit;
use crate::node::requests::{RequestServer, request_queue};
use crate::node::shard_queue::ShardReceiver;
use link::StreamWakes;

/// Replies of one connection that may wait for the node.
const REPLIES_WAITING_MAX: usize = 1024;

/// How long a client that is refused may take to answer its close.
const REFUSED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One page of a recovery; the next one is asked for once no more bytes than these wait for the client.
pub const RECOVERY_PAGE: PageLimit = PageLimit { publications: 512, bytes: 64 * 1024 };

/// Connections that may wait for a shard to take them.
const ARRIVALS_WAITING_MAX: usize = 1024;

/// The bounds and times of a shard's connections.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    /// Bytes of one message from a client (`limits.message_bytes`).
    pub message_bytes: usize,
    /// Bytes that may wait for one client (`limits.client_queue_bytes`).
    pub client_queue_bytes: usize,
    /// Bytes of commands of one client that may wait (`limits.pending_command_bytes`).
    pub pending_command_bytes: usize,
    /// How long the oldest of that may wait, about (`limits.client_queue_age`); `None`: for ever.
    pub client_queue_age: Option<Duration>,
    /// Channels that one connection may subscribe to (`limits.channels_per_connection`).
    pub channels_per_connection: usize,
    /// Commands in one WebSocket message (`limits.commands_per_frame`).
    pub commands_per_frame: usize,
    /// What one page of a recovery may hold.
    pub recovery_page: PageLimit,
    /// Publications in one page of history (`limits.recovery_publications`).
    pub recovery_publications: usize,
    /// Requests of one shard that may wait for the node (`limits.inflight_requests`).
    pub inflight_requests: usize,
    /// The time between pings (`websocket.ping_interval`).
    pub ping_interval: Duration,
    /// The time for a pong (`websocket.pong_timeout`).
    pub pong_timeout: Duration,
    /// The time until the connect command (`websocket.connect_timeout`).
    pub connect_timeout: Duration,
    /// The time for the peer to end a connection that was closed (`websocket.close_timeout`).
    pub close_timeout: Duration,
    /// The time between heartbeats of a stream (`sse.heartbeat`).
    pub sse_heartbeat: Duration,
    /// The age at which a stream is ended, give or take a fifth (`sse.max_age`).
    pub sse_max_age: Option<Duration>,
    /// How long a client waits before it comes again, on average (`sse.retry`).
    pub sse_retry: Duration,
}

/// A connection on its way to a shard.
#[derive(Debug)]
pub struct Arrival {
    /// What its bytes go out through.
    pub link: Link,
    /// What it is.
    pub kind: ArrivalKind,
    /// Its place among the connections of the gateway.
    pub permit: Permit,
    /// What is written first: the head of the answer, or the rest of it.
    pub greeting: Bytes,
    /// Bytes of it that are written already.
    pub greeted: usize,
    /// What the client sent behind its head.
    pub early: Bytes,
}

/// What an arriving connection wants.
#[derive(Debug)]
pub enum ArrivalKind {
    /// A WebSocket, after its handshake.
    WebSocket {
        /// The encoding of its whole life.
        encoding: Encoding,
        /// It is to be closed at once with this code: some clients see a refusal only after the handshake.
        refusal: Option<Disconnect>,
    },
    /// An event stream.
    Sse {
        /// What it wants to hear: admitted by [`admit`].
        channels: Vec<ChannelName>,
        /// Events are named after their channels.
        named: bool,
        /// Heartbeats are `ping` events instead of comments.
        ping: bool,
        /// Where the client stood when it was here before.
        resume: Resume,
        /// It is to be ended at once for this reason: a status of 4xx or 5xx would stop the client for good.
        refusal: Option<Disconnect>,
    },
}

/// Where an SSE client stood when it was here before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It was not.
    Fresh,
    /// At this cursor; channels that are not in it start fresh.
    From(Cursor),
    /// It says that it was, in a way that cannot be read.
    Unreadable,
}

/// What the control plane tells a shard about its connections.
#[derive(Debug)]
enum Order {
    Take(Box<Arrival>),
    /// All connections leave.
    Leave {
        /// Over this time.
        spread: Duration,
        /// How long each may take to answer its close.
        patience: Duration,
    },
}

/// All shards of a node.
#[derive(Debug)]
pub struct Shards {
    doors: Vec<Door>,
    next: AtomicUsize,
    threads: std::sync::Mutex<Vec<std::thread::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Door {
    orders: mpsc::Sender<Order>,
    wakes: StreamWakes,
}

impl Arrival {
    /// Writes the answer of a handshake before a shard is involved: its client waits for it, and nothing else can be
    /// written before that client has spoken. The head of a stream is left to the shard: its first event is in the
    /// same write.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn greet(&mut self) -> io::Result<()> {
        let (Link::Socket(socket), ArrivalKind::WebSocket { refusal: None, .. }) =
            (&mut self.link, &self.kind)
        else {
            return Ok(());
        };
        match socket.write(&self.greeting) {
            Ok(written) => {
                self.greeting.advance(written);
                self.greeted = written;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl ArrivalKind {
    /// The same connection, to be refused in words that its client understands.
    #[must_use]
    pub fn refused(mut self, reason: Disconnect) -> Self {
        let (Self::WebSocket { refusal, .. } | Self::Sse { refusal, .. }) = &mut self;
        *refusal = Some(reason);
        self
    }
}

impl Shards {
    /// Starts one shard for each inbox.
    ///
    /// # Errors
    /// When a thread or its poll cannot be had.
    pub fn start(
        node: &Arc<Node>,
        inboxes: Vec<ShardReceiver>,
        limits: ShardLimits,
        metrics: &Arc<Metrics>,
        drain: &Drain,
    ) -> io::Result<Arc<Self>> {
        let (mut doors, mut threads) = (Vec::new(), Vec::new());
        let has_siblings = inboxes.len() > 1;
        for (id, inbox) in inboxes.into_iter().enumerate() {
            let (orders, ordered) = mpsc::channel(ARRIVALS_WAITING_MAX);
            let (wakes, woken) = mpsc::channel(ARRIVALS_WAITING_MAX);
            let (node_handle, request_server) = request_queue(limits.inflight_requests);
            RequestServer::serve(request_server, Arc::clone(node), id, drain);
            let sources = reactor::Sources { inbox, orders: ordered, woken, answers: node_handle.responses };
            let (node, counters) = (Arc::clone(node), Arc::clone(&metrics.shards[id]));
            let mut shard = reactor::Shard::new(node, limits, node_handle.requests, counters)?;
            shard.has_siblings = has_siblings;
            let thread = std::thread::Builder::new().name(format!("shard-{id}"));
            threads.push(thread.spawn(move || reactor::run(shard, sources))?);
            doors.push(Door { orders, wakes });
        }
        Ok(Arc::new(Self { doors, next: AtomicUsize::new(0), threads: std::sync::Mutex::new(threads) }))
    }

    /// Hands a connection to the shard whose turn it is. Waits while that shard is behind.
    pub async fn take(&self, arrival: Box<Arrival>) {
        let door = self.turn();
        // A shard ends with the gateway only: the connection ends with it.
        let _ = door.orders.send(Order::Take(arrival)).await;
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// The connection, when that shard is behind.
    pub fn try_take(&self, arrival: Box<Arrival>) -> Result<(), Box<Arrival>> {
        if let Err(TrySendError::Full(Order::Take(arrival))) =
            self.turn().orders.try_send(Order::Take(arrival))
        {
            return Err(arrival);
        }
        Ok(())
    }

    /// The same for a response body that hyper carries.
    pub async fn take_stream(&self, kind: ArrivalKind, permit: Permit, peer: Option<IpAddr>) -> StreamBody {
        let door = self.turn();
        let (link, body) = link::stream(door.wakes.clone());
        let arrival = Arrival {
            link: Link::Stream(link.with_peer(peer)),
            kind,
            permit,
            greeting: Bytes::new(),
            greeted: 0,
            early: Bytes::new(),
        };
        let _ = door.orders.send(Order::Take(Box::new(arrival))).await;
        body
    }

    fn turn(&self) -> &Door {
        &self.doors[self.next.fetch_add(1, Ordering::Relaxed) % self.doors.len()]
    }

    /// Lets every connection go, spread over a time: WebSockets are closed with 3001, streams are ended. A client that
    /// does not answer its close is waited for no longer than `patience`.
    pub async fn leave(&self, spread: Duration, patience: Duration) {
        for door in &self.doors {
            let _ = door.orders.send(Order::Leave { spread, patience }).await;
        }
    }

    /// Waits until the shards have ended, which they do when the last connection has left after [`Shards::leave`].
    pub fn join(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            // A shard that panicked has said so; the others are still to be waited for.
            let _ = thread.join();
        }
    }
}

/// Why a request for a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The channel's name, or their number, is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The page that asks comes from an origin that is not allowed.
    #[error("this origin is not allowed: add it to `allowed_origins`")]
    Origin,
    /// A token is presented, and nothing can check it.
    #[error("a token is presented, and no login is configured: no token can be checked")]
    Token,
    /// The channel may not be heard by this client.
    #[error("channel {0}: permission denied")]
    Forbidden(ChannelName),
    /// No namespace has the channel.
    #[error("channel {0}: no namespace has this channel")]
    Unknown(ChannelName),
}

/// Names that the events of a stream of several channels cannot have, since they mean something else there.
const RESERVED_EVENTS: [&str; 6] = ["error", "gap", "message", "open", "ping", "subscribed"];

/// Checks what a stream wants to hear.
///
/// # Errors
/// See [`Refusal`].
pub fn admit(
    node: &Node,
    names: &[String],
    named: bool,
    limits: &ShardLimits,
) -> Result<Vec<ChannelName>, Refusal> {
    if names.is_empty() {
        return Err(Refusal::BadRequest("no channel given: /sse/{channel} or /sse?channel=…".to_owned()));
    }
    let mut seen = HashSet::new();
    let distinct: Vec<&String> = names.iter().filter(|name| seen.insert(name.as_str())).collect();
    if distinct.len() > limits.channels_per_connection {
        return Err(Refusal::BadRequest(format!(
            "{} channels in one stream: limits.channels_per_connection is {}: open several streams or raise it",
            distinct.len(),
            limits.channels_per_connection
        )));
    }
    let mut channels: Vec<ChannelName> = Vec::with_capacity(distinct.len());
    for name in distinct {
        let channel = ChannelName::parse(name)
            .map_err(|error| Refusal::BadRequest(format!("channel {name:?}: {error}")))?;
        if named && RESERVED_EVENTS.contains(&channel.as_str()) {
            return Err(Refusal::BadRequest(format!(
                "channel {channel}: this name is an event of the stream itself; use /sse/{channel}"
            )));
        }
        let namespace = node.namespace(&channel).ok_or_else(|| Refusal::Unknown(channel.clone()))?;
        if namespace.subscribe != crate::node::namespace::Access::Anyone {
            return Err(Refusal::Forbidden(channel));
        }
        channels.push(channel);
    }
    Ok(channels)
}
