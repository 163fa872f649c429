//! The event loop of a shard.
//!
//! Sockets, events of the node, new connections, replies and timers take turns. After each turn a bounded number of
//! connections is flushed, so that a large broadcast delays neither reads nor timers, and publications that arrive
//! meanwhile join the same flush. The loop waits for all of these together and for nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::Disconnect;
use mio::Events;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channels::{Channels, ConnectionId};
use super::connection::{Connection, ConnectionKind};
use super::detach_queue::DetachQueue;
use super::flush_queue::FlushQueue;
use super::pages::PageQueue;
use super::resubscribe_queue::ResubscribeQueue;
use super::session::Session;
use super::sink::Sink;
use super::timer_wheel::{TICK, TimerWheel};
use super::{ShardCommand, ShardLimits};
use crate::metrics::ShardCounters;
use crate::node::Node;
use crate::node::messages::{NodeEvent, NodeRequest, NodeResponse};
use crate::node::shard_queue::ShardReceiver;

/// The most deliveries handled in one turn, and the number of publications that ends the turn: one delivery may
/// contain hundreds.
const DELIVERIES_PER_TURN: usize = 64;
const PUBLICATIONS_PER_TURN: usize = 256;

/// The most commands and replies handled in one turn.
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

/// The state of a shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) node: Arc<Node>,
    pub(super) limits: ShardLimits,
    pub(super) node_requests: mpsc::Sender<NodeRequest>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) connections: Slab<Connection>,
    pub(super) channels: Channels,
    /// Connections with something to write.
    pub(super) flush_queue: FlushQueue,
    /// Connections with bytes left to read after their turn.
    pub(super) pending_reads: VecDeque<u64>,
    /// Connections that a broadcast found too slow.
    pub(super) slow_connections: Vec<ConnectionId>,
    /// Clients to be unsubscribed after gaps.
    pub(super) resubscribe_queue: ResubscribeQueue,
    /// The number of the last recovery request.
    pub(super) last_request: u32,
    /// Connections that wait for the next page of a recovery.
    pub(super) page_queue: PageQueue,
    /// Connections whose recovery request did not fit into the lane.
    pub(super) recovery_retries: Vec<u64>,
    /// Channels whose detach request did not fit into the lane.
    pub(super) detach_queue: DetachQueue,
    /// Connections that are streams in a connection of hyper.
    pub(super) streams: Vec<u64>,
    pub(super) wheel: TimerWheel,
    pub(super) poll: Option<mio::Poll>,
    pub(super) registry: mio::Registry,
    pub(super) generation: u32,
    pub(super) read_buffer: Vec<u8>,
    pub(super) draining: bool,
    /// Other shards receive the same publications.
    pub(super) multi_shard: bool,
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

/// The key of a connection: its index and its generation.
pub(super) fn key(connection_id: ConnectionId, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(connection_id)
}

