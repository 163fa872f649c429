//! Writes to the connections of a shard: queues frames and publications, and flushes send queues to sinks.
//!
//! Owns the flush queue, and the limits of what may wait for one client. Each operation concerns one connection. The
//! caller handles its consequences for subscriptions and for the connection itself. Everything queued between two
//! flushes of a connection is written with one system call. [`backpressure`] holds the rules for clients that read too
//! slowly.

mod backpressure;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mio::{Interest, Token};

pub(super) use backpressure::{Dropped, PushStatus};

use super::channels::{Channels, ConnectionId};
use super::connection::Connection;
use super::connections::key;
use super::flush_queue::FlushQueue;
use super::sink::{FlushStats, FlushStatus, Sink};
use super::timer_wheel::Tick;
use crate::metrics::ShardCounters;
use crate::node::publication::Publication;

/// The limits of what may wait for one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Bytes of memory.
    pub(super) bytes: usize,
    /// Ticks.
    pub(super) age: Tick,
}

/// Writes to the connections of a shard.
#[derive(Debug)]
pub(super) struct Writer {
    /// Connections with something to write.
    flush_queue: FlushQueue,
    registry: mio::Registry,
    limits: QueueLimits,
    /// The current tick: since when an entry waits.
    now: Tick,
    /// Written bytes that are not in the counters yet.
    flushed: FlushStats,
    counters: Arc<ShardCounters>,
}

impl Writer {
    pub(super) fn new(registry: mio::Registry, limits: QueueLimits, counters: Arc<ShardCounters>) -> Self {
        Self {
            flush_queue: FlushQueue::new(),
            registry,
            limits,
            now: 0,
            flushed: FlushStats::default(),
            counters,
        }
    }

    /// A tick begins.
    pub(super) fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// Registers the sink of a new connection. Returns whether that succeeded.
    pub(super) fn register(&self, sink: &mut Sink, key: u64) -> bool {
        match sink {
            // A new socket is writable; that is registered only after a write has blocked.
            Sink::Socket(socket) => self.registry.register(socket, token(key), Interest::READABLE).is_ok(),
            Sink::Hyper(stream) => {
                stream.set_key(key);
                true
            }
        }
    }

    /// Accounts for a removed connection: its queue no longer counts.
    pub(super) fn on_removed(&self, connection: &mut Connection) {
        connection.send_queue.on_removed(&self.counters);
        if let Sink::Socket(socket) = &mut connection.sink {
            // The socket is closed next, which also removes it from the poll.
            let _ = self.registry.deregister(socket);
        }
    }

    /// Adds a connection to the flush queue.
    #[inline]
    pub(super) fn schedule(&mut self, connection_id: ConnectionId, connection: &mut Connection) {
        self.flush_queue.schedule(connection_id, connection);
    }

    /// The number of connections in the flush queue.
    pub(super) fn scheduled(&self) -> usize {
        self.flush_queue.len()
    }

    /// Starts a turn: the limit of flushes ahead of the queue applies to each turn.
    pub(super) fn start_turn(&mut self) {
        self.flush_queue.start_turn();
    }

    /// Removes the first connection from the flush queue.
    pub(super) fn next_scheduled(&mut self) -> Option<ConnectionId> {
        self.flush_queue.pop()
    }

    /// Appends a frame after everything that is queued.
    pub(super) fn push(&mut self, connection_id: ConnectionId, connection: &mut Connection, frame: Bytes) {
        if connection.send_queue.push_last(frame, self.now, &self.counters) {
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    /// Appends a frame to the outbox, ahead of the backlog.
    pub(super) fn push_control(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        frame: Bytes,
    ) {
        connection.send_queue.push(frame, &self.counters);
        self.flush_queue.schedule(connection_id, connection);
    }

    /// Appends a frame of a recovery, which does not count against the limit.
    pub(super) fn push_recovered_frame(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        frame: Bytes,
    ) {
        if connection.send_queue.push_recovered(frame, self.now, &self.counters) {
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    /// Appends a publication of a recovery, which does not count against the limit.
    pub(super) fn push_recovered(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        channels: &Channels,
        publication: &Publication,
    ) {
        if !connection.framing.is_event_stream() {
            let frame = connection.framing.publication(publication);
            return self.push_recovered_frame(connection_id, connection, frame);
        }
        let before = connection.send_queue.outbox_queued_bytes();
        connection.write_publication(channels, publication, &self.counters);
        connection.send_queue.credit_since(before);
        self.flush_queue.schedule(connection_id, connection);
    }

    /// Writes the outbox until it is empty or the sink is blocked.
    ///
    /// # Errors
    /// If the connection is broken.
    pub(super) fn flush(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
    ) -> io::Result<FlushStatus> {
        let before = self.flushed.bytes;
        let written = connection.send_queue.flush(&mut connection.sink, &mut self.flushed)?;
        if written == FlushStatus::Blocked {
            self.watch(connection_id, connection)?;
        }
        connection.blocked = written == FlushStatus::Blocked;
        connection.wrote_since_timer |= self.flushed.bytes > before;
        Ok(written)
    }

    /// Flushes a connection ahead of its turn, unless it is blocked or the limit of this turn is reached.
    fn flush_ahead(&mut self, connection_id: ConnectionId, connection: &mut Connection) {
        if !connection.blocked && self.flush_queue.take_ahead() {
            self.try_flush(connection_id, connection);
        }
    }

    /// Flushes a connection outside its turn. Returns whether the whole outbox was written. An error is handled in the
    /// connection's next turn.
    pub(super) fn try_flush(&mut self, connection_id: ConnectionId, connection: &mut Connection) -> bool {
        let was_blocked = connection.blocked;
        let written = self.flush(connection_id, connection);
        if was_blocked && !connection.blocked {
            self.flush_queue.schedule(connection_id, connection);
        }
        self.count_flushed();
        matches!(written, Ok(FlushStatus::Done))
    }

    /// Adds the written bytes to the counters.
    pub(super) fn count_flushed(&mut self) {
        let FlushStats { writes, bytes } = std::mem::take(&mut self.flushed);
        self.counters.client_queue_bytes.sub(bytes);
        self.counters.writes.add(writes);
        self.counters.bytes_out.add(bytes);
    }

    /// Registers for an event when the socket is writable again.
    fn watch(&self, connection_id: ConnectionId, connection: &mut Connection) -> io::Result<()> {
        let key = key(connection_id, connection.generation);
        let Sink::Socket(socket) = &mut connection.sink else { return Ok(()) };
        if !connection.writable_registered {
            self.registry.reregister(socket, token(key), Interest::READABLE | Interest::WRITABLE)?;
            connection.writable_registered = true;
        }
        Ok(())
    }
}

fn token(key: u64) -> Token {
    Token(usize::try_from(key).unwrap_or(usize::MAX))
}
