//! The event loop of a shard.
//!
//! Sockets, events of the node, new connections, replies and timers take turns. After each turn a bounded number of
//! connections is flushed, so that a large broadcast delays neither reads nor timers, and publications that arrive
//! meanwhile join the same flush. The loop waits for all of these together and for nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::Events;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::broadcast::Broadcast;
use super::channels::ConnectionId;
use super::close_reason::CloseReason;
use super::connection::Connection;
use super::latency_sampler::LatencySampler;
use super::recovery::Recoveries;
use super::sink::Sink;
use super::state::ShardState;
use super::timer_wheel::TICK;
use super::{ShardCommand, ShardLimits};
use crate::metrics::ShardCounters;
use crate::node::Node;
use crate::node::messages::{NodeEvent, NodeRequest, NodeResponse};
use crate::node::shard_queue::ShardReceiver;

/// Maximum number of deliveries handled in one turn, and the number of publications that ends the turn: one delivery
/// may contain hundreds.
const DELIVERIES_PER_TURN: usize = 64;
const PUBLICATIONS_PER_TURN: usize = 256;

/// Maximum number of commands and replies handled in one turn.
const COMMANDS_PER_TURN: usize = 128;

/// Socket events handled in one turn.
const EVENTS_PER_TURN: usize = 1024;

/// Reads of one socket in one turn.
const READS_PER_TURN: usize = 4;

/// Bytes of one read; all connections of the shard share the buffer.
const READ_BYTES: usize = 64 * 1024;

/// The queues of a shard.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) inbox: ShardReceiver,
    pub(super) commands: mpsc::Receiver<ShardCommand>,
    pub(super) hyper_wakes: mpsc::Receiver<u64>,
    pub(super) responses: mpsc::Receiver<NodeResponse>,
}

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) node: Arc<Node>,
    pub(super) node_requests: mpsc::Sender<NodeRequest>,
    pub(super) state: ShardState,
    pub(super) broadcast: Broadcast,
    pub(super) recoveries: Recoveries,
    pub(super) latency_sampler: LatencySampler,
    /// Keys of connections that are streams in a connection of hyper.
    pub(super) hyper_streams: Vec<u64>,
    pub(super) draining: bool,
    poll: Option<mio::Poll>,
    read_buffer: Vec<u8>,
}

enum Event {
    Sockets,
    Node(Option<NodeEvent>),
    ShardCommand(ShardCommand),
    Stream(u64),
    Response(NodeResponse),
    Tick,
    More,
}

/// Runs a shard until its last connection is closed after [`ShardCommand::Drain`].
pub(super) fn run(mut shard: Shard, inputs: Inputs) {
    let Some(poll) = shard.poll.take() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result =
        runtime.and_then(|runtime| runtime.block_on(async { shard.run(watch(poll)?, inputs).await }));
    if let Err(error) = result {
        tracing::error!(%error, "shard stopped: poll failed");
    }
}

/// Registers the shard's own poll with the runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may lie about their descriptor; mio's poll does not"
)]
fn watch(poll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)
}