impl Shard {
    pub(super) fn new(
        node: Arc<Node>,
        limits: ShardLimits,
        node_requests: mpsc::Sender<NodeRequest>,
        counters: Arc<ShardCounters>,
    ) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        Ok(Self {
            node,
            limits,
            node_requests,
            counters,
            connections: Slab::new(),
            channels: Channels::default(),
            flush_queue: FlushQueue::new(),
            pending_reads: VecDeque::new(),
            slow_connections: Vec::new(),
            resubscribe_queue: ResubscribeQueue::new(),
            last_request: 0,
            page_queue: PageQueue::default(),
            recovery_retries: Vec::new(),
            detach_queue: DetachQueue::default(),
            streams: Vec::new(),
            wheel: TimerWheel::new(Instant::now()),
            registry: poll.registry().try_clone()?,
            poll: Some(poll),
            generation: 0,
            read_buffer: vec![0; READ_BYTES],
            draining: false,
            multi_shard: false,
        })
    }

    async fn run(&mut self, mut poll: AsyncFd<mio::Poll>, mut inputs: Inputs) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !(self.draining && self.connections.is_empty()) {
            let more = !self.flush_queue.is_empty()
                || !self.pending_reads.is_empty()
                || self.resubscribe_queue.is_due();
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
        self.send_resubscribes();
        self.flush_batch();
        self.send_pages();
    }

    /// Handles one event. Returns whether deliveries may be left.
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
                if let Some(connection_id) = self.find(key) {
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

    /// Handles a bounded number of deliveries. Returns whether more may be left.
    pub(super) fn take_deliveries(&mut self, first: Option<NodeEvent>, inbox: &mut ShardReceiver) -> bool {
        let mut next = first;
        let (mut taken, mut publications) = (0, 0);
        while let Some(delivery) = next.take() {
            (taken, publications) = (taken + 1, publications + delivery.publications());
            self.on_delivery(delivery);
            if taken < DELIVERIES_PER_TURN && publications < PUBLICATIONS_PER_TURN {
                next = inbox.try_next();
            }
        }
        self.on_gaps(inbox.take_overflow());
        taken == DELIVERIES_PER_TURN || publications >= PUBLICATIONS_PER_TURN
    }

    fn on_socket_events(&mut self, events: &Events) {
        for event in events {
            let Some(connection_id) = self.find(event.token().0 as u64) else { continue };
            if event.is_writable()
                && let Some(connection) = self.connections.get_mut(connection_id as usize)
                && std::mem::take(&mut connection.blocked)
            {
                self.schedule_flush(connection_id);
            }
            if self.is_paused(connection_id) {
                // Its bytes stay in the socket, the end of the stream included; but a broken connection is removed.
                if event.is_error() || event.is_write_closed() {
                    self.remove(connection_id);
                }
            } else if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(connection_id, event.is_read_closed() || event.is_error());
            }
        }
    }

    fn read_pending(&mut self) {
        for _ in 0..self.pending_reads.len() {
            let Some(key) = self.pending_reads.pop_front() else { return };
            if let Some(connection_id) = self.find(key) {
                self.connections[connection_id as usize].has_pending_read = false;
                // Bytes that were buffered when reading was paused.
                self.on_bytes(connection_id, &mut []);
                self.read(connection_id, true);
            }
        }
    }

    /// Whether reading from a client is paused.
    pub(super) fn is_paused(&self, connection_id: ConnectionId) -> bool {
        self.connections.get(connection_id as usize).is_some_and(
            |connection| matches!(&connection.kind, ConnectionKind::WebSocket(session) if session.is_paused()),
        )
    }

    /// Schedules a read at the end of the turn.
    pub(super) fn read_later(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && !std::mem::replace(&mut connection.has_pending_read, true)
        {
            self.pending_reads.push_back(key(connection_id, connection.generation));
        }
    }

    /// Reads available bytes. After a short read a new event follows with more bytes, but not with the end of the
    /// stream: `to_end` reads on.
    fn read(&mut self, connection_id: ConnectionId, to_end: bool) {
        let mut read_buffer = std::mem::take(&mut self.read_buffer);
        for turn in 1.. {
            if self.is_paused(connection_id) {
                break;
            }
            let Some(connection) = self.connections.get_mut(connection_id as usize) else { break };
            match connection.sink.read(&mut read_buffer) {
                Ok(0) => {
                    self.remove(connection_id);
                    break;
                }
                Ok(length) => {
                    if connection.is_open() && !connection.framing.is_event_stream() {
                        self.on_bytes(connection_id, &mut read_buffer[..length]);
                    }
                    if length < READ_BYTES && !to_end {
                        break;
                    }
                    if turn == READS_PER_TURN {
                        self.read_later(connection_id);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.remove(connection_id);
                    break;
                }
            }
        }
        self.read_buffer = read_buffer;
    }

    pub(super) fn on_hyper_wake(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let Sink::Hyper(stream) = &connection.sink else { return };
        if stream.is_closed() {
            self.remove(connection_id);
        } else if std::mem::take(&mut connection.blocked) {
            self.schedule_flush(connection_id);
        }
    }

    pub(super) fn find(&self, key: u64) -> Option<ConnectionId> {
        let connection_id = u32::try_from(key & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let connection = self.connections.get(connection_id as usize)?;
        (u64::from(connection.generation) == key >> 32).then_some(connection_id)
    }

    pub(super) fn is_open(&self, connection_id: ConnectionId) -> bool {
        self.connections.get(connection_id as usize).is_some_and(Connection::is_open)
    }

    pub(super) fn session(&mut self, connection_id: ConnectionId) -> Option<&mut Session> {
        self.connections.get_mut(connection_id as usize).and_then(Connection::session)
    }

    pub(super) fn count_disconnect(&self, disconnect: Disconnect) {
        if let Some(place) = Disconnect::ALL.iter().position(|other| *other == disconnect) {
            self.counters.server_disconnects[place].add(1);
        }
    }
}

fn poll_now(poll: &mut mio::Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, Some(Duration::ZERO)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}
