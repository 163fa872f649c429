//! A shard's loop, and the life of its connections from arrival to removal.
//!
//! Owns the order of work: sockets, deliveries, arrivals, answers and timers take turns, and after each turn a bounded
//! number of connections is flushed, so that a broadcast to very many neither starves reads nor timers. What is
//! published meanwhile joins the same flush. Must never wait for anything but all of these together.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Disconnect, ErrorCode, Reply, ReplyBody};
use mio::{Events, Interest, Token};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channels::{ChannelId, Channels, ConnectionId};
use super::connection::{Connection, Deadline, Kind, Phase, Session, Status, Stream, Subscription};
use super::link::{Flushed, Link, Written};
use super::outbox::Outbox;
use super::wheel::{TICK, Tick, Wheel};
use super::{Arrival, ArrivalKind, Order, ShardLimits, session, sse, websocket};
use crate::metrics::ShardCounters;
use crate::node::Node;
use crate::node::lane::{Answer, Ask};
use crate::node::port::{Delivery, Inbox};

/// Connections flushed in one turn.
const FLUSHES_PER_TURN: usize = 256;

/// Deliveries taken in one turn.
const DELIVERIES_PER_TURN: usize = 64;

/// Arrivals and answers taken in one turn.
const ORDERS_PER_TURN: usize = 128;

/// Reads made on one socket in one turn.
const READS_PER_TURN: usize = 4;

/// Bytes read at once; one buffer for all connections of the shard.
const READ_BYTES: usize = 64 * 1024;

/// Ticks between two looks at the streams that hyper carries, in case a wake was lost.
const STREAM_LOOK_TICKS: u64 = 5;

/// What a shard waits for.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) inbox: Inbox,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) woken: mpsc::Receiver<u64>,
    pub(super) answers: mpsc::Receiver<Answer>,
}

/// The state of a shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) node: Arc<Node>,
    pub(super) limits: ShardLimits,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) connections: Slab<Connection>,
    pub(super) channels: Channels,
    /// Connections with something to write.
    dirty: VecDeque<ConnectionId>,
    /// Connections with bytes left to read after their turn.
    unread: VecDeque<u64>,
    /// Connections that a broadcast found too slow.
    pub(super) slow: Vec<ConnectionId>,
    /// Channels to be given up, for which the lane had no room.
    detaching: Vec<ChannelName>,
    /// Connections that are streams inside a connection of hyper's.
    streams: Vec<u64>,
    wheel: Wheel,
    poll: Option<mio::Poll>,
    registry: mio::Registry,
    generation: u32,
    scratch: Vec<u8>,
    leaving: bool,
}

