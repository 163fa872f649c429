//! The life of a connection: how it arrives, why it ends, and how it is gone.
//!
//! Owns the order of a goodbye: what waits is written, then the close or the last chunk, then the link is finished,
//! and a peer that does not answer is let go. Must never decide whether a client deserves it.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Disconnect, Encoding};
use mio::{Interest, Token};

use super::channels::ConnectionId;
use super::connection::{Connection, Deadline, Kind, Phase, Session, Stream};
use super::link::Link;
use super::outbox::Outbox;
use super::reactor::{Shard, key};
use super::wheel::Tick;
use super::{Arrival, ArrivalKind, Order, REFUSED_CLOSE_TIMEOUT, sse, stream, websocket};
use crate::node::publication::FrameEncoding;

impl Shard {
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Take(arrival) => self.arrive(*arrival),
            Order::Leave { spread, patience } => self.leave_all(spread, patience),
        }
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let Arrival { mut link, kind, permit, greeting, greeted, early } = arrival;
        let is_reserved = permit.is_reserved();
        self.counters.writes.add(u64::from(greeted > 0));
        self.counters.bytes_out.add(greeted as u64);
        self.generation = self.generation.wrapping_add(1).max(1);
        let (generation, age_limit) = (self.generation, self.age_limit());
        let entry = self.connections.vacant_entry();
        let at = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = key(at, generation);
        if !enter(&self.registry, &mut link, key) {
            return;
        }
        if !link.is_socket() {
            self.streams.push(key);
        }
        let form = form(&kind);
        let (kind, begin) = begin(kind, age_limit);
        entry.insert(Connection {
            link,
            generation,
            form,
            outbox: Outbox::default(),
            dirty: false,
            unread: false,
            blocked: false,
            watched: false,
            progress: false,
            phase: Phase::Open,
            deadline: Deadline::Connect,
            due: 0,
            armed: u64::MAX,
            subscriptions: Vec::new(),
            gapped: Vec::new(),
            held: None,
            backlog: None,
            allowance: 0,
            paged_recovery: None,
            unread_replies: false,
            permit,
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
                    self.disconnect(at, refusal);
                }
            }
            Begin::Sse(channels, refusal) => {
                self.counters.sse.add(1);
                self.set_heartbeat(at);
                self.open_stream(at, channels, refusal);
            }
        }
        if is_reserved {
            let wait = self.limits.close_timeout.min(REFUSED_CLOSE_TIMEOUT);
            self.set_deadline(at, Deadline::Close, wait);
        }
        if self.leaving {
            self.leave_one(at);
        }
        if !early.is_empty() {
            self.received(at, &mut early.to_vec());
        }
    }

    pub(super) fn leave_all(&mut self, spread: Duration, patience: Duration) {
        self.leaving = true;
        self.limits.close_timeout = self.limits.close_timeout.min(patience);
        let all: Vec<ConnectionId> =
            self.connections.iter().map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX)).collect();
        for at in all {
            if self.is_open(at) {
                self.set_deadline(at, Deadline::Leave, spread.mul_f64(fastrand::f64()));
            } else {
                self.set_deadline(at, Deadline::Close, self.limits.close_timeout);
            }
        }
    }

    pub(super) fn leave_one(&mut self, at: ConnectionId) {
        if !self.is_open(at) {
            return;
        }
        self.disconnect(at, Disconnect::Shutdown);
    }

    /// Ends a connection for a reason that the client is told. What waits is dropped: the client comes again and
    /// asks for it, or has been told that it cannot.
    pub(super) fn disconnect(&mut self, at: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        if disconnect == Disconnect::Slow {
            let waited = connection.outbox.bytes() + connection.backlog_bytes();
            connection.backlog = None;
            // An event without its id would come to the client, and come again when it is back.
            connection.outbox.drop_unsent(sse::is_rest);
            self.counters.client_queue_bytes.sub((waited - connection.outbox.bytes()) as u64);
        }
        let websocket = matches!(connection.kind, Kind::WebSocket(_));
        self.count_disconnect(disconnect);
        if websocket {
            return self.close(at, Some(disconnect.code()), disconnect.reason());
        }
        let event = sse::error(u32::from(disconnect.code()), disconnect.reason(), self.retry_ms());
        self.end(at);
        self.control_event(at, &event);
        self.finish(at);
    }

    pub(super) fn control_event(&mut self, at: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(at as usize) else { return };
        let piece = stream::piece(connection, event);
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
    pub(super) fn end(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        self.catch_up(at);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.phase = Phase::Ending;
        // Its commands are not answered any more. What it sends is read and dropped, so that its end is noticed.
        if let Some(session) = connection.session() {
            (session.pending, session.inbound) = Default::default();
            if std::mem::take(&mut session.paused) {
                self.read_later(at);
            }
        }
        self.leave_channels(at);
        self.set_deadline(at, Deadline::Close, self.limits.close_timeout);
    }

    pub(super) fn remove(&mut self, at: ConnectionId) {
        if !self.connections.contains(at as usize) {
            return;
        }
        self.leave_channels(at);
        let mut connection = self.connections.remove(at as usize);
        self.counters.client_queue_bytes.sub((connection.outbox.bytes() + connection.backlog_bytes()) as u64);
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
}

enum Begin {
    WebSocket(Option<Disconnect>),
    Sse(Vec<ChannelName>, Option<Disconnect>),
}

/// How publications are written onto it.
fn form(kind: &ArrivalKind) -> FrameEncoding {
    match kind {
        ArrivalKind::WebSocket { encoding: Encoding::Json, .. } => FrameEncoding::WebSocketJson,
        ArrivalKind::WebSocket { encoding: Encoding::Protobuf, .. } => FrameEncoding::WebSocketProtobuf,
        ArrivalKind::Sse { named: false, .. } => FrameEncoding::SseSingle,
        ArrivalKind::Sse { named: true, .. } => FrameEncoding::SseNamed,
    }
}

fn begin(kind: ArrivalKind, ends: Option<Tick>) -> (Kind, Begin) {
    match kind {
        ArrivalKind::WebSocket { encoding, refusal } => {
            (Kind::WebSocket(Box::new(Session::new(encoding))), Begin::WebSocket(refusal))
        }
        ArrivalKind::Sse { channels, ping, resume, refusal, .. } => {
            let (openings, positions) = (Vec::new(), Vec::new());
            let stream = Stream { openings, began: false, ping, resume, positions, ends };
            (Kind::Sse(Box::new(stream)), Begin::Sse(channels, refusal))
        }
    }
}

fn enter(registry: &mio::Registry, link: &mut Link, key: u64) -> bool {
    match link {
        Link::Socket(socket) => {
            let token = Token(usize::try_from(key).unwrap_or(usize::MAX));
            // Whether it is writable again is asked when it once was not: a new socket always is.
            registry.register(socket, token, Interest::READABLE).is_ok()
        }
        Link::Stream(stream) => {
            stream.enter(key);
            true
        }
    }
}
