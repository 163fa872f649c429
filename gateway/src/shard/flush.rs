//! Flushes outboxes to sockets.
//!
//! Owns the limit of what may wait for a connection. What is queued between two flushes of a connection is written with
//! one system call.

use std::io;

use bytes::Bytes;
use earshot_protocol::Disconnect;
use mio::{Interest, Token};

use super::channels::ConnectionId;
use super::connection::{Connection, Phase};
use super::event_loop::{Shard, key};
use super::sink::{FlushStats, FlushStatus, Sink};

/// Connections flushed in one turn.
const FLUSHES_PER_TURN: usize = 256;

impl Shard {
    /// Queues a frame. Disconnects the client as slow if the queue exceeds its limit.
    pub(super) fn enqueue(&mut self, connection_id: ConnectionId, frame: Bytes) {
        let limit = self.limits.client_queue_bytes;
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if !connection.is_open() {
            return;
        }
        let room = connection.send_queue.room_for(&frame, limit);
        if connection.send_queue.queued_bytes() > room {
            self.flush_now(connection_id);
            if !self.make_room(connection_id, room) {
                return self.disconnect(connection_id, Disconnect::Slow);
            }
        }
        // Making room may have closed the connection; nothing follows a close.
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && connection.is_open()
            && connection.send_queue.push_last(frame, self.wheel.now(), &self.counters)
        {
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    /// Queues a frame in the outbox, ahead of the backlog.
    pub(super) fn enqueue_control(&mut self, connection_id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            connection.send_queue.push(frame, &self.counters);
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    /// Queues a frame of a recovery, which does not count against the limit.
    pub(super) fn enqueue_recovered_frame(&mut self, connection_id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && connection.send_queue.push_recovered(frame, self.wheel.now(), &self.counters)
        {
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    /// Adds a connection to the flush queue.
    pub(super) fn schedule_flush(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            self.flush_queue.schedule(connection_id, connection);
        }
    }

    pub(super) fn flush_batch(&mut self) {
        self.flush_queue.start_turn();
        let mut flushed = FlushStats::default();
        for _ in 0..FLUSHES_PER_TURN {
            let Some(connection_id) = self.flush_queue.pop() else { break };
            let Some(connection) = self.connections.get_mut(connection_id as usize) else { continue };
            if !std::mem::take(&mut connection.flush_scheduled) {
                continue;
            }
            match write_out(connection, connection_id, &self.registry, &mut flushed) {
                Ok(written) => {
                    if written == FlushStatus::Done && connection.send_queue.has_backlog() {
                        self.refill_outbox(connection_id);
                    } else if written == FlushStatus::Done && connection.phase == Phase::Draining {
                        self.on_drained(connection_id);
                    }
                    self.on_bytes_written(connection_id);
                }
                Err(_) => self.remove(connection_id),
            }
        }
        self.count_flush(&flushed);
    }

    /// Flushes a connection ahead of its turn, unless it is blocked or the limit of this turn is reached. Does not
    /// close the connection and changes no subscription, so a broadcast may call it while it iterates.
    pub(super) fn flush_ahead(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        if !connection.blocked && self.flush_queue.take_ahead() {
            self.try_flush(connection_id);
        }
    }

    /// Flushes the outbox and the backlog before a client is considered slow: a blocked socket may have become
    /// writable meanwhile.
    pub(super) fn flush_now(&mut self, connection_id: ConnectionId) {
        while self.try_flush(connection_id)
            && self.connections.get(connection_id as usize).is_some_and(|c| c.send_queue.has_backlog())
        {
            self.refill_outbox(connection_id);
        }
    }

    /// Returns whether the whole outbox was written. An error is handled in the connection's next turn.
    fn try_flush(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        let was_blocked = connection.blocked;
        let mut flushed = FlushStats::default();
        let written = write_out(connection, connection_id, &self.registry, &mut flushed);
        if was_blocked && !connection.blocked {
            self.schedule_flush(connection_id);
        }
        self.count_flush(&flushed);
        matches!(written, Ok(FlushStatus::Done))
    }

    fn count_flush(&self, flushed: &FlushStats) {
        self.counters.client_queue_bytes.sub(flushed.bytes);
        self.counters.writes.add(flushed.writes);
        self.counters.bytes_out.add(flushed.bytes);
    }

    pub(super) fn on_drained(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        connection.sink.shut_down();
        connection.phase = Phase::AwaitingPeerClose;
        // An SSE client sends nothing, so closing the socket does not cause a reset.
        if connection.framing.is_event_stream() {
            self.remove(connection_id);
        }
    }
}

/// Writes the outbox until it is empty or the sink is blocked.
fn write_out(
    connection: &mut Connection,
    connection_id: ConnectionId,
    registry: &mio::Registry,
    flushed: &mut FlushStats,
) -> io::Result<FlushStatus> {
    let before = flushed.bytes;
    let written = connection.send_queue.flush(&mut connection.sink, flushed)?;
    if written == FlushStatus::Blocked {
        watch(connection, connection_id, registry)?;
    }
    connection.blocked = written == FlushStatus::Blocked;
    connection.wrote_since_timer |= flushed.bytes > before;
    Ok(written)
}

/// Registers for an event when the socket is writable again.
fn watch(
    connection: &mut Connection,
    connection_id: ConnectionId,
    registry: &mio::Registry,
) -> io::Result<()> {
    let Sink::Socket(socket) = &mut connection.sink else { return Ok(()) };
    if !connection.writable_registered {
        let token = Token(usize::try_from(key(connection_id, connection.generation)).unwrap_or(usize::MAX));
        registry.reregister(socket, token, Interest::READABLE | Interest::WRITABLE)?;
        connection.writable_registered = true;
    }
    Ok(())
}