enum Wake {
    Sockets,
    Delivery(Option<Delivery>),
    Order(Order),
    Stream(u64),
    Answer(Answer),
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
        asks: mpsc::Sender<Ask>,
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
            unread: VecDeque::new(),
            slow: Vec::new(),
            detaching: Vec::new(),
            streams: Vec::new(),
            wheel: Wheel::new(Instant::now()),
            registry: poll.registry().try_clone()?,
            poll: Some(poll),
            generation: 0,
            scratch: vec![0; READ_BYTES],
            leaving: false,
        })
    }

    async fn run(&mut self, mut poll: AsyncFd<mio::Poll>, mut sources: Sources) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !(self.leaving && self.connections.is_empty()) {
            let more = !self.dirty.is_empty() || !self.unread.is_empty();
            let wake = tokio::select! {
                ready = poll.readable_mut() => {
                    let mut ready = ready?;
                    poll_now(ready.get_inner_mut(), &mut events)?;
                    if events.is_empty() {
                        ready.clear_ready();
                    }
                    Wake::Sockets
                }
                delivery = sources.inbox.next() => Wake::Delivery(delivery),
                Some(order) = sources.orders.recv() => Wake::Order(order),
                Some(key) = sources.woken.recv() => Wake::Stream(key),
                Some(answer) = sources.answers.recv() => Wake::Answer(answer),
                _ = tick.tick() => Wake::Tick,
                () = std::future::ready(()), if more => Wake::More,
            };
            self.work(wake, &mut sources, &mut events);
            self.read_rest();
            self.flush_some();
        }
        Ok(())
    }

    fn work(&mut self, wake: Wake, sources: &mut Sources, events: &mut Events) {
        match wake {
            Wake::Sockets => self.sockets(events),
            Wake::Delivery(first) => self.deliveries(first, &mut sources.inbox),
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
            Wake::Answer((ticket, result)) => {
                self.answered(ticket, &result);
                for _ in 0..ORDERS_PER_TURN {
                    let Ok((ticket, result)) = sources.answers.try_recv() else { break };
                    self.answered(ticket, &result);
                }
            }
            Wake::Tick => self.tick(),
            Wake::More => {}
        }
    }

    fn deliveries(&mut self, first: Option<Delivery>, inbox: &mut Inbox) {
        let mut next = first;
        for _ in 0..DELIVERIES_PER_TURN {
            match next {
                Some(delivery) => self.deliver(delivery),
                None => return self.gaps(inbox.take_overflow()),
            }
            next = inbox.try_next();
        }
        if let Some(delivery) = next {
            self.deliver(delivery);
        }
    }

    // --- arrivals ---

    fn order(&mut self, order: Order) {
        match order {
            Order::Take(arrival) => self.arrive(*arrival),
            Order::Leave(spread) => self.leave_all(spread),
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let Arrival { mut link, kind, greeting, early } = arrival;
        self.generation = self.generation.wrapping_add(1).max(1);
        let (generation, age_limit) = (self.generation, self.age_limit());
        let entry = self.connections.vacant_entry();
        let at = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = key(at, generation);
        if !enter(&self.registry, &mut link, key) {
            return;
        }
        let chunked = matches!(link, Link::Socket(_));
        if !chunked {
            self.streams.push(key);
        }
        let (kind, begin) = begin(kind, chunked, age_limit);
        entry.insert(Connection {
            link,
            generation,
            outbox: Outbox::default(),
            dirty: false,
            blocked: false,
            progress: false,
            phase: Phase::Open,
            deadline: Deadline::Connect,
            due: 0,
            armed: u64::MAX,
            subscriptions: Vec::new(),
            kind,
        });
        if !greeting.is_empty() {
            self.push(at, greeting);
        }
        match begin {
            Begin::WebSocket(refusal) => {
                self.counters.websockets.add(1);
                self.set_deadline(at, Deadline::Connect, self.limits.connect_timeout);
                if let Some(refusal) = refusal {
                    return self.disconnect(at, refusal);
                }
            }
            Begin::Sse(channels) => {
                self.counters.sse.add(1);
                self.set_heartbeat(at);
                self.open_stream(at, channels);
            }
        }
        if self.leaving {
            self.leave_one(at);
        }
        if !early.is_empty() {
            self.received(at, &mut early.to_vec());
        }
    }

    // --- reading ---

    fn sockets(&mut self, events: &Events) {
        for event in events {
            let Some(at) = self.find(event.token().0 as u64) else { continue };
            if event.is_writable()
                && let Some(connection) = self.connections.get_mut(at as usize)
                && std::mem::take(&mut connection.blocked)
            {
                self.mark(at);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(at);
            }
        }
    }

    fn read_rest(&mut self) {
        for _ in 0..self.unread.len() {
            let Some(key) = self.unread.pop_front() else { return };
            if let Some(at) = self.find(key) {
                self.read(at);
            }
        }
    }

    fn read(&mut self, at: ConnectionId) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for turn in 1.. {
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
                    if length < READ_BYTES {
                        break;
                    }
                    if turn == READS_PER_TURN {
                        if let Some(connection) = self.connections.get(at as usize) {
                            self.unread.push_back(key(at, connection.generation));
                        }
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

    fn stream_woken(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Link::Stream(stream) = &connection.link else { return };
        if stream.is_closed() {
            self.remove(at);
        } else if std::mem::take(&mut connection.blocked) {
            self.mark(at);
        }
    }

    // --- writing ---

    /// Puts a frame into a connection's outbox. Whoever lets too much pile up is closed as slow.
    pub(super) fn push(&mut self, at: ConnectionId, frame: Bytes) {
        let limit = self.limits.outbox_bytes;
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let full = connection.is_open() && connection.outbox.bytes() + frame.len() > limit;
        if full && !connection.outbox.is_empty() {
            return self.disconnect(at, Disconnect::Slow);
        }
        self.push_control(at, frame);
    }

    /// A frame that is written whatever else waits.
    fn push_control(&mut self, at: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(at as usize) {
            self.counters.outbox_bytes.add(frame.len() as u64);
            connection.outbox.push(frame);
            self.mark(at);
        }
    }

    /// Puts a connection into the queue of those to be flushed.
    pub(super) fn mark(&mut self, at: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(at as usize)
            && !connection.blocked
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push_back(at);
        }
    }

    fn flush_some(&mut self) {
        let mut flushed = Flushed::default();
        for _ in 0..FLUSHES_PER_TURN {
            let Some(at) = self.dirty.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(at as usize) else { continue };
            if !std::mem::take(&mut connection.dirty) {
                continue;
            }
            let before = flushed.bytes;
            match connection.link.flush(&mut connection.outbox, &mut flushed) {
                Ok(written) => {
                    connection.blocked = written == Written::Blocked;
                    connection.progress |= flushed.bytes > before;
                    if written == Written::All && connection.phase == Phase::Ending {
                        self.flushed_last(at);
                    }
                }
                Err(_) => self.remove(at),
            }
        }
        self.counters.outbox_bytes.sub(flushed.bytes);
        self.counters.writes.add(flushed.writes);
        self.counters.bytes_out.add(flushed.bytes);
    }

    fn flushed_last(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.link.finish();
        connection.phase = Phase::Finished;
        if matches!(connection.link, Link::Stream(_)) {
            self.remove(at);
        }
    }

    // --- time ---

    /// What is to happen with a connection next, and when.
    pub(super) fn set_deadline(&mut self, at: ConnectionId, deadline: Deadline, wait: Duration) {
        let due = self.wheel.after(wait);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.deadline = deadline;
        connection.due = due;
        if due < connection.armed {
            connection.armed = self.wheel.enter(key(at, connection.generation), due);
        }
    }

    fn set_heartbeat(&mut self, at: ConnectionId) {
        self.set_deadline(at, Deadline::Heartbeat, jittered(self.limits.sse_heartbeat));
    }

    /// When a stream that begins now is to end.
    fn age_limit(&self) -> Option<Tick> {
        self.limits.sse_max_age.map(|age| self.wheel.after(jittered(age)))
    }

    /// A stream is kept alive, or ended when it is old enough.
    fn heartbeat(&mut self, at: ConnectionId) {
        let Some(Connection { kind: Kind::Sse(stream), .. }) = self.connections.get(at as usize) else {
            return;
        };
        if stream.ends.is_some_and(|ends| ends <= self.wheel.now()) {
            return self.finish(at);
        }
        self.event(at, &sse::heartbeat());
        self.set_heartbeat(at);
    }

    fn tick(&mut self) {
        self.give_up_channels();
        if self.wheel.now().is_multiple_of(STREAM_LOOK_TICKS) {
            self.look_at_streams();
        }
        while let Some(keys) = self.wheel.turn(Instant::now()) {
            for key in keys {
                self.turn_of(key);
            }
        }
    }

    fn turn_of(&mut self, key: u64) {
        let Some(at) = self.find(key) else { return };
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.armed != self.wheel.now() {
            return;
        }
        if connection.due > connection.armed {
            connection.armed = self.wheel.enter(key, connection.due);
            return;
        }
        connection.armed = u64::MAX;
        match connection.deadline {
            Deadline::Connect => self.disconnect(at, Disconnect::Stale),
            Deadline::Ping => self.ping(at),
            Deadline::Pong => self.no_pong(at),
            Deadline::Heartbeat => self.heartbeat(at),
            Deadline::Leave => self.leave_one(at),
            Deadline::Close => self.remove(at),
        }
    }

    fn ping(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.progress = false;
        let Some(session) = connection.session() else { return };
        session.pong_due = true;
        let frame = session::encode(session, &Reply { id: 0, body: ReplyBody::Ping });
        self.push_control(at, frame);
        self.set_deadline(at, Deadline::Pong, self.limits.pong_timeout);
    }

    /// The pong did not come in time. A client that is still busy reading what stood before the ping has not even
    /// seen it; it is given more time as long as it goes on reading.
    fn no_pong(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.blocked && std::mem::take(&mut connection.progress) {
            return self.set_deadline(at, Deadline::Pong, self.limits.pong_timeout);
        }
        self.disconnect(at, Disconnect::NoPong);
    }

    // --- leaving ---

    fn leave_all(&mut self, spread: Duration) {
        self.leaving = true;
        let all: Vec<ConnectionId> =
            self.connections.iter().map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX)).collect();
        for at in all {
            if self.is_open(at) {
                self.set_deadline(at, Deadline::Leave, spread.mul_f64(fastrand::f64()));
            }
        }
    }

    fn leave_one(&mut self, at: ConnectionId) {
        if !self.is_open(at) {
            return;
        }
        self.count_disconnect(Disconnect::Shutdown);
        match self.connections[at as usize].kind {
            Kind::WebSocket(_) => {
                self.close(at, Some(Disconnect::Shutdown.code()), Disconnect::Shutdown.reason());
            }
            Kind::Sse(_) => self.finish(at),
        }
    }

    /// Ends a connection for a reason that the client is told. What waits is dropped: the client comes again and
    /// asks for it, or has been told that it cannot.
    pub(super) fn disconnect(&mut self, at: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        if disconnect == Disconnect::Slow {
            let waited = connection.outbox.bytes();
            connection.outbox.drop_unsent();
            self.counters.outbox_bytes.sub((waited - connection.outbox.bytes()) as u64);
        }
        let websocket = matches!(connection.kind, Kind::WebSocket(_));
        self.count_disconnect(disconnect);
        if websocket {
            return self.close(at, Some(disconnect.code()), disconnect.reason());
        }
        // The blank line ends an event of which only a part was sent.
        let mut event = b"\n".to_vec();
        event.extend(sse::error(u32::from(disconnect.code()), disconnect.reason()));
        self.end(at);
        self.control_event(at, &event);
        self.finish(at);
    }

    fn control_event(&mut self, at: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(at as usize) else { return };
        let chunked = matches!(&connection.kind, Kind::Sse(stream) if stream.chunked);
        let piece = if chunked { sse::chunk(event) } else { Bytes::copy_from_slice(event) };
        self.push_control(at, piece);
    }

    /// Closes a WebSocket; also the answer to a client's close.
    pub(super) fn close(&mut self, at: ConnectionId, code: Option<u16>, reason: &str) {
        if self.is_open(at) {
            self.end(at);
            self.push_control(at, websocket::close_frame(code, reason));
        }
    }

    /// Ends a stream after what waits.
    pub(super) fn finish(&mut self, at: ConnectionId) {
        self.end(at);
        let Some(connection) = self.connections.get(at as usize) else { return };
        if matches!(connection.link, Link::Socket(_)) {
            self.push_control(at, Bytes::from_static(sse::LAST_CHUNK));
        } else {
            self.mark(at);
        }
    }

    /// From now on nothing is accepted and nothing is heard.
    fn end(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        connection.phase = Phase::Ending;
        self.leave_channels(at);
        self.set_deadline(at, Deadline::Close, self.limits.close_timeout);
    }

    pub(super) fn remove(&mut self, at: ConnectionId) {
        if !self.connections.contains(at as usize) {
            return;
        }
        self.leave_channels(at);
        let mut connection = self.connections.remove(at as usize);
        self.counters.outbox_bytes.sub(connection.outbox.bytes() as u64);
        match connection.kind {
            Kind::WebSocket(_) => self.counters.websockets.sub(1),
            Kind::Sse(_) => self.counters.sse.sub(1),
        }
        if let Link::Socket(socket) = &mut connection.link {
            // The socket is closed in a moment, which takes it out of the poll all the same.
            let _ = self.registry.deregister(socket);
        }
        if self.connections.is_empty() {
            self.connections.shrink_to_fit();
        }
    }

    // --- subscriptions ---

    /// Enters a subscription: ready when the shard hears the channel already, waiting otherwise.
    pub(super) fn wish(&mut self, at: ConnectionId, name: ChannelName) -> Result<ChannelId, ErrorCode> {
        let id = match self.channels.find(&name) {
            Some(id) => id,
            None => {
                self.asks.try_send(Ask::Attach(name.clone())).map_err(|_| ErrorCode::TooManyRequests)?;
                self.channels.insert(name)
            }
        };
        let channel = self.channels.at_mut(id);
        let status = if channel.live { Status::Ready } else { Status::Waiting };
        // A place in the list keeps the channel from being given up, also while the reply is not written yet.
        channel.waiters.push(at);
        if let Some(connection) = self.connections.get_mut(at as usize) {
            connection.subscriptions.push(Subscription { channel: id, status });
        }
        self.counters.subscriptions.add(1);
        Ok(id)
    }

    /// The reply is on its way: from now on the connection hears the channel.
    pub(super) fn join(&mut self, at: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        if subscription.status == Status::Ready {
            let channel = self.channels.at_mut(id);
            stop_waiting(&mut channel.waiters, at);
            subscription.status = Status::Joined(channel.join(at));
        }
    }

    /// The connection no longer hears the channel.
    pub(super) fn leave(&mut self, at: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(status) = connection.forget(id) else { return };
        self.counters.subscriptions.sub(1);
        let channel = self.channels.at_mut(id);
        match status {
            Status::Joined(place) => {
                if let Some(moved) = channel.leave(place)
                    && let Some(connection) = self.connections.get_mut(moved as usize)
                    && let Some(subscription) = connection.subscription_mut(id)
                {
                    subscription.status = Status::Joined(place);
                }
            }
            Status::Waiting | Status::Ready => stop_waiting(&mut channel.waiters, at),
        }
        self.give_up(id);
    }

    fn leave_channels(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let channels: Vec<ChannelId> = connection.subscriptions.iter().map(|s| s.channel).collect();
        for channel in channels {
            self.leave(at, channel);
        }
    }

    /// Gives a channel up when nobody here wants it any more. While the node has not answered yet, it is kept.
    pub(super) fn give_up(&mut self, id: ChannelId) {
        let channel = self.channels.at(id);
        if channel.live && channel.is_unused() {
            let name = self.channels.remove(id).name;
            self.detaching.push(name);
            self.give_up_channels();
        }
    }

    fn give_up_channels(&mut self) {
        while let Some(name) = self.detaching.pop() {
            // Wanted again meanwhile: the node is asked anew, and a late detach would make the shard deaf.
            if self.channels.find(&name).is_some() {
                continue;
            }
            if let Err(refused) = self.asks.try_send(Ask::Detach(name)) {
                if let Ask::Detach(name) = refused.into_inner() {
                    self.detaching.push(name);
                }
                return;
            }
        }
    }

    // --- small things ---

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

    fn count_disconnect(&self, disconnect: Disconnect) {
        if let Some(place) = Disconnect::ALL.iter().position(|other| *other == disconnect) {
            self.counters.disconnects[place].add(1);
        }
    }

    /// Streams whose wake found no place are looked at here.
    fn look_at_streams(&mut self) {
        for key in std::mem::take(&mut self.streams) {
            if let Some(at) = self.find(key) {
                self.streams.push(key);
                self.stream_woken(at);
            }
        }
    }
}

