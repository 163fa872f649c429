//! A shard's loop.
//!
//! Owns the order of work: sockets, deliveries, arrivals, answers and timers take turns, and after each turn a bounded
//! number of connections is flushed, so that a broadcast to very many neither starves reads nor timers. What is
//! published meanwhile joins the same flush. Must never wait for anything but all of these together.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::{ChannelName, Disconnect};
use mio::Events;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channels::{Channels, ConnectionId, Detaching};
use super::connection::{Connection, Kind, Session};
use super::link::Link;
use super::wheel::{TICK, Wheel};
use super::writing::EARLY_WRITES_PER_TURN;
use super::{Order, ShardLimits};
use crate::metrics::ShardCounters;
use crate::node::Node;
use crate::node::messages::{NodeEvent, NodeRequest, NodeResponse};
use crate::node::shard_queue::ShardReceiver;

/// Deliveries taken in one turn, and the publications in them after which no more are taken: a delivery may hold
/// hundreds.
const DELIVERIES_PER_TURN: usize = 64;
const PUBLICATIONS_PER_TURN: usize = 256;

/// Arrivals and answers taken in one turn.
const ORDERS_PER_TURN: usize = 128;

/// Notices of gaps sent in one tick: those who come back are spread by it.
pub(super) const NOTICES_PER_TICK: usize = 200;

/// Events of sockets taken in one turn.
const EVENTS_PER_TURN: usize = 1024;

/// Reads made on one socket in one turn.
const READS_PER_TURN: usize = 4;

/// Bytes read at once; one buffer for all connections of the shard.
const READ_BYTES: usize = 64 * 1024;

/// What a shard waits for.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) inbox: ShardReceiver,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) woken: mpsc::Receiver<u64>,
    pub(super) answers: mpsc::Receiver<NodeResponse>,
}

/// The state of a shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) node: Arc<Node>,
    pub(super) limits: ShardLimits,
    pub(super) asks: mpsc::Sender<NodeRequest>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) connections: Slab<Connection>,
    pub(super) channels: Channels,
    /// Connections with something to write.
    pub(super) dirty: VecDeque<ConnectionId>,
    /// Connections with bytes left to read after their turn.
    pub(super) unread: VecDeque<u64>,
    /// Writes that may yet be made ahead of their turn in this turn.
    pub(super) early_writes_left: usize,
    /// Connections that a broadcast found too slow.
    pub(super) slow: Vec<ConnectionId>,
    /// Notices of gaps that are still to be sent, and how many may be sent in this tick.
    pub(super) notices: VecDeque<(u64, ChannelName)>,
    pub(super) notices_left: usize,
    /// The number of the last request for a recovery.
    pub(super) recoveries: u32,
    /// Requests under way for pages of recoveries that go on, and the connections whose turn comes next.
    pub(super) pages: Vec<u32>,
    pub(super) waiting_for_page: VecDeque<u64>,
    /// Connections that wait to ask for a recovery, since the lane was full.
    pub(super) unrecovered: Vec<u64>,
    /// Channels to be given up, for which the lane had no room.
    pub(super) detaching: Vec<Detaching>,
    /// Connections that are streams inside a connection of hyper's.
    pub(super) streams: Vec<u64>,
    pub(super) wheel: Wheel,
    pub(super) poll: Option<mio::Poll>,
    pub(super) registry: mio::Registry,
    pub(super) generation: u32,
    pub(super) scratch: Vec<u8>,
    pub(super) leaving: bool,
    /// There are other shards, which are given the same publications.
    pub(super) has_siblings: bool,
}

enum Wake {
    Sockets,
    NodeEvent(Option<NodeEvent>),
    Order(Order),
    Stream(u64),
    NodeResponse(NodeResponse),
    Tick,
    More,
}

