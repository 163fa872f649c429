//! The connections of a shard, by index and by key.
//!
//! Owns the keys: the index of a removed connection is reused, its key is not. Holds the queue of connections with bytes
//! left to read.

use std::collections::VecDeque;

use slab::Slab;

use super::channels::ConnectionId;
use super::connection::Connection;

/// The connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slab: Slab<Connection>,
    generation: u32,
    /// Keys of connections with bytes left to read after their turn.
    pending_reads: VecDeque<u64>,
}

/// The key of a connection: its index and its generation.
pub(super) fn key(connection_id: ConnectionId, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(connection_id)
}

impl Connections {
    /// The index and the generation of the next connection.
    pub(super) fn reserve(&mut self) -> (ConnectionId, u32) {
        self.generation = self.generation.wrapping_add(1).max(1);
        (u32::try_from(self.slab.vacant_key()).unwrap_or(u32::MAX), self.generation)
    }

    /// Adds a connection at the index that [`Connections::reserve`] returned.
    pub(super) fn insert(&mut self, connection: Connection) {
        self.slab.insert(connection);
    }

    /// Removes a connection; `None` if there is none at this index.
    pub(super) fn remove(&mut self, connection_id: ConnectionId) -> Option<Connection> {
        let connection = self.slab.try_remove(connection_id as usize)?;
        if self.slab.is_empty() {
            self.slab.shrink_to_fit();
        }
        Some(connection)
    }

    #[inline]
    pub(super) fn get(&self, connection_id: ConnectionId) -> Option<&Connection> {
        self.slab.get(connection_id as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, connection_id: ConnectionId) -> Option<&mut Connection> {
        self.slab.get_mut(connection_id as usize)
    }

    /// The index of the connection with a key; `None` after it was removed.
    pub(super) fn find(&self, key: u64) -> Option<ConnectionId> {
        let connection_id = u32::try_from(key & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let connection = self.get(connection_id)?;
        (u64::from(connection.generation) == key >> 32).then_some(connection_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The indices of all connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.slab.iter().map(|(index, _)| u32::try_from(index).unwrap_or(u32::MAX)).collect()
    }

    /// Whether a connection exists and is not closing.
    pub(super) fn is_open(&self, connection_id: ConnectionId) -> bool {
        self.get(connection_id).is_some_and(Connection::is_open)
    }

    /// Schedules a read at the end of the turn.
    pub(super) fn read_later(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.slab.get_mut(connection_id as usize)
            && !std::mem::replace(&mut connection.has_pending_read, true)
        {
            self.pending_reads.push_back(key(connection_id, connection.generation));
        }
    }

    /// The number of scheduled reads.
    pub(super) fn pending_reads(&self) -> usize {
        self.pending_reads.len()
    }

    /// Removes the first scheduled read; `None` if its connection was removed meanwhile.
    pub(super) fn next_read(&mut self) -> Option<ConnectionId> {
        let key = self.pending_reads.pop_front()?;
        let connection_id = self.find(key)?;
        self.get_mut(connection_id)?.has_pending_read = false;
        Some(connection_id)
    }

    /// The key of the next connection.
    #[cfg(test)]
    pub(super) fn next_key(&self) -> u64 {
        let connection_id = u32::try_from(self.slab.vacant_key()).unwrap();
        key(connection_id, self.generation.wrapping_add(1).max(1))
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slab.iter().map(|(_, connection)| connection)
    }
}
