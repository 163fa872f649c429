//! Clients that read more slowly than others publish.
//!
//! Owns what gives way to what: a publication to its successor, the oldest to the newest, or else the client. Must
//! never cost those who keep up anything: nothing gives way before a socket has refused bytes.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::Disconnect;

use super::backlog::{Backlog, Hole, Item};
use super::channels::ConnectionId;
use super::connection::{Connection, Kind};
use super::reactor::Shard;
use super::wheel::Tick;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// Bytes that are moved from a backlog to the outbox at a time: more could not be replaced any more.
const REFILL_BYTES: usize = 16 * 1024;

impl Shard {
    /// Whether a connection takes no more, so that what comes next must remain such that it can give way. What is in the
    /// outbox cannot, so it is written before there is much of it.
    pub(super) fn is_behind(&mut self, at: ConnectionId) -> bool {
        let weight = |connection: &Connection| connection.outbox.weight();
        if self.connections.get(at as usize).is_some_and(|connection| weight(connection) > REFILL_BYTES) {
            self.write_early(at);
        }
        let limit = self.limits.client_queue_bytes;
        let Some(connection) = self.connections.get(at as usize) else { return false };
        connection.blocked || weight(connection) > limit + connection.allowance
    }

    /// A publication for a connection that takes no more.
    pub(super) fn put_off(
        &mut self,
        at: ConnectionId,
        publication: &Arc<Publication>,
        rule: Option<&Arc<BackpressurePolicy>>,
    ) {
        let now = self.wheel.now();
        let rule = rule.map(|rule| &**rule);
        let superseded = self.backlog(at, |backlog| backlog.publication(Arc::clone(publication), rule, now));
        self.counters.conflated.add(u64::from(superseded == Some(true)));
        let Some(connection) = self.connections.get(at as usize) else { return };
        if connection.weight() > self.limits.client_queue_bytes + connection.allowance || self.is_stale(at) {
            self.slow.push(at);
        }
    }

    pub(super) fn put_off_frame(&mut self, at: ConnectionId, frame: Bytes) {
        let now = self.wheel.now();
        self.backlog(at, |backlog| backlog.frame(frame, now));
    }

    pub(super) fn put_off_gap(&mut self, at: ConnectionId, gap: ChannelGap) {
        let now = self.wheel.now();
        self.backlog(at, |backlog| backlog.gap(gap, now));
    }

    /// Changes a backlog, which there is from now on, and keeps the count of its bytes.
    fn backlog<T>(&mut self, at: ConnectionId, change: impl FnOnce(&mut Backlog) -> T) -> Option<T> {
        let backlog = self.connections.get_mut(at as usize)?.backlog.get_or_insert_default();
        let before = backlog.bytes();
        let result = change(backlog);
        let after = backlog.bytes();
        self.counters.client_queue_bytes.add(after.saturating_sub(before) as u64);
        self.counters.client_queue_bytes.sub(before.saturating_sub(after) as u64);
        Some(result)
    }

    /// Whether what waits in the outbox has waited for too long. Whoever reads what it missed is not judged by that.
    pub(super) fn is_stale(&mut self, at: ConnectionId) -> bool {
        let (now, limit) = (self.wheel.now(), self.age_in_ticks());
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        connection.blocked && connection.outbox.age(now) > limit && connection.allowance == 0
    }

    fn age_in_ticks(&self) -> Tick {
        self.limits.client_queue_age.map_or(Tick::MAX, |age| self.wheel.ticks(age))
    }

    /// Makes room for those that a broadcast found too slow, or closes them.
    pub(super) fn relieve_slow(&mut self) {
        let mut slow = std::mem::take(&mut self.slow);
        // Each publication of a batch may have found the same connection too slow.
        slow.dedup();
        for at in slow {
            self.offer(at);
            let Some(connection) = self.connections.get(at as usize) else { continue };
            let room = self.limits.client_queue_bytes + connection.allowance;
            let held = connection.held.as_ref().map_or(0, |held| held.bytes);
            if held > self.limits.client_queue_bytes || self.is_stale(at) || !self.relieve(at, room) {
                self.disconnect(at, Disconnect::Slow);
            }
        }
    }

    /// Drops what may be dropped until no more waits than there is room for; whether that was enough.
    pub(super) fn relieve(&mut self, at: ConnectionId, room: usize) -> bool {
        loop {
            if self.connections.get(at as usize).is_none_or(|connection| connection.weight() <= room) {
                return true;
            }
            if !self.drop_oldest(at) {
                return false;
            }
        }
    }

    /// Drops the oldest that may be dropped, and tells of it: a stream in the place of what was dropped; a WebSocket
    /// client is made to subscribe again, and nothing of the channel waits any more that may be dropped.
    fn drop_oldest(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(at as usize) else { return false };
        let Some((channel, _)) = connection.backlog.as_ref().and_then(|backlog| backlog.oldest()) else {
            return false;
        };
        if matches!(connection.kind, Kind::Sse(_)) {
            let now = self.wheel.now();
            let hole = self.backlog(at, |backlog| backlog.drop_oldest(now)).flatten();
            self.counters.slow_consumer_dropped.add(u64::from(hole.is_some()));
            let new = u64::from(hole == Some(Hole::New));
            self.counters.slow_gaps.add(new);
            self.counters.gaps.add(new);
            return hole.is_some();
        }
        let channel = channel.clone();
        let Some((count, last)) = self.backlog(at, |backlog| backlog.drop_channel(&channel)) else {
            return false;
        };
        self.counters.slow_consumer_dropped.add(count);
        let Some(position) = last else { return false };
        // It may have left the channel meanwhile.
        if let Some(id) = self.channels.find(&channel)
            && self
                .connections
                .get(at as usize)
                .is_some_and(|connection| connection.subscription(id).is_some())
        {
            self.counters.slow_gaps.add(1);
            self.tell_gap(at, id, ChannelGap { channel, cause: GapCause::SlowConsumer, position });
        }
        true
    }

    /// The outbox is empty: what waits behind it comes next, but not what has become too old to be of use.
    pub(super) fn refill(&mut self, at: ConnectionId) {
        let (now, limit) = (self.wheel.now(), self.age_in_ticks());
        let too_old = |connection: &Connection| {
            let oldest = connection.backlog.as_ref().and_then(|backlog| backlog.oldest());
            oldest.is_some_and(|(_, since)| now - since > limit)
        };
        while self.connections.get(at as usize).is_some_and(too_old) && self.drop_oldest(at) {}
        while self.connections.get(at as usize).is_some_and(|c| c.outbox.bytes() < REFILL_BYTES)
            && self.move_on(at)
        {}
    }

    /// Everything that waits comes next.
    pub(super) fn catch_up(&mut self, at: ConnectionId) {
        while self.move_on(at) {}
    }

    /// Moves one item from the backlog to the outbox; without any, there is no backlog any more.
    fn move_on(&mut self, at: ConnectionId) -> bool {
        if self.connections.get(at as usize).is_none_or(|connection| connection.backlog.is_none()) {
            return false;
        }
        let item = self.backlog(at, Backlog::pop).flatten();
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        match item {
            None => {
                connection.backlog = None;
                return false;
            }
            Some(Item::Frame(frame)) => self.push_control(at, frame),
            Some(Item::Publication(publication)) => self.write_publication(at, &publication),
            Some(Item::Gap(gap)) => self.write_gap(at, &gap),
        }
        true
    }
}
