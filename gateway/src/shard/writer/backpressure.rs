//! Slow consumers: clients that read more slowly than their channels are published to.
//!
//! Decides what is dropped: a publication that a newer one replaces, the oldest publications, or the client. Nothing is
//! dropped before the socket has rejected bytes, and clients that keep up pay nothing for it.

use std::sync::Arc;

use super::{QueueLimits, Writer};
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::shard::channels::{Channels, ConnectionId};
use crate::shard::conflation_queue::{GapMarker, Item};
use crate::shard::connection::Connection;

/// Bytes that are moved from the backlog to the outbox at a time. Publications in the outbox can no longer be
/// conflated.
const REFILL_BYTES: usize = 16 * 1024;

/// The result of queueing a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(in crate::shard) enum PushStatus {
    /// The publication is queued.
    Queued,
    /// The publication is queued, and more waits than the limits allow: the caller makes room or disconnects the client.
    TooSlow,
}

/// The result of dropping a publication.
#[derive(Debug)]
#[must_use]
pub(in crate::shard) enum Dropped {
    /// A gap in the queue replaces the publication.
    Replaced,
    /// All droppable publications of a channel were dropped: the caller reports this gap.
    Channel(ChannelGap),
}

impl PushStatus {
    pub(in crate::shard) fn new(too_slow: bool) -> Self {
        if too_slow { Self::TooSlow } else { Self::Queued }
    }
}

impl Writer {
    /// The limits of what may wait for one client.
    pub(in crate::shard) fn limits(&self) -> QueueLimits {
        self.limits
    }

    #[cfg(test)]
    pub(in crate::shard) fn set_limit(&mut self, bytes: usize) {
        self.limits.bytes = bytes;
    }

    /// Queues a publication, regardless of the size of the queue.
    #[inline]
    pub(in crate::shard) fn push_publication(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        channels: &Channels,
        publication: &Arc<Publication>,
        policy: Option<&Arc<BackpressurePolicy>>,
    ) -> PushStatus {
        let limit = connection.send_queue.limit(self.limits.bytes);
        if connection.send_queue.has_backlog()
            || (policy.is_some() && self.is_backpressured(connection_id, connection))
        {
            return self.defer_publication(connection, publication, policy);
        }
        if connection.send_queue.outbox_bytes() > 0
            && connection.send_queue.outbox_queued_bytes() + publication.cost() > limit
        {
            self.flush_ahead(connection_id, connection);
        }
        let before = connection.send_queue.outbox_bytes();
        connection.write_publication(channels, publication, &self.counters);
        self.schedule(connection_id, connection);
        // One publication always fits into an empty outbox, whatever its size.
        PushStatus::new(
            before > 0
                && (connection.send_queue.outbox_queued_bytes() > limit || self.exceeds_max_age(connection)),
        )
    }

    /// Whether publications must be deferred, because the socket accepts no more bytes. An outbox that is not blocked
    /// is flushed first, since what it holds can no longer be conflated.
    fn is_backpressured(&mut self, connection_id: ConnectionId, connection: &mut Connection) -> bool {
        if connection.send_queue.outbox_queued_bytes() > REFILL_BYTES {
            self.flush_ahead(connection_id, connection);
        }
        connection.blocked
            || connection.send_queue.outbox_queued_bytes() > connection.send_queue.limit(self.limits.bytes)
    }

    /// Appends a publication to the backlog of a connection under backpressure.
    fn defer_publication(
        &mut self,
        connection: &mut Connection,
        publication: &Arc<Publication>,
        policy: Option<&Arc<BackpressurePolicy>>,
    ) -> PushStatus {
        let (now, policy) = (self.now, policy.map(|policy| &**policy));
        let conflated = connection
            .send_queue
            .defer(&self.counters, |backlog| backlog.push_publication(Arc::clone(publication), policy, now));
        self.counters.conflated.add(u64::from(conflated));
        PushStatus::new(
            connection.send_queue.queued_bytes() > connection.send_queue.limit(self.limits.bytes)
                || self.exceeds_max_age(connection),
        )
    }

    /// Appends a gap to the backlog of a connection that has one; returns it otherwise.
    pub(in crate::shard) fn defer_gap(
        &mut self,
        connection: &mut Connection,
        gap: ChannelGap,
    ) -> Option<ChannelGap> {
        if !connection.send_queue.has_backlog() {
            return Some(gap);
        }
        let now = self.now;
        connection.send_queue.defer(&self.counters, |backlog| backlog.push_gap(gap, now));
        None
    }

    /// Whether data in the outbox has waited for longer than `client_queue_age`. Recovered publications do not count.
    pub(in crate::shard) fn exceeds_max_age(&self, connection: &mut Connection) -> bool {
        connection.blocked && connection.send_queue.exceeds_age(self.now, self.limits.age)
    }

    /// Drops the oldest droppable publication; `None` if there is none. A stream receives a gap in place of what was
    /// dropped. For a WebSocket client all droppable publications of the channel are dropped.
    pub(in crate::shard) fn drop_oldest(&self, connection: &mut Connection) -> Option<Dropped> {
        let (channel, _) = connection.send_queue.oldest_droppable()?;
        if connection.framing.is_event_stream() {
            let marker =
                connection.send_queue.defer(&self.counters, |backlog| backlog.drop_oldest(self.now))?;
            self.counters.slow_consumer_dropped.add(1);
            let new = u64::from(marker == GapMarker::New);
            self.counters.slow_gaps.add(new);
            self.counters.gaps.add(new);
            return Some(Dropped::Replaced);
        }
        let channel = channel.clone();
        let (count, last) =
            connection.send_queue.defer(&self.counters, |backlog| backlog.drop_channel(&channel));
        self.counters.slow_consumer_dropped.add(count);
        Some(Dropped::Channel(ChannelGap { channel, cause: GapCause::SlowConsumer, position: last? }))
    }

    /// Drops the oldest droppable publication if it exceeds `client_queue_age`.
    pub(in crate::shard) fn drop_expired(&self, connection: &mut Connection) -> Option<Dropped> {
        let (_, since) = connection.send_queue.oldest_droppable()?;
        if self.now - since > self.limits.age { self.drop_oldest(connection) } else { None }
    }

    /// Moves entries from the backlog to the empty outbox.
    pub(in crate::shard) fn refill_outbox(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        channels: &Channels,
    ) {
        while connection.send_queue.outbox_bytes() < REFILL_BYTES
            && self.move_one(connection_id, connection, channels)
        {}
    }

    /// Moves the whole backlog to the outbox.
    pub(in crate::shard) fn flush_backlog(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        channels: &Channels,
    ) {
        while self.move_one(connection_id, connection, channels) {}
    }

    /// Discards all frames that have not been started.
    pub(in crate::shard) fn discard_unsent(&self, connection: &mut Connection) {
        connection.send_queue.discard_unsent(&self.counters);
    }

    /// Moves one entry from the backlog to the outbox. Removes the backlog when it is empty and returns `false`.
    fn move_one(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        channels: &Channels,
    ) -> bool {
        match connection.send_queue.pop_deferred(&self.counters) {
            None => return false,
            Some(Item::Frame(frame)) => connection.send_queue.push(frame, &self.counters),
            Some(Item::Publication(publication)) => {
                connection.write_publication(channels, &publication, &self.counters);
            }
            Some(Item::Gap(gap)) => {
                if let Some(frame) =
                    connection.gap_frame(channels, &gap.channel, gap.cause.as_str(), gap.position)
                {
                    connection.send_queue.push(frame, &self.counters);
                }
            }
        }
        self.schedule(connection_id, connection);
        true
    }
}
