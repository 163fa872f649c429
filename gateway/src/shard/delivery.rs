//! Delivers frames and publications to the connections of a shard.
//!
//! [`Delivery`] owns the subscriptions and the writes to their connections, and therefore the handling of a full queue:
//! the oldest publications are dropped, and a WebSocket client is unsubscribed from their channel. It closes no
//! connection: whether a client is too slow is an outcome.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::channels::{ChannelId, Channels, ConnectionId};
use super::connection::{Connection, DeferredEvent, Phase};
use super::connections::Connections;
use super::framing::Framing;
use super::session::Session;
use super::sink::FlushStatus;
use super::subscriptions::Subscriptions;
use super::timer_wheel::Tick;
use super::writer::{Dropped, PushStatus, Writer};
use crate::metrics::ShardCounters;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// The subscriptions of a shard, and the writer to their connections.
#[derive(Debug)]
pub(super) struct Delivery {
    subscriptions: Subscriptions,
    writer: Writer,
    counters: Arc<ShardCounters>,
}

/// The result of flushing a connection in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum FlushOutcome {
    /// Bytes were written, or the sink is blocked.
    Written,
    /// Everything was written to a connection that is closing.
    Drained,
    /// The connection is broken.
    Broken(io::ErrorKind),
}

impl Delivery {
    pub(super) fn new(subscriptions: Subscriptions, writer: Writer, counters: Arc<ShardCounters>) -> Self {
        Self { subscriptions, writer, counters }
    }

    pub(super) fn subscriptions(&mut self) -> &mut Subscriptions {
        &mut self.subscriptions
    }

    pub(super) fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    pub(super) fn channels(&self) -> &Channels {
        self.subscriptions.channels()
    }

    pub(super) fn connections(&self) -> &Connections {
        self.subscriptions.connections()
    }

    pub(super) fn connection_mut(&mut self, connection_id: ConnectionId) -> Option<&mut Connection> {
        self.subscriptions.connections_mut().get_mut(connection_id)
    }

    /// Whether a connection is to be flushed.
    pub(super) fn has_scheduled(&self) -> bool {
        self.writer.scheduled() > 0
    }

    /// The number of connections in the flush queue.
    pub(super) fn scheduled(&self) -> usize {
        self.writer.scheduled()
    }

