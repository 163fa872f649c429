//! Shards: the data plane.
//!
//! A shard is one thread with its own poll. It owns its connections: sockets, outboxes, subscriptions. A connection
//! stays in one shard from its start to its end, and only that shard reads, writes and counts for it. A shard takes no
//! lock that another thread may hold for long, and its only I/O is non-blocking reads and writes of its own sockets.
//!
//! A layer uses the layers below it. Calls go down; a lower layer informs the layers above only through results.
//!
//! - [`event_loop`]: the events that a shard waits for, and the order in which it handles them. [`lifecycle`]: how
//!   connections are accepted and drained. [`dispatch`]: passes events of a connection to the driver of its protocol.
//!   [`latency_sampler`]: the time until publications are written.
//! - [`sessions`] and [`streams`]: drivers of the protocols. Each executes the actions of a pure state machine:
//!   [`session`] with [`commands`] and [`pending_replies`], [`sse_stream`]. [`connection_context`]: what a driver uses.
//! - [`broadcast`]: publications to subscribers. [`recovery`]: missed publications, page by page, and the order of reply,
//!   recovered and live publications.
//! - [`client_commands`]: commands of the API to the clients that they select.
//! - [`state`]: the connections with their timers; gaps, and closes with their [`close_reason`].
//! - [`delivery`]: frames and publications to connections; what is dropped when there is no room.
//! - [`subscriptions`]: which connection is subscribed to which channel ([`connections`], [`channels`]). [`writer`]: send
//!   queues to sockets. [`timers`]: pings, heartbeats and timeouts.
//! - [`expiry`]: when a login expires.
//! - [`connection`] with [`send_queue`], [`outbox`], [`sink`]: the state of one connection. [`framing`]: how messages are
//!   encoded for it; [`websocket`], [`websocket_frames`], [`sse`]: frames and events on the wire.

#[cfg(feature = "bench")]
pub mod bench;
mod broadcast;
mod channels;
mod client_commands;
mod close_reason;
mod commands;
mod conflation_queue;
mod connection;
mod connection_context;
mod connections;
mod delivery;
mod detach_queue;
mod dispatch;
mod event_loop;
mod expiry;
mod flush_queue;
mod framing;
#[cfg(fuzzing)]
pub mod fuzz;
mod latency_sampler;
mod lifecycle;
#[cfg(test)]
mod model;
mod outbox;
mod pages;
mod pending_replies;
mod pending_subscription;
mod recovery;
mod resubscribe_queue;
mod send_queue;
mod session;
mod session_action;
mod sessions;
mod sink;
pub mod sse;
mod sse_stream;
mod state;
mod streams;
mod subscription;
mod subscriptions;
mod timer_wheel;
mod timers;
mod websocket;
mod websocket_frames;
mod writer;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use earshot_protocol::{Cursor, Disconnect, Encoding};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

pub use sink::{HyperBody, Sink};

use crate::admission::Permit;
use crate::auth::revocation::ClientCommand;
use crate::auth::{ClientMeta, ClientNetwork, Identity};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::node::messages::PageLimit;
use crate::node::namespace::ResolvedChannel;
use crate::node::requests::{RequestServer, request_queue};
use crate::node::shard_queue::ShardReceiver;
use sink::HyperWakes;

/// Maximum number of replies of one connection that wait for the node.
const PENDING_REPLIES_MAX: usize = 1024;

/// Limit for `close_timeout` of a client that is rejected.
const REJECTED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One page of a recovery. The next page is requested when at most this many bytes wait for the client.
pub const RECOVERY_PAGE: PageLimit = PageLimit { publications: 512, bytes: 64 * 1024 };

/// Maximum number of connections that wait for a shard to accept them.
const NEW_CONNECTIONS_MAX: usize = 1024;