impl Shard {
    /// Creates a shard. With `multi_shard`, other shards receive the same publications.
    ///
    /// # Errors
    /// If the poll cannot be created.
    pub(super) fn new(
        node: Arc<Node>,
        limits: ShardLimits,
        node_requests: mpsc::Sender<NodeRequest>,
        counters: Arc<ShardCounters>,
        multi_shard: bool,
    ) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok(Self {
            node,
            state: ShardState::new(limits, registry, node_requests.clone(), counters),
            broadcast: Broadcast::new(multi_shard),
            recoveries: Recoveries::new(node_requests.clone()),
            latency_sampler: LatencySampler::default(),
            node_requests,
            hyper_streams: Vec::new(),
            draining: false,
            poll: Some(poll),
            read_buffer: vec![0; READ_BYTES],
        })
    }

    async fn run(&mut self, mut poll: AsyncFd<mio::Poll>, mut inputs: Inputs) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !(self.draining && self.state.connections().is_empty()) {
            let more = self.state.delivery().has_work();
            let event = tokio::select! {
                ready = poll.readable_mut() => {
                    let mut ready = ready?;
                    poll_now(ready.get_inner_mut(), &mut events)?;
                    // After a poll that did not fill the buffer, readiness is reported again.
                    if events.iter().count() < EVENTS_PER_TURN {
                        ready.clear_ready();
                    }
                    Event::Sockets
                }
                delivery = inputs.inbox.next() => Event::Node(delivery),
                Some(order) = inputs.commands.recv() => Event::ShardCommand(order),
                Some(key) = inputs.hyper_wakes.recv() => Event::Stream(key),
                Some(response) = inputs.responses.recv() => Event::Response(response),
                _ = tick.tick() => Event::Tick,
                // Through the runtime, so that it also polls its timers and the other inputs.
                () = tokio::task::yield_now(), if more => Event::More,
            };
            let has_more = self.work(event, &mut inputs, &mut events);
            self.finish_turn();
            if has_more {
                // While deliveries are always available, the runtime polls sockets and timers only if the task yields.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// The work at the end of each turn.
    pub(super) fn finish_turn(&mut self) {
        self.read_pending();
        self.state.send_resubscribes();
        self.flush_batch();
        self.recoveries.send_pages(&mut self.state);
    }

    /// Handles one event. Returns whether deliveries may remain.
    fn work(&mut self, event: Event, inputs: &mut Inputs, events: &mut Events) -> bool {
        match event {
            Event::Sockets => self.on_socket_events(events),
            Event::Node(first) => return self.take_deliveries(first, &mut inputs.inbox),
            Event::ShardCommand(order) => {
                self.on_command(order);
                for _ in 0..COMMANDS_PER_TURN {
                    let Ok(order) = inputs.commands.try_recv() else { break };
                    self.on_command(order);
                }
            }
            Event::Stream(key) => {
                if let Some(connection_id) = self.state.connections().find(key) {
                    self.on_hyper_wake(connection_id);
                }
            }
            Event::Response(response) => {
                self.on_node_reply(response);
                for _ in 0..COMMANDS_PER_TURN {
                    let Ok(response) = inputs.responses.try_recv() else { break };
                    self.on_node_reply(response);
                }
            }
            Event::Tick => self.on_tick(),
            Event::More => {}
        }
        false
    }

    /// Handles a bounded number of deliveries. Returns whether more may remain.
    pub(super) fn take_deliveries(&mut self, first: Option<NodeEvent>, inbox: &mut ShardReceiver) -> bool {
        let mut next = first;
        let (mut taken, mut publications) = (0, 0);
        while let Some(delivery) = next.take() {
            (taken, publications) = (taken + 1, publications + delivery.publications());
            self.on_node_event(delivery);
            if taken < DELIVERIES_PER_TURN && publications < PUBLICATIONS_PER_TURN {
                next = inbox.try_next();
            }
        }
        self.state.on_gaps(inbox.take_overflow());
        taken == DELIVERIES_PER_TURN || publications >= PUBLICATIONS_PER_TURN
    }

    fn on_socket_events(&mut self, events: &Events) {
        for event in events {
            let Some(connection_id) = self.state.connections().find(event.token().0 as u64) else { continue };
            if event.is_writable() {
                self.state.delivery().on_writable(connection_id);
            }
            if self.is_paused(connection_id) {
                // Its bytes stay in the socket, the end of the stream included; but a broken connection is removed.
                if event.is_error() || event.is_write_closed() {
                    self.state.remove(connection_id, CloseReason::ClientClosed);
                }
            } else if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(connection_id, event.is_read_closed() || event.is_error());
            }
        }
    }

    fn read_pending(&mut self) {
        for _ in 0..self.state.connections().pending_reads() {
            if let Some(connection_id) = self.state.subscriptions().connections_mut().next_read() {
                // Bytes that were buffered when reading was paused.
                self.session(connection_id).on_bytes(&mut []);
                self.read(connection_id, true);
            }
        }
    }

    /// Whether reading from a client is paused.
    pub(super) fn is_paused(&self, connection_id: ConnectionId) -> bool {
        self.state.connections().get(connection_id).is_some_and(Connection::is_paused)
    }

    /// Reads available bytes. After a short read a new event follows with more bytes, but not with the end of the
    /// stream: `to_end` reads on.
    fn read(&mut self, connection_id: ConnectionId, to_end: bool) {
        let mut read_buffer = std::mem::take(&mut self.read_buffer);
        for turn in 1.. {
            if self.is_paused(connection_id) {
                break;
            }
            let Some(connection) = self.state.connection_mut(connection_id) else { break };
            match connection.sink.read(&mut read_buffer) {
                Ok(0) => {
                    self.state.remove(connection_id, CloseReason::ClientClosed);
                    break;
                }
                Ok(length) => {
                    if connection.is_open() && !connection.framing.is_event_stream() {
                        self.session(connection_id).on_bytes(&mut read_buffer[..length]);
                    }
                    if length < READ_BYTES && !to_end {
                        break;
                    }
                    if turn == READS_PER_TURN {
                        self.state.subscriptions().connections_mut().read_later(connection_id);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.state.remove(connection_id, CloseReason::Io(error.kind()));
                    break;
                }
            }
        }
        self.read_buffer = read_buffer;
    }

    pub(super) fn on_hyper_wake(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.state.connections().get(connection_id) else { return };
        let Sink::Hyper(stream) = &connection.sink else { return };
        if stream.is_closed() {
            self.state.remove(connection_id, CloseReason::ClientClosed);
        } else {
            self.state.delivery().on_writable(connection_id);
        }
    }

    /// Checks the streams whose wake-up found the queue full.
    pub(super) fn poll_hyper_streams(&mut self) {
        for key in std::mem::take(&mut self.hyper_streams) {
            if let Some(connection_id) = self.state.connections().find(key) {
                self.hyper_streams.push(key);
                self.on_hyper_wake(connection_id);
            }
        }
    }
}

fn poll_now(poll: &mut mio::Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, Some(Duration::ZERO)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}