enum Begin {
    WebSocket(Option<Disconnect>),
    Sse(Vec<ChannelName>),
}

fn begin(kind: ArrivalKind, chunked: bool, ends: Option<Tick>) -> (Kind, Begin) {
    match kind {
        ArrivalKind::WebSocket { encoding, refusal } => {
            (Kind::WebSocket(Box::new(Session::new(encoding))), Begin::WebSocket(refusal))
        }
        ArrivalKind::Sse { channels, named, resume } => {
            let stream = Stream { named, chunked, began: false, resume, ends };
            (Kind::Sse(Box::new(stream)), Begin::Sse(channels))
        }
    }
}

/// A time, give or take a fifth.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.8 + fastrand::f64() * 0.4)
}

fn enter(registry: &mio::Registry, link: &mut Link, key: u64) -> bool {
    match link {
        Link::Socket(socket) => {
            let token = Token(usize::try_from(key).unwrap_or(usize::MAX));
            registry.register(socket, token, Interest::READABLE | Interest::WRITABLE).is_ok()
        }
        Link::Stream(stream) => {
            stream.enter(key);
            true
        }
    }
}

fn stop_waiting(waiters: &mut Vec<ConnectionId>, at: ConnectionId) {
    if let Some(place) = waiters.iter().position(|waiter| *waiter == at) {
        waiters.swap_remove(place);
    }
    if waiters.is_empty() {
        *waiters = Vec::new();
    }
}

fn poll_now(poll: &mut mio::Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, Some(Duration::ZERO)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}
