//! From outboxes onto links.
//!
//! Owns the queue of connections that have something to write, and the bound on what may wait for one of them. What
//! is pushed between two flushes of a connection goes out in one write.

use std::io;

use bytes::Bytes;
use earshot_protocol::Disconnect;
use mio::{Interest, Token};

use super::channels::ConnectionId;
use super::connection::{Connection, Kind, Phase};
use super::link::{Flushed, Link, Written};
use super::outbox::FRAME_OVERHEAD_BYTES;
use super::reactor::{Shard, key};

/// Connections flushed in one turn.
const FLUSHES_PER_TURN: usize = 256;

/// Writes made ahead of their turn in one turn.
pub(super) const EARLY_WRITES_PER_TURN: usize = 256;

impl Shard {
    /// Puts a frame into a connection's outbox. Whoever lets too much pile up is closed as slow.
    pub(super) fn push(&mut self, at: ConnectionId, frame: Bytes) {
        let limit = self.limits.client_queue_bytes;
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if !connection.is_open() {
            return;
        }
        let room = (limit + connection.allowance).saturating_sub(frame.len() + FRAME_OVERHEAD_BYTES);
        if connection.weight() > room {
            self.offer(at);
            if !self.relieve(at, room) {
                return self.disconnect(at, Disconnect::Slow);
            }
        }
        // What gave way may have been told by the end of the connection, and nothing comes after that.
        if self.is_open(at) {
            self.push_behind(at, frame);
        }
    }

    /// A frame that waits its turn, whatever else waits.
    fn push_behind(&mut self, at: ConnectionId, frame: Bytes) {
        match self.connections.get_mut(at as usize) {
            Some(Connection { backlog: Some(_), .. }) => self.put_off_frame(at, frame),
            _ => self.push_control(at, frame),
        }
    }

    /// A frame that is written next, whatever else waits.
    pub(super) fn push_control(&mut self, at: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(at as usize) {
            self.counters.client_queue_bytes.add(frame.len() as u64);
            connection.outbox.push(frame);
            self.mark(at);
        }
    }

    /// A frame of a recovery: whoever was away is not slow.
    pub(super) fn push_recovered(&mut self, at: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(at as usize) {
            connection.allowance += frame.len() + FRAME_OVERHEAD_BYTES;
            self.push_behind(at, frame);
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

    pub(super) fn flush_some(&mut self) {
        self.early_writes_left = EARLY_WRITES_PER_TURN;
        let mut flushed = Flushed::default();
        for _ in 0..FLUSHES_PER_TURN {
            let Some(at) = self.dirty.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(at as usize) else { continue };
            if !std::mem::take(&mut connection.dirty) {
                continue;
            }
            match write_out(connection, at, &self.registry, &mut flushed) {
                Ok(written) => {
                    if written == Written::All && connection.backlog.is_some() {
                        self.refill(at);
                    } else if written == Written::All && connection.phase == Phase::Ending {
                        self.flushed_last(at);
                    }
                    self.has_read(at);
                }
                Err(_) => self.remove(at),
            }
        }
        self.count(&flushed);
    }

    /// Writes ahead of a connection's turn, unless it was blocked or this turn has seen enough of that. Ends nothing and
    /// leaves no channel, so that it may be called while subscribers are gone through.
    pub(super) fn write_early(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get(at as usize) else { return };
        if !connection.blocked && self.early_writes_left > 0 {
            self.early_writes_left -= 1;
            self.write_now(at);
        }
    }

    /// Offers a client what waits for it, before it is judged: nobody is slow who was not asked, and who was blocked a
    /// while ago may have read meanwhile.
    pub(super) fn offer(&mut self, at: ConnectionId) {
        while self.write_now(at) && self.connections.get(at as usize).is_some_and(|c| c.backlog.is_some()) {
            self.refill(at);
        }
    }

    /// Whether everything in the outbox could be written. A broken connection is found at its next turn, which each
    /// connection has that has something to write and is not blocked.
    fn write_now(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        let was_blocked = connection.blocked;
        let mut flushed = Flushed::default();
        let written = write_out(connection, at, &self.registry, &mut flushed);
        if was_blocked && !connection.blocked {
            self.mark(at);
        }
        self.count(&flushed);
        matches!(written, Ok(Written::All))
    }

    fn count(&self, flushed: &Flushed) {
        self.counters.client_queue_bytes.sub(flushed.bytes);
        self.counters.writes.add(flushed.writes);
        self.counters.bytes_out.add(flushed.bytes);
    }

    pub(super) fn flushed_last(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.link.finish();
        connection.phase = Phase::Finished;
        // Whoever reads an event stream sends nothing, so no answer of theirs could turn the end into a reset.
        if matches!(connection.kind, Kind::Sse(_)) {
            self.remove(at);
        }
    }
}

/// Writes what waits, as far as the other side takes it.
fn write_out(
    connection: &mut Connection,
    at: ConnectionId,
    registry: &mio::Registry,
    flushed: &mut Flushed,
) -> io::Result<Written> {
    let (before, weight) = (flushed.bytes, connection.outbox.weight());
    let written = connection.link.flush(&mut connection.outbox, flushed)?;
    if written == Written::Blocked {
        watch(connection, at, registry)?;
    }
    connection.blocked = written == Written::Blocked;
    connection.progress |= flushed.bytes > before;
    connection.allowance = connection.allowance.saturating_sub(weight - connection.outbox.weight());
    Ok(written)
}

/// From now on the poll tells when a socket takes more.
fn watch(connection: &mut Connection, at: ConnectionId, registry: &mio::Registry) -> io::Result<()> {
    let Link::Socket(socket) = &mut connection.link else { return Ok(()) };
    if !connection.watched {
        let token = Token(usize::try_from(key(at, connection.generation)).unwrap_or(usize::MAX));
        registry.reregister(socket, token, Interest::READABLE | Interest::WRITABLE)?;
        connection.watched = true;
    }
    Ok(())
}
