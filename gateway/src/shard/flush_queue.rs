//! The connections of a shard with something to write, in order.
//!
//! Owns the number of flushes ahead of the queue in one turn. A connection is in the queue at most once.

use std::collections::VecDeque;

use super::channels::ConnectionId;
use super::connection::Connection;

/// Flushes ahead of the queue in one turn.
const FLUSH_AHEAD_PER_TURN: usize = 256;

#[derive(Debug)]
pub(super) struct FlushQueue {
    connections: VecDeque<ConnectionId>,
    ahead_left: usize,
}

impl FlushQueue {
    pub(super) fn new() -> Self {
        Self { connections: VecDeque::new(), ahead_left: FLUSH_AHEAD_PER_TURN }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Starts a turn: the limit of flushes ahead of the queue applies to each turn.
    pub(super) fn start_turn(&mut self) {
        self.ahead_left = FLUSH_AHEAD_PER_TURN;
    }

    /// Adds a connection, unless it is blocked or already in the queue.
    pub(super) fn schedule(&mut self, connection_id: ConnectionId, connection: &mut Connection) {
        if !connection.blocked && !std::mem::replace(&mut connection.flush_scheduled, true) {
            self.connections.push_back(connection_id);
        }
    }

    /// Removes the first connection. It may have been closed, and its index reused; only a connection that is marked
    /// as scheduled is to be flushed.
    pub(super) fn pop(&mut self) -> Option<ConnectionId> {
        self.connections.pop_front()
    }

    /// Counts a flush ahead of the queue. Returns `false` if this turn has none left.
    pub(super) fn take_ahead(&mut self) -> bool {
        let left = self.ahead_left.checked_sub(1);
        self.ahead_left = left.unwrap_or(0);
        left.is_some()
    }
}