/// Runs a shard until its last connection has left after [`Order::Leave`].
pub(super) fn run(mut shard: Shard, sources: Sources) {
    let Some(poll) = shard.poll.take() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result =
        runtime.and_then(|runtime| runtime.block_on(async { shard.run(watch(poll)?, sources).await }));
    if let Err(error) = result {
        tracing::error!(%error, "a shard has ended: its poll failed");
    }
}

/// Lets the runtime sleep on the shard's own poll.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may lie about their descriptor; mio's poll does not"
)]
fn watch(poll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)
}

/// A connection's name beyond its shard: its place and its generation.
pub(super) fn key(at: ConnectionId, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(at)
}

impl Shard {
    pub(super) fn new(
        node: Arc<Node>,
        limits: ShardLimits,
        asks: mpsc::Sender<NodeRequest>,
        counters: Arc<ShardCounters>,
    ) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        Ok(Self {
            node,
            limits,
            asks,
            counters,
            connections: Slab::new(),
            channels: Channels::default(),
            dirty: VecDeque::new(),
            early_writes_left: EARLY_WRITES_PER_TURN,
            unread: VecDeque::new(),
            slow: Vec::new(),
            notices: VecDeque::new(),
            notices_left: NOTICES_PER_TICK,
            recoveries: 0,
            pages: Vec::new(),
            waiting_for_page: VecDeque::new(),
            unrecovered: Vec::new(),
            detaching: Vec::new(),
            streams: Vec::new(),
            wheel: Wheel::new(Instant::now()),
            registry: poll.registry().try_clone()?,
            poll: Some(poll),
            generation: 0,
            scratch: vec![0; READ_BYTES],
            leaving: false,
            has_siblings: false,
        })
    }

    async fn run(&mut self, mut poll: AsyncFd<mio::Poll>, mut sources: Sources) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !(self.leaving && self.connections.is_empty()) {
            let more = !self.dirty.is_empty() || !self.unread.is_empty();
            let wake = tokio::select! {
                ready = poll.readable_mut() => {
                    let mut ready = ready?;
                    poll_now(ready.get_inner_mut(), &mut events)?;
                    // What comes after a poll that had room for more is announced anew.
                    if events.iter().count() < EVENTS_PER_TURN {
                        ready.clear_ready();
                    }
                    Wake::Sockets
                }
                delivery = sources.inbox.next() => Wake::NodeEvent(delivery),
                Some(order) = sources.orders.recv() => Wake::Order(order),
                Some(key) = sources.woken.recv() => Wake::Stream(key),
                Some(answer) = sources.answers.recv() => Wake::NodeResponse(answer),
                _ = tick.tick() => Wake::Tick,
                // Through the runtime, so that its timers and the other sources are looked at, too.
                () = tokio::task::yield_now(), if more => Wake::More,
            };
            let has_more = self.work(wake, &mut sources, &mut events);
            self.finish_turn();
            if has_more {
                // While deliveries are always there, the runtime looks at sockets and timers only when it is let.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// What comes at the end of each turn.
    pub(super) fn finish_turn(&mut self) {
        self.read_rest();
        self.flush_some();
        self.next_pages();
    }

    /// Does what there is to do; whether the turn ended before all deliveries were taken.
    fn work(&mut self, wake: Wake, sources: &mut Sources, events: &mut Events) -> bool {
        match wake {
            Wake::Sockets => self.sockets(events),
            Wake::NodeEvent(first) => return self.deliveries(first, &mut sources.inbox),
            Wake::Order(order) => {
                self.order(order);
                for _ in 0..ORDERS_PER_TURN {
                    let Ok(order) = sources.orders.try_recv() else { break };
                    self.order(order);
                }
            }
            Wake::Stream(key) => {
                if let Some(at) = self.find(key) {
                    self.stream_woken(at);
                }
            }
            Wake::NodeResponse(answer) => {
                self.answered(answer);
                for _ in 0..ORDERS_PER_TURN {
                    let Ok(answer) = sources.answers.try_recv() else { break };
                    self.answered(answer);
                }
            }
            Wake::Tick => self.tick(),
            Wake::More => {}
        }
        false
    }

    /// Takes deliveries, as many as one turn has time for; whether there may be more.
    pub(super) fn deliveries(&mut self, first: Option<NodeEvent>, inbox: &mut ShardReceiver) -> bool {
        let mut next = first;
        let (mut taken, mut publications) = (0, 0);
        while let Some(delivery) = next.take() {
            (taken, publications) = (taken + 1, publications + delivery.publications());
            self.deliver(delivery);
            if taken < DELIVERIES_PER_TURN && publications < PUBLICATIONS_PER_TURN {
                next = inbox.try_next();
            }
        }
        self.gaps(inbox.take_overflow());
        taken == DELIVERIES_PER_TURN || publications >= PUBLICATIONS_PER_TURN
    }

    fn sockets(&mut self, events: &Events) {
        for event in events {
            let Some(at) = self.find(event.token().0 as u64) else { continue };
            if event.is_writable()
                && let Some(connection) = self.connections.get_mut(at as usize)
                && std::mem::take(&mut connection.blocked)
            {
                self.mark(at);
            }
            if self.is_paused(at) {
                // What came stays in the socket, its end included; but a connection that is broken ends here.
                if event.is_error() || event.is_write_closed() {
                    self.remove(at);
                }
            } else if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(at, event.is_read_closed() || event.is_error());
            }
        }
    }

    fn read_rest(&mut self) {
        for _ in 0..self.unread.len() {
            let Some(key) = self.unread.pop_front() else { return };
            if let Some(at) = self.find(key) {
                self.connections[at as usize].unread = false;
                // What was kept when reading was paused.
                self.received(at, &mut []);
                self.read(at, true);
            }
        }
    }

    /// Whether nothing is read from a client for now.
    pub(super) fn is_paused(&self, at: ConnectionId) -> bool {
        self.connections
            .get(at as usize)
            .is_some_and(|connection| matches!(&connection.kind, Kind::WebSocket(session) if session.paused))
    }

    /// Reads from a connection at the end of the turn.
    pub(super) fn read_later(&mut self, at: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(at as usize)
            && !std::mem::replace(&mut connection.unread, true)
        {
            self.unread.push_back(key(at, connection.generation));
        }
    }

    /// Reads what has arrived. A short read means that there is no more, and a new event will come with more; unless
    /// the end has been announced, which comes with no event of its own.
    fn read(&mut self, at: ConnectionId, to_end: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for turn in 1.. {
            if self.is_paused(at) {
                break;
            }
            let Some(connection) = self.connections.get_mut(at as usize) else { break };
            match connection.link.read(&mut scratch) {
                Ok(0) => {
                    self.remove(at);
                    break;
                }
                Ok(length) => {
                    if connection.is_open() && matches!(connection.kind, Kind::WebSocket(_)) {
                        self.received(at, &mut scratch[..length]);
                    }
                    if length < READ_BYTES && !to_end {
                        break;
                    }
                    if turn == READS_PER_TURN {
                        self.read_later(at);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.remove(at);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    pub(super) fn stream_woken(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Link::Stream(stream) = &connection.link else { return };
        if stream.is_closed() {
            self.remove(at);
        } else if std::mem::take(&mut connection.blocked) {
            self.mark(at);
        }
    }

    pub(super) fn find(&self, key: u64) -> Option<ConnectionId> {
        let at = u32::try_from(key & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let connection = self.connections.get(at as usize)?;
        (u64::from(connection.generation) == key >> 32).then_some(at)
    }

    pub(super) fn is_open(&self, at: ConnectionId) -> bool {
        self.connections.get(at as usize).is_some_and(Connection::is_open)
    }

    pub(super) fn session(&mut self, at: ConnectionId) -> Option<&mut Session> {
        self.connections.get_mut(at as usize).and_then(Connection::session)
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
