//! Slow consumers: clients that read more slowly than their channels are published to.
//!
//! Owns what is dropped: a publication that a newer one replaces, the oldest publications, or the client. Nothing is
//! dropped before the socket has rejected bytes, and clients that keep up pay nothing for it.

use std::sync::Arc;

use earshot_protocol::Disconnect;

use super::channels::ConnectionId;
use super::conflation_queue::{GapMarker, Item};
use super::connection::Connection;
use super::event_loop::Shard;
use super::timer_wheel::Tick;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// Bytes that are moved from the backlog to the outbox at a time. Publications in the outbox can no longer be
/// conflated.
const REFILL_BYTES: usize = 16 * 1024;

impl Shard {
    /// Whether publications must be deferred, because the socket accepts no more bytes. An outbox that is not blocked
    /// is flushed first, since what it holds can no longer be conflated.
    pub(super) fn is_backpressured(&mut self, connection_id: ConnectionId) -> bool {
        let weight = |connection: &Connection| connection.send_queue.outbox_queued_bytes();
        if self
            .connections
            .get(connection_id as usize)
            .is_some_and(|connection| weight(connection) > REFILL_BYTES)
        {
            self.flush_ahead(connection_id);
        }
        let limit = self.limits.client_queue_bytes;
        let Some(connection) = self.connections.get(connection_id as usize) else { return false };
        connection.blocked || weight(connection) > connection.send_queue.limit(limit)
    }

    /// Appends a publication to the backlog of a connection under backpressure.
    pub(super) fn defer_publication(
        &mut self,
        connection_id: ConnectionId,
        publication: &Arc<Publication>,
        rule: Option<&Arc<BackpressurePolicy>>,
    ) {
        let now = self.wheel.now();
        let rule = rule.map(|rule| &**rule);
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let conflated = connection
            .send_queue
            .defer(&self.counters, |backlog| backlog.push_publication(Arc::clone(publication), rule, now));
        self.counters.conflated.add(u64::from(conflated));
        if connection.send_queue.queued_bytes() > connection.send_queue.limit(self.limits.client_queue_bytes)
            || self.exceeds_max_age(connection_id)
        {
            self.slow_connections.push(connection_id);
        }
    }

    /// Whether data in the outbox has waited for longer than `client_queue_age`. Recovered publications do not count.
    pub(super) fn exceeds_max_age(&mut self, connection_id: ConnectionId) -> bool {
        let (now, limit) = (self.wheel.now(), self.max_age_ticks());
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        connection.blocked && connection.send_queue.exceeds_age(now, limit)
    }

    fn max_age_ticks(&self) -> Tick {
        self.limits.client_queue_age.map_or(Tick::MAX, |age| self.wheel.ticks(age))
    }

    /// Makes room for the connections that a broadcast found too slow, or disconnects them.
    pub(super) fn handle_slow(&mut self) {
        let mut slow = std::mem::take(&mut self.slow_connections);
        // Several publications of a batch may have found the same connection too slow.
        slow.dedup();
        for connection_id in slow {
            self.flush_now(connection_id);
            let Some(connection) = self.connections.get(connection_id as usize) else { continue };
            let room = connection.send_queue.limit(self.limits.client_queue_bytes);
            let deferred = connection.deferred.as_ref().map_or(0, |deferred| deferred.bytes);
            if deferred > self.limits.client_queue_bytes
                || self.exceeds_max_age(connection_id)
                || !self.make_room(connection_id, room)
            {
                self.disconnect(connection_id, Disconnect::Slow);
            }
        }
    }

    /// Drops the oldest publications until at most `room` bytes are queued. Returns whether that succeeded.
    pub(super) fn make_room(&mut self, connection_id: ConnectionId, room: usize) -> bool {
        loop {
            if self
                .connections
                .get(connection_id as usize)
                .is_none_or(|connection| connection.send_queue.queued_bytes() <= room)
            {
                return true;
            }
            if !self.drop_oldest(connection_id) {
                return false;
            }
        }
    }

    /// Drops the oldest droppable publication and reports the gap. A stream receives the gap in place of what was
    /// dropped. A WebSocket client is unsubscribed, to resubscribe, and all droppable publications of the channel are
    /// dropped. Returns whether anything was dropped.
    fn drop_oldest(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        let Some((channel, _)) = connection.send_queue.oldest_droppable() else { return false };
        if connection.framing.is_event_stream() {
            let now = self.wheel.now();
            let marker = connection.send_queue.defer(&self.counters, |backlog| backlog.drop_oldest(now));
            self.counters.slow_consumer_dropped.add(u64::from(marker.is_some()));
            let new = u64::from(marker == Some(GapMarker::New));
            self.counters.slow_gaps.add(new);
            self.counters.gaps.add(new);
            return marker.is_some();
        }
        let channel = channel.clone();
        let (count, last) =
            connection.send_queue.defer(&self.counters, |backlog| backlog.drop_channel(&channel));
        self.counters.slow_consumer_dropped.add(count);
        let Some(position) = last else { return false };
        // The client may have unsubscribed meanwhile.
        if let Some(id) = self.channels.find(&channel)
            && self
                .connections
                .get(connection_id as usize)
                .is_some_and(|connection| connection.subscription(id).is_some())
        {
            self.counters.slow_gaps.add(1);
            self.notify_gap(
                connection_id,
                id,
                ChannelGap { channel, cause: GapCause::SlowConsumer, position },
            );
        }
        true
    }

    /// Moves entries from the backlog to the empty outbox, after dropping those that exceed `client_queue_age`.
    pub(super) fn refill_outbox(&mut self, connection_id: ConnectionId) {
        let (now, limit) = (self.wheel.now(), self.max_age_ticks());
        let too_old = |connection: &Connection| {
            connection.send_queue.oldest_droppable().is_some_and(|(_, since)| now - since > limit)
        };
        while self.connections.get(connection_id as usize).is_some_and(too_old)
            && self.drop_oldest(connection_id)
        {}
        while self
            .connections
            .get(connection_id as usize)
            .is_some_and(|c| c.send_queue.outbox_bytes() < REFILL_BYTES)
            && self.move_one(connection_id)
        {}
    }

    /// Moves the whole backlog to the outbox.
    pub(super) fn flush_backlog(&mut self, connection_id: ConnectionId) {
        while self.move_one(connection_id) {}
    }

    /// Moves one entry from the backlog to the outbox. Removes the backlog when it is empty and returns `false`.
    fn move_one(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        match connection.send_queue.pop_deferred(&self.counters) {
            None => return false,
            Some(Item::Frame(frame)) => self.enqueue_control(connection_id, frame),
            Some(Item::Publication(publication)) => self.write_publication(connection_id, &publication),
            Some(Item::Gap(gap)) => self.write_gap(connection_id, &gap),
        }
        true
    }
}