/// Limits and intervals of a shard's connections.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    /// The largest message from a client, in bytes (`limits.message_bytes`).
    pub message_bytes: usize,
    /// Bytes of memory that may wait for one client (`limits.client_queue_bytes`).
    pub client_queue_bytes: usize,
    /// Bytes of commands of one client that may wait (`limits.pending_command_bytes`).
    pub pending_command_bytes: usize,
    /// The longest time that data may wait for a client, approximately (`limits.client_queue_age`); `None`: no limit.
    pub client_queue_age: Option<Duration>,
    /// Channels that one connection may subscribe to (`limits.channels_per_connection`).
    pub channels_per_connection: usize,
    /// Commands in one WebSocket message (`limits.commands_per_frame`).
    pub commands_per_frame: usize,
    /// The size of one page of a recovery.
    pub recovery_page: PageLimit,
    /// Publications in one page of history (`limits.recovery_publications`).
    pub recovery_publications: usize,
    /// Requests of one shard that may wait for the node (`limits.inflight_requests`).
    pub inflight_requests: usize,
    /// The interval between pings (`websocket.ping_interval`).
    pub ping_interval: Duration,
    /// The timeout for a pong (`websocket.pong_timeout`).
    pub pong_timeout: Duration,
    /// The timeout for the connect command (`websocket.connect_timeout`).
    pub connect_timeout: Duration,
    /// How long a client may take to close its end after a close (`websocket.close_timeout`).
    pub close_timeout: Duration,
    /// The interval between heartbeats of a stream (`sse.heartbeat`).
    pub sse_heartbeat: Duration,
    /// The age at which a stream ends, plus or minus 20 % (`sse.max_age`).
    pub sse_max_age: Option<Duration>,
    /// The average delay before a client reconnects (`sse.retry`).
    pub sse_retry: Duration,
}

/// A connection that a shard is about to accept.
#[derive(Debug)]
pub struct NewConnection {
    /// The destination of its bytes.
    pub sink: Sink,
    /// The network of the client, if limits per address apply to it.
    pub network: Option<ClientNetwork>,
    /// Its protocol.
    pub kind: NewConnectionKind,
    /// The permit of this connection under the gateway's connection limit.
    pub permit: Permit,
    /// The bytes to write first: the response head, or the rest of it.
    pub response_head: Bytes,
    /// Bytes of the response head that are already written.
    pub response_head_written: usize,
    /// Bytes that the client sent after its request head.
    pub prefetched: Bytes,
}

/// The protocol of a new connection.
#[derive(Debug)]
pub enum NewConnectionKind {
    /// A WebSocket, after its handshake.
    WebSocket {
        /// The encoding for the whole connection.
        encoding: Encoding,
        /// The parts of the client's request that authentication needs; freed once the connect command is accepted.
        client: Option<Box<ClientMeta>>,
        /// Close it immediately with this code: some clients see a rejection only after the handshake.
        rejection: Option<Disconnect>,
    },
    /// An event stream.
    Sse {
        /// The channels; the client may subscribe to all of them.
        channels: Vec<ResolvedChannel>,
        /// The identity of the client.
        identity: Arc<Identity>,
        /// Events carry the names of their channels.
        named: bool,
        /// Heartbeats are `ping` events instead of comments.
        ping: bool,
        /// The client's position in its channels, if it reconnects.
        resume: Resume,
        /// End it immediately for this reason: a status of 4xx or 5xx would stop the client from reconnecting.
        rejection: Option<Disconnect>,
    },
}

/// The position from which an SSE client resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The client has no position.
    New,
    /// From this cursor; channels that it does not contain start at their newest publication.
    From(Cursor),
    /// The client sent a position that cannot be parsed.
    Unreadable,
}

/// Commands of the control plane to a shard.
#[derive(Debug)]
enum ShardCommand {
    Accept(Box<NewConnection>),
    /// Disconnect the clients whose login has ended.
    EndLogins,
    /// Execute commands of the API on the clients that they select.
    CommandClients(Arc<[ClientCommand]>),
    /// Close all connections.
    Drain {
        /// The time over which the closes are spread.
        window: Duration,
        /// How long each client may take to close its end.
        close_timeout: Duration,
    },
}

/// All shards of a node.
#[derive(Debug)]
pub struct Shards {
    handles: Vec<ShardHandle>,
    next: AtomicUsize,
    threads: std::sync::Mutex<Vec<std::thread::JoinHandle<()>>>,
}

#[derive(Debug)]
struct ShardHandle {
    commands: mpsc::Sender<ShardCommand>,
    wakes: HyperWakes,
}

