//! The lifecycle of a connection: insertion, close, removal.
//!
//! Owns the order of a close: what is queued, then the close frame or the last chunk, then the shutdown of the sink. A
//! client that does not close its end is removed after a timeout. The callers decide which clients to disconnect.

use std::time::Duration;

use earshot_protocol::Disconnect;
use mio::{Interest, Token};

use super::channels::ConnectionId;
use super::connection::{Connection, ConnectionKind, Phase, TimerKind};
use super::event_loop::{Shard, key};
use super::framing::Framing;
use super::send_queue::SendQueue;
use super::session::Session;
use super::sink::Sink;
use super::sse_stream::SseStream;
use super::timer_wheel::Tick;
use super::{NewConnection, NewConnectionKind, REJECTED_CLOSE_TIMEOUT, ShardCommand, websocket_frames};
use crate::node::namespace::ResolvedChannel;

impl Shard {
    pub(super) fn on_command(&mut self, order: ShardCommand) {
        match order {
            ShardCommand::Accept(arrival) => self.insert(*arrival),
            ShardCommand::Drain { window, close_timeout } => self.drain(window, close_timeout),
        }
    }

    pub(super) fn insert(&mut self, arrival: NewConnection) {
        let NewConnection {
            mut sink,
            network,
            kind,
            permit,
            response_head,
            response_head_written,
            prefetched,
        } = arrival;
        let is_reserved = permit.is_reserved();
        self.counters.writes.add(u64::from(response_head_written > 0));
        self.counters.bytes_out.add(response_head_written as u64);
        self.generation = self.generation.wrapping_add(1).max(1);
        let (generation, max_age_at) = (self.generation, self.max_age_at());
        let entry = self.connections.vacant_entry();
        let connection_id = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = key(connection_id, generation);
        if !enter(&self.registry, &mut sink, key) {
            return;
        }
        if !sink.is_socket() {
            self.streams.push(key);
        }
        let framing = Framing::new(&kind, sink.is_socket());
        let (kind, opened) = open(kind, max_age_at);
        entry.insert(Connection {
            sink,
            network,
            generation,
            framing,
            send_queue: SendQueue::default(),
            flush_scheduled: false,
            has_pending_read: false,
            blocked: false,
            writable_registered: false,
            wrote_since_timer: false,
            phase: Phase::Open,
            timer: TimerKind::Connect,
            due: 0,
            armed: u64::MAX,
            subscriptions: Vec::new(),
            awaiting_resubscribe: Vec::new(),
            deferred: None,
            paged_recovery: None,
            replies_paused: false,
            permit,
            kind,
        });
        if !response_head.is_empty() {
            self.enqueue(connection_id, response_head);
        }
        framing.open_connections(&self.counters).add(1);
        match opened {
            Opened::WebSocket(rejection) => {
                self.set_timer(connection_id, TimerKind::Connect, self.limits.connect_timeout);
                if let Some(rejection) = rejection {
                    self.disconnect(connection_id, rejection);
                }
            }
            Opened::Sse(channels, rejection) => {
                self.set_heartbeat(connection_id);
                self.open_stream(connection_id, channels, rejection);
            }
        }
        if is_reserved {
            let wait = self.limits.close_timeout.min(REJECTED_CLOSE_TIMEOUT);
            self.set_timer(connection_id, TimerKind::Close, wait);
        }
        if self.draining {
            self.drain_one(connection_id);
        }
        if !prefetched.is_empty() {
            self.on_bytes(connection_id, &mut prefetched.to_vec());
        }
    }

    pub(super) fn drain(&mut self, window: Duration, close_timeout: Duration) {
        self.draining = true;
        self.limits.close_timeout = self.limits.close_timeout.min(close_timeout);
        let all: Vec<ConnectionId> = self
            .connections
            .iter()
            .map(|(connection_id, _)| u32::try_from(connection_id).unwrap_or(u32::MAX))
            .collect();
        for connection_id in all {
            if self.is_open(connection_id) {
                self.set_timer(connection_id, TimerKind::Drain, window.mul_f64(fastrand::f64()));
            } else {
                self.set_timer(connection_id, TimerKind::Close, self.limits.close_timeout);
            }
        }
    }