    /// Discards the outboxes of all connections in the flush queue; returns their number.
    #[cfg(feature = "bench")]
    pub(super) fn discard_outboxes(&mut self) -> usize {
        let mut discarded = 0;
        while let Some(connection_id) = self.writer.next_scheduled() {
            discarded += 1;
            if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
                connection.flush_scheduled = false;
                connection.send_queue.discard_outbox();
            }
        }
        discarded
    }

    /// Whether work remains in this turn.
    pub(super) fn has_work(&self) -> bool {
        self.has_scheduled()
            || self.connections().pending_reads() > 0
            || self.subscriptions.is_resubscribe_due()
    }

    /// A tick begins.
    pub(super) fn set_now(&mut self, now: Tick) {
        self.writer.set_now(now);
    }

    /// Starts a turn of flushes.
    pub(super) fn start_turn(&mut self) {
        self.writer.start_turn();
    }

    /// Ends a turn of flushes: counts the written bytes.
    pub(super) fn finish_turn(&mut self) {
        self.writer.count_flushed();
    }

    /// Queues a frame for an open connection. Returns `false` if there is no room for it, and none can be made.
    pub(super) fn enqueue(&mut self, connection_id: ConnectionId, frame: Bytes) -> bool {
        let limit = self.writer.limits().bytes;
        let Some(connection) = self.connections().get(connection_id) else { return true };
        if !connection.is_open() {
            return true;
        }
        let room = connection.send_queue.room_for(&frame, limit);
        if connection.send_queue.queued_bytes() > room {
            self.flush_now(connection_id);
            if !self.make_room(connection_id, room) {
                return false;
            }
        }
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
            self.writer.push(connection_id, connection, frame);
        }
        true
    }

    /// Queues a frame in the outbox, ahead of the backlog.
    pub(super) fn enqueue_control(&mut self, connection_id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
            self.writer.push_control(connection_id, connection, frame);
        }
    }

    /// Queues a frame of a recovery, which does not count against the limit.
    pub(super) fn enqueue_recovered_frame(&mut self, connection_id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
            self.writer.push_recovered_frame(connection_id, connection, frame);
        }
    }

    /// Queues a publication of a recovery, which does not count against the limit.
    pub(super) fn enqueue_recovered(&mut self, connection_id: ConnectionId, publication: &Publication) {
        if let Some((connection, channels)) = self.subscriptions.split(connection_id)
            && connection.is_open()
        {
            self.writer.push_recovered(connection_id, connection, channels, publication);
        }
    }

    /// Queues a publication for a subscriber. A subscriber whose first reply or event is not written yet receives it
    /// after that.
    #[inline]
    pub(super) fn push_publication(
        &mut self,
        connection_id: ConnectionId,
        publication: &Arc<Publication>,
        policy: Option<&Arc<BackpressurePolicy>>,
    ) -> PushStatus {
        let Some((connection, channels)) = self.subscriptions.split(connection_id) else {
            return PushStatus::Queued;
        };
        if let Some(deferred) = &mut connection.deferred {
            deferred.push(DeferredEvent::Publication(Arc::clone(publication)));
            return PushStatus::new(deferred.bytes > self.writer.limits().bytes);
        }
        self.writer.push_publication(connection_id, connection, channels, publication, policy)
    }

    /// Records a gap for a subscriber. A WebSocket client is unsubscribed: it resubscribes from its last position, and
    /// recovers what is available. A stream continues: returns the gap if it is to be sent now.
    pub(super) fn push_gap(
        &mut self,
        connection_id: ConnectionId,
        id: ChannelId,
        gap: ChannelGap,
    ) -> Option<ChannelGap> {
        let (connection, _) = self.subscriptions.split(connection_id)?;
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.recovered_up_to = None;
        }
        if let Some(deferred) = &mut connection.deferred {
            deferred.push(DeferredEvent::Gap(gap));
            return None;
        }
        self.counters.gaps.add(1);
        if connection.framing.is_event_stream() {
            return self.writer.defer_gap(connection, gap);
        }
        self.subscriptions.unsubscribe_after_gap(connection_id, id, gap.channel);
        None
    }

    /// Makes room for a client that a broadcast found too slow. Returns whether that succeeded.
    pub(super) fn relieve(&mut self, connection_id: ConnectionId) -> bool {
        self.flush_now(connection_id);
        let limit = self.writer.limits().bytes;
        let Some((connection, _)) = self.subscriptions.split(connection_id) else { return true };
        let room = connection.send_queue.limit(limit);
        let deferred = connection.deferred.as_ref().map_or(0, |deferred| deferred.bytes);
        deferred <= limit && !self.writer.exceeds_max_age(connection) && self.make_room(connection_id, room)
    }

    /// Drops the oldest publications until at most `room` bytes are queued. Returns whether that succeeded.
    fn make_room(&mut self, connection_id: ConnectionId, room: usize) -> bool {
        while let Some((connection, _)) = self.subscriptions.split(connection_id)
            && connection.send_queue.queued_bytes() > room
        {
            let Some(dropped) = self.writer.drop_oldest(connection) else { return false };
            self.on_dropped(connection_id, dropped);
        }
        true
    }

    fn on_dropped(&mut self, connection_id: ConnectionId, dropped: Dropped) {
        let Dropped::Channel(gap) = dropped else { return };
        // The client may have unsubscribed meanwhile.
        if let Some(id) = self.channels().find(&gap.channel)
            && self.connections().get(connection_id).is_some_and(|c| c.subscription(id).is_some())
        {
            self.counters.slow_gaps.add(1);
            // A stream receives the gap in place of the publication.
            let _ = self.push_gap(connection_id, id, gap);
        }
    }

    /// Flushes the outbox and the backlog before a client is considered slow: a blocked socket may have become
    /// writable meanwhile.
    fn flush_now(&mut self, connection_id: ConnectionId) {
        while let Some((connection, _)) = self.subscriptions.split(connection_id)
            && self.writer.try_flush(connection_id, connection)
            && connection.send_queue.has_backlog()
        {
            self.refill_outbox(connection_id);
        }
    }

    /// Moves entries from the backlog to the empty outbox, after dropping those that exceed `client_queue_age`.
    fn refill_outbox(&mut self, connection_id: ConnectionId) {
        while let Some((connection, _)) = self.subscriptions.split(connection_id)
            && let Some(dropped) = self.writer.drop_expired(connection)
        {
            self.on_dropped(connection_id, dropped);
        }
        if let Some((connection, channels)) = self.subscriptions.split(connection_id) {
            self.writer.refill_outbox(connection_id, connection, channels);
        }
    }

    /// Stops accepting input, moves waiting entries to the outbox and unsubscribes from all channels. Returns `false`
    /// if the connection is closing already.
    pub(super) fn begin_close(&mut self, connection_id: ConnectionId) -> bool {
        let Some((connection, channels)) = self.subscriptions.split(connection_id) else { return false };
        if !connection.is_open() {
            return false;
        }
        self.writer.flush_backlog(connection_id, connection, channels);
        connection.phase = Phase::Draining;
        // Its commands are not answered. Input is read and discarded, so that the end of the connection is noticed.
        if connection.session().is_some_and(Session::on_close) {
            self.subscriptions.connections_mut().read_later(connection_id);
        }
        self.subscriptions.unsubscribe_all(connection_id);
        true
    }

    /// Discards everything queued for a client, except the rest of a partly written frame.
    pub(super) fn discard_unsent(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
            self.writer.discard_unsent(connection);
        }
    }

    /// Removes a connection. Returns its framing; `None` if there is no such connection.
    pub(super) fn remove(&mut self, connection_id: ConnectionId) -> Option<Framing> {
        self.subscriptions.unsubscribe_all(connection_id);
        let mut connection = self.subscriptions.connections_mut().remove(connection_id)?;
        self.writer.on_removed(&mut connection);
        Some(connection.framing)
    }

    /// Adds a connection to the flush queue.
    pub(super) fn schedule(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id) {
            self.writer.schedule(connection_id, connection);
        }
    }

    /// The sink of a connection accepts bytes again.
    pub(super) fn on_writable(&mut self, connection_id: ConnectionId) {
        if let Some(connection) = self.subscriptions.connections_mut().get_mut(connection_id)
            && std::mem::take(&mut connection.blocked)
        {
            self.writer.schedule(connection_id, connection);
        }
    }

    /// Flushes the first connection of the flush queue; `None` if there is none.
    pub(super) fn flush_next(&mut self) -> Option<(ConnectionId, FlushOutcome)> {
        loop {
            let connection_id = self.writer.next_scheduled()?;
            let Some((connection, _)) = self.subscriptions.split(connection_id) else { continue };
            // Another connection may have got the index of one that was removed.
            if !std::mem::take(&mut connection.flush_scheduled) {
                continue;
            }
            let written = self.writer.flush(connection_id, connection);
            let outcome = match written {
                Err(error) => FlushOutcome::Broken(error.kind()),
                Ok(FlushStatus::Done) if connection.send_queue.has_backlog() => {
                    self.refill_outbox(connection_id);
                    FlushOutcome::Written
                }
                Ok(FlushStatus::Done) if connection.phase == Phase::Draining => FlushOutcome::Drained,
                Ok(_) => FlushOutcome::Written,
            };
            return Some((connection_id, outcome));
        }
    }
}