impl NewConnection {
    /// Writes the response of a WebSocket handshake before a shard accepts the connection: the client waits for it and
    /// sends nothing before it. The response head of a stream is left to the shard, which writes the first event
    /// together with it.
    ///
    /// # Errors
    /// If the client has disconnected.
    pub fn write_handshake(&mut self) -> io::Result<()> {
        let (Sink::Socket(socket), NewConnectionKind::WebSocket { rejection: None, .. }) =
            (&mut self.sink, &self.kind)
        else {
            return Ok(());
        };
        match socket.write(&self.response_head) {
            Ok(written) => {
                self.response_head.advance(written);
                self.response_head_written = written;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl ShardLimits {
    /// The delay before a client reconnects, at random, so that clients do not reconnect at the same time.
    fn retry_ms(&self) -> u32 {
        let factor = 0.5 + fastrand::f64();
        u32::try_from(self.sse_retry.mul_f64(factor).as_millis()).unwrap_or(u32::MAX)
    }
}

impl NewConnectionKind {
    /// The identity of the client, if already known.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Sse { identity, .. } => Some(identity),
            Self::WebSocket { .. } => None,
        }
    }

    /// The same connection, to be rejected in its protocol.
    #[must_use]
    pub fn rejected(mut self, reason: Disconnect) -> Self {
        let (Self::WebSocket { rejection, .. } | Self::Sse { rejection, .. }) = &mut self;
        *rejection = Some(reason);
        self
    }
}

impl Shards {
    /// Starts one shard for each inbox.
    ///
    /// # Errors
    /// If a thread or its poll cannot be created.
    pub fn start(
        node: &Arc<Node>,
        inboxes: Vec<ShardReceiver>,
        limits: ShardLimits,
        metrics: &Arc<Metrics>,
        drain: &Drain,
    ) -> io::Result<Arc<Self>> {
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        let multi_shard = inboxes.len() > 1;
        for (id, inbox) in inboxes.into_iter().enumerate() {
            let (commands, received) = mpsc::channel(NEW_CONNECTIONS_MAX);
            let (wakes, wakes_receiver) = mpsc::channel(NEW_CONNECTIONS_MAX);
            let (node_handle, request_server) = request_queue(limits.inflight_requests);
            RequestServer::serve(request_server, Arc::clone(node), id, drain);
            let inputs = event_loop::Inputs {
                inbox,
                commands: received,
                hyper_wakes: wakes_receiver,
                responses: node_handle.responses,
            };
            let (node, counters) = (Arc::clone(node), Arc::clone(&metrics.shards[id]));
            let shard = event_loop::Shard::new(node, limits, node_handle.requests, counters, multi_shard)?;
            let thread = std::thread::Builder::new().name(format!("shard-{id}"));
            threads.push(thread.spawn(move || event_loop::run(shard, inputs))?);
            handles.push(ShardHandle { commands, wakes });
        }
        Ok(Arc::new(Self { handles, next: AtomicUsize::new(0), threads: std::sync::Mutex::new(threads) }))
    }

    /// Hands a connection to the next shard. Waits while the queue of that shard is full.
    pub async fn accept(&self, connection: Box<NewConnection>) {
        let handle = self.next_shard();
        // A shard ends only with the gateway, and its connections with it.
        let _ = handle.commands.send(ShardCommand::Accept(connection)).await;
    }

    /// Hands a connection to the next shard without waiting.
    ///
    /// # Errors
    /// The connection, if the queue of that shard is full.
    pub fn try_accept(&self, connection: Box<NewConnection>) -> Result<(), Box<NewConnection>> {
        if let Err(TrySendError::Full(ShardCommand::Accept(connection))) =
            self.next_shard().commands.try_send(ShardCommand::Accept(connection))
        {
            return Err(connection);
        }
        Ok(())
    }

    /// Hands a stream in a connection that hyper serves to the next shard, and returns the response body.
    pub async fn accept_stream(
        &self,
        kind: NewConnectionKind,
        permit: Permit,
        network: Option<ClientNetwork>,
    ) -> HyperBody {
        let handle = self.next_shard();
        let (sink, body) = sink::hyper(handle.wakes.clone());
        let connection = NewConnection {
            sink: Sink::Hyper(sink),
            network,
            kind,
            permit,
            response_head: Bytes::new(),
            response_head_written: 0,
            prefetched: Bytes::new(),
        };
        let _ = handle.commands.send(ShardCommand::Accept(Box::new(connection))).await;
        body
    }

    fn next_shard(&self) -> &ShardHandle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }

    /// Disconnects the clients whose login has ended: WebSockets with code 3005, streams with an event.
    pub async fn end_logins(&self) {
        for handle in &self.handles {
            let _ = handle.commands.send(ShardCommand::EndLogins).await;
        }
    }

    /// Executes commands of the API on the clients that they select.
    pub async fn command_clients(&self, commands: Arc<[ClientCommand]>) {
        for handle in &self.handles {
            let _ = handle.commands.send(ShardCommand::CommandClients(Arc::clone(&commands))).await;
        }
    }

    /// Closes every connection, spread over `window`: WebSockets with code 3001, streams with an event. A client that
    /// does not close its end is removed after `close_timeout`.
    pub async fn drain(&self, window: Duration, close_timeout: Duration) {
        for handle in &self.handles {
            let _ = handle.commands.send(ShardCommand::Drain { window, close_timeout }).await;
        }
    }

    /// Waits until the shards have ended: when the last connection is closed after [`Shards::drain`].
    pub fn join(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            // The panic of a shard is already logged; wait for the others.
            let _ = thread.join();
        }
    }
}