    pub(super) fn drain_one(&mut self, connection_id: ConnectionId) {
        if !self.is_open(connection_id) {
            return;
        }
        self.disconnect(connection_id, Disconnect::Shutdown);
    }

    /// Closes a connection with a code and a reason for the client. If the client is slow, what is queued is
    /// discarded: the client recovers it after it reconnects.
    pub(super) fn disconnect(&mut self, connection_id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        if disconnect == Disconnect::Slow {
            connection.send_queue.discard_unsent(&self.counters);
        }
        let framing = connection.framing;
        self.count_disconnect(disconnect);
        let close = framing.close(disconnect, self.retry_ms());
        self.begin_close(connection_id);
        self.enqueue_control(connection_id, close);
        if framing.is_event_stream() {
            self.end_stream(connection_id);
        }
    }

    /// Closes a WebSocket, or answers the client's close.
    pub(super) fn close(&mut self, connection_id: ConnectionId, code: Option<u16>, reason: &str) {
        if self.is_open(connection_id) {
            self.begin_close(connection_id);
            self.enqueue_control(connection_id, websocket_frames::close_frame(code, reason));
        }
    }

    /// Ends a stream after what is queued.
    pub(super) fn end_stream(&mut self, connection_id: ConnectionId) {
        self.begin_close(connection_id);
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        match connection.framing.end() {
            Some(end) => self.enqueue_control(connection_id, end),
            None => self.schedule_flush(connection_id),
        }
    }

    /// Stops accepting input and unsubscribes from all channels.
    pub(super) fn begin_close(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        self.flush_backlog(connection_id);
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        connection.phase = Phase::Draining;
        // Its commands are not answered. Input is read and discarded, so that the end of the connection is noticed.
        if connection.session().is_some_and(Session::on_close) {
            self.read_later(connection_id);
        }
        self.unsubscribe_all(connection_id);
        self.set_timer(connection_id, TimerKind::Close, self.limits.close_timeout);
    }

    pub(super) fn remove(&mut self, connection_id: ConnectionId) {
        if !self.connections.contains(connection_id as usize) {
            return;
        }
        self.unsubscribe_all(connection_id);
        let mut connection = self.connections.remove(connection_id as usize);
        connection.send_queue.on_removed(&self.counters);
        connection.framing.open_connections(&self.counters).sub(1);
        if let Sink::Socket(socket) = &mut connection.sink {
            // The socket is closed next, which also removes it from the poll.
            let _ = self.registry.deregister(socket);
        }
        if self.connections.is_empty() {
            self.connections.shrink_to_fit();
        }
    }
}

enum Opened {
    WebSocket(Option<Disconnect>),
    Sse(Vec<ResolvedChannel>, Option<Disconnect>),
}

fn open(kind: NewConnectionKind, max_age_at: Option<Tick>) -> (ConnectionKind, Opened) {
    match kind {
        NewConnectionKind::WebSocket { encoding, client, rejection } => (
            ConnectionKind::WebSocket(Box::new(Session::new(encoding, client))),
            Opened::WebSocket(rejection),
        ),
        NewConnectionKind::Sse { channels, ping, resume, rejection, .. } => {
            let stream = SseStream::new(ping, resume, max_age_at);
            (ConnectionKind::Sse(Box::new(stream)), Opened::Sse(channels, rejection))
        }
    }
}

fn enter(registry: &mio::Registry, sink: &mut Sink, key: u64) -> bool {
    match sink {
        Sink::Socket(socket) => {
            let token = Token(usize::try_from(key).unwrap_or(usize::MAX));
            // A new socket is writable; that is registered only after a write has blocked.
            registry.register(socket, token, Interest::READABLE).is_ok()
        }
        Sink::Hyper(stream) => {
            stream.set_key(key);
            true
        }
    }
}
