//! The send queue of one connection: the outbox, and the backlog behind it.
//!
//! Owns the count of queued bytes, in memory and in the metrics. Recovered publications do not count against the limit,
//! since a client that reads them is not slow.

use std::io;

use bytes::Bytes;
use earshot_protocol::ChannelName;

use super::conflation_queue::{ConflationQueue, Item};
use super::outbox::{FRAME_OVERHEAD_BYTES, Outbox};
use super::sink::{FlushStats, FlushStatus, Sink};
use super::sse;
use super::timer_wheel::Tick;
use crate::metrics::ShardCounters;

/// The send queue of a connection. An empty one holds no memory.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    outbox: Outbox,
    /// Entries that wait behind the outbox, in channels with a slow-consumer rule.
    backlog: Option<Box<ConflationQueue>>,
    /// Memory of recovered publications in the outbox, which the limit does not include.
    recovery_credit: usize,
}

impl SendQueue {
    /// Bytes of the frames in the outbox.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Bytes of memory that the outbox occupies, approximately.
    pub(super) fn outbox_queued_bytes(&self) -> usize {
        self.outbox.queued_bytes()
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    /// Bytes of memory that are queued, to compare with [`SendQueue::limit`].
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.queued_bytes() + self.backlog_bytes()
    }

    /// The limit for the current content of the queue; `client_queue_bytes` is the configured limit.
    pub(super) fn limit(&self, client_queue_bytes: usize) -> usize {
        client_queue_bytes + self.recovery_credit
    }

    /// The maximum size of the queue before a frame is added.
    pub(super) fn room_for(&self, frame: &Bytes, client_queue_bytes: usize) -> usize {
        self.limit(client_queue_bytes).saturating_sub(frame.len() + FRAME_OVERHEAD_BYTES)
    }

    /// Whether data in the outbox has waited for longer than `limit`. Recovered publications do not count.
    pub(super) fn exceeds_age(&mut self, now: Tick, limit: Tick) -> bool {
        self.outbox.age(now) > limit && self.recovery_credit == 0
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.backlog.is_some()
    }

    /// Changes the outbox, and counts the added bytes.
    #[inline]
    pub(super) fn append(&mut self, counters: &ShardCounters, change: impl FnOnce(&mut Outbox)) {
        let before = self.outbox.bytes();
        change(&mut self.outbox);
        counters.client_queue_bytes.add((self.outbox.bytes() - before) as u64);
    }

    /// Marks everything added since the outbox occupied `before` bytes as part of a recovery, which does not count
    /// against the limit.
    pub(super) fn credit_since(&mut self, before: usize) {
        self.recovery_credit += self.outbox.queued_bytes() - before;
    }

    /// Appends a frame to the outbox, ahead of the backlog.
    pub(super) fn push(&mut self, frame: Bytes, counters: &ShardCounters) {
        self.append(counters, |outbox| outbox.push(frame));
    }

    /// Appends a frame after everything that is queued. Returns whether it is in the outbox.
    pub(super) fn push_last(&mut self, frame: Bytes, now: Tick, counters: &ShardCounters) -> bool {
        if self.backlog.is_some() {
            self.defer(counters, |backlog| backlog.push_frame(frame, now));
            return false;
        }
        self.push(frame, counters);
        true
    }

    /// Appends a frame of a recovery as [`SendQueue::push_last`] does, and does not count it against the limit.
    pub(super) fn push_recovered(&mut self, frame: Bytes, now: Tick, counters: &ShardCounters) -> bool {
        self.recovery_credit += frame.len() + FRAME_OVERHEAD_BYTES;
        self.push_last(frame, now, counters)
    }

    /// Changes the backlog, which is created if there is none.
    pub(super) fn defer<T>(
        &mut self,
        counters: &ShardCounters,
        change: impl FnOnce(&mut ConflationQueue) -> T,
    ) -> T {
        let backlog = self.backlog.get_or_insert_default();
        let before = backlog.bytes();
        let result = change(backlog);
        let after = backlog.bytes();
        counters.client_queue_bytes.add(after.saturating_sub(before) as u64);
        counters.client_queue_bytes.sub(before.saturating_sub(after) as u64);
        result
    }

    /// The channel of the oldest publication that may be dropped, and the time since which it waits.
    pub(super) fn oldest_droppable(&self) -> Option<(&ChannelName, Tick)> {
        self.backlog.as_ref().and_then(|backlog| backlog.oldest())
    }

    /// Removes the first entry of the backlog, and the backlog after its last entry.
    pub(super) fn pop_deferred(&mut self, counters: &ShardCounters) -> Option<Item> {
        self.backlog.as_ref()?;
        let item = self.defer(counters, ConflationQueue::pop);
        if item.is_none() {
            self.backlog = None;
        }
        item
    }

    /// Writes the outbox until it is empty or the sink accepts no more. `stats` counts the written bytes; the caller
    /// adds them to the counters.
    pub(super) fn flush(&mut self, sink: &mut Sink, stats: &mut FlushStats) -> io::Result<FlushStatus> {
        let before = self.outbox.queued_bytes();
        let written = sink.flush(&mut self.outbox, stats)?;
        self.recovery_credit = self.recovery_credit.saturating_sub(before - self.outbox.queued_bytes());
        Ok(written)
    }

    /// Discards the backlog and the frames that have not been started. The rest of a partly written SSE event stays.
    pub(super) fn discard_unsent(&mut self, counters: &ShardCounters) {
        let waited = self.outbox.bytes() + self.backlog_bytes();
        self.backlog = None;
        // A client would receive an event without an id again after it reconnects.
        self.outbox.discard_unsent(sse::is_rest);
        counters.client_queue_bytes.sub((waited - self.outbox.bytes()) as u64);
    }

    /// Discards the whole outbox, as if it was written.
    #[cfg(feature = "bench")]
    pub(super) fn discard_outbox(&mut self) {
        self.outbox.advance(self.outbox.bytes());
    }

    /// The connection is removed: its queue no longer counts.
    pub(super) fn on_removed(&self, counters: &ShardCounters) {
        counters.client_queue_bytes.sub((self.outbox.bytes() + self.backlog_bytes()) as u64);
    }
}
