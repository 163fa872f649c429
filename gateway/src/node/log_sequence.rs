//! Channels whose sequence is a log: every node delivers the same positions.
//!
//! Owns the step from the messages received to the next entry of the log. When an entry is missing, messages are held
//! until the log has been read from the last delivered position, so that clients see no gap, no duplicate and no
//! reordering. When the log itself has lost entries, clients get a gap. Must never assign a position.

use std::sync::Arc;

use earshot_protocol::{Epoch, Payload, StreamPosition};

use super::channel::{Channel, ChannelState};
use super::history::HistoryBudget;
use super::log_follower::LogFollower;
use super::messages::{ChannelGap, RecoverFrom};
use super::publication::Publication;
use super::shard_queue::ShardSender;
use crate::broker::log::{LogEntry, LogOrigin, LogPage, LoggedMessage};
use crate::broker::{Attributes, GapCause};
use crate::random;

/// The action for a message.
pub(super) enum Ingest {
    /// Deliver it.
    InOrder(Arc<Publication>),
    /// Nothing: it was delivered before, or is held.
    Duplicate,
    /// Read the log: an entry is missing before it.
    Gap,
}

impl ChannelState {
    /// Handles a message on the channel.
    pub(super) fn follow(
        &mut self,
        channel: &Channel,
        message: LoggedMessage,
        budget: &HistoryBudget,
    ) -> Ingest {
        let here = self.position();
        let Some(follower) = self.follower() else { return Ingest::Duplicate };
        if !follower.is_in_sync() {
            follower.hold(message);
            return Ingest::Duplicate;
        }
        let next = message.position;
        if next.epoch == here.epoch && next.offset <= here.offset {
            return Ingest::Duplicate;
        }
        if !follows(here, next) {
            follower.hold_after_gap(message);
            return Ingest::Gap;
        }
        Ingest::InOrder(self.append_publication(channel, next, &message.payload, message.attributes, budget))
    }

    fn append_publication(
        &mut self,
        channel: &Channel,
        position: StreamPosition,
        payload: &bytes::Bytes,
        attributes: Attributes,
        budget: &HistoryBudget,
    ) -> Arc<Publication> {
        self.set_position(position);
        let publication = Publication::new(channel.name.clone(), position, Payload::new(payload.clone()));
        let publication = Arc::new(publication.with_attributes(attributes));
        self.ring().push(&publication, channel.history(), budget);
        publication
    }

    /// Notes that messages may have been missed. Returns `false` when the log is being read already, or was never
    /// read.
    pub(super) fn mark_behind(&mut self) -> bool {
        self.follower().is_some_and(LogFollower::mark_behind)
    }

    /// Drops the history because the entries of the log were removed; the sequence continues.
    pub(super) fn clear_log_history(&mut self, budget: &HistoryBudget) {
        self.ring().clear(budget);
        if let Some(follower) = self.follower() {
            follower.backfilled = false;
        }
    }

    /// Sets the position from the first read of the log. Returns `false` when it was set before.
    fn open_log_at(&mut self, page: &LogPage) -> bool {
        let Some(follower) = self.follower().filter(|follower| follower.is_unopened()) else { return false };
        follower.open(page);
        self.set_position(page.top.unwrap_or_else(|| before_first(page.origin)));
        true
    }

    /// Stores when the log began.
    pub(super) fn set_origin(&mut self, page: &LogPage) {
        if let Some(follower) = self.follower() {
            follower.set_origin(page);
        }
    }

    /// Whether a position can be judged only with the origin of the log.
    pub(super) fn needs_origin(&mut self, since: &RecoverFrom) -> bool {
        let here = self.position().epoch;
        self.follower().is_some_and(|follower| follower.needs_origin(here, since))
    }
}

/// The position of a channel whose log has no entry yet. Without an origin, the position matches no log.
fn before_first(origin: Option<LogOrigin>) -> StreamPosition {
    let unknown = || Epoch::provisional(random::u64());
    StreamPosition { epoch: origin.map_or_else(unknown, LogOrigin::epoch), offset: 0 }
}

/// Delivers the entries of a channel's log to the attached shards, in the order of the log.
pub(super) struct CatchUp<'a> {
    pub(super) channel: &'a Channel,
    pub(super) shard_senders: &'a [ShardSender],
    pub(super) budget: &'a HistoryBudget,
    /// The causes of the gaps that were reported.
    pub(super) reported: Vec<GapCause>,
}

impl CatchUp<'_> {
    /// Delivers a page that was read from the last delivered position. Returns `true` when more must be read.
    pub(super) fn page(&mut self, state: &mut ChannelState, page: LogPage) -> bool {
        let here = state.position();
        state.set_origin(&page);
        let more = match page.top {
            Some(top) => self.read_page(state, here, top, page.entries, page.origin),
            None => {
                let absent = LogOrigin::of_epoch(here.epoch).zip(page.origin);
                if !absent.is_some_and(|(then, now)| now.is_same_absence(then)) {
                    self.gap(state, GapCause::LogLost, before_first(page.origin));
                }
                self.pending(state)
            }
        };
        self.finish_read(state, here, more)
    }

    /// Handles the first read of the log, as a page without entries. Returns `true` when the log must be read.
    pub(super) fn begin(&mut self, state: &mut ChannelState, page: &LogPage) -> bool {
        if !state.open_log_at(page) {
            return false;
        }
        let here = state.position();
        let more = self.pending(state);
        self.finish_read(state, here, more)
    }

    /// Returns `true` when more must be read: see [`LogFollower::finish_read`].
    fn finish_read(&mut self, state: &mut ChannelState, here: StreamPosition, more: bool) -> bool {
        let has_moved = state.position() != here;
        state.follower().is_some_and(|follower| follower.finish_read(more, has_moved))
    }

    fn read_page(
        &mut self,
        state: &mut ChannelState,
        here: StreamPosition,
        top: StreamPosition,
        entries: Vec<LogEntry>,
        origin: Option<LogOrigin>,
    ) -> bool {
        let absent = LogOrigin::of_epoch(here.epoch);
        let begins = absent.zip(origin).is_some_and(|(absent, origin)| origin.is_first_since(absent));
        if here.epoch != top.epoch && !begins || top.offset < here.offset {
            // A new log is delivered from its beginning; a truncated one, from its end.
            let offset = if here.epoch == top.epoch { top.offset } else { 0 };
            self.gap(state, GapCause::LogLost, StreamPosition { offset, ..top });
        } else if here.epoch != top.epoch {
            state.set_position(StreamPosition { offset: 0, ..top });
            self.entries(state, top, entries);
        } else {
            self.entries(state, top, entries);
        }
        if state.position().offset < top.offset {
            return true;
        }
        self.pending(state)
    }

    fn entries(&mut self, state: &mut ChannelState, top: StreamPosition, entries: Vec<LogEntry>) {
        if entries.is_empty() && state.position().offset < top.offset {
            return self.gap(state, GapCause::HistoryTooShort, top);
        }
        let mut handed = Vec::with_capacity(entries.len());
        for LogEntry { offset, attributes, payload } in entries {
            let here = state.position();
            if offset <= here.offset {
                continue;
            }
            if offset != here.offset + 1 {
                self.send(state, &std::mem::take(&mut handed));
                self.gap(state, GapCause::HistoryTooShort, StreamPosition { offset: offset - 1, ..here });
            }
            let position = StreamPosition { offset, ..here };
            handed.push(state.append_publication(self.channel, position, &payload, attributes, self.budget));
        }
        self.send(state, &handed);
    }

    /// Delivers the held messages. Returns `true` when an entry is missing before one of them.
    fn pending(&mut self, state: &mut ChannelState) -> bool {
        let Some(follower) = state.follower() else { return false };
        let mut has_gap = follower.has_dropped_pending();
        let mut pending = follower.take_pending().into_iter();
        let (mut handed, mut next_pending) = (Vec::new(), None);
        for message in pending.by_ref() {
            let (here, next) = (state.position(), message.position);
            if next.epoch == here.epoch && next.offset <= here.offset {
                continue;
            }
            if !follows(here, next) {
                next_pending = Some(message);
                has_gap = true;
                break;
            }
            handed.push(state.append_publication(
                self.channel,
                next,
                &message.payload,
                message.attributes,
                self.budget,
            ));
        }
        self.send(state, &handed);
        if let Some(follower) = state.follower() {
            follower.put_back_pending(next_pending.into_iter().chain(pending), has_gap);
        }
        has_gap
    }

    fn gap(&mut self, state: &mut ChannelState, cause: GapCause, position: StreamPosition) {
        state.ring().clear(self.budget);
        state.set_position(position);
        if let Some(follower) = state.follower() {
            follower.backfilled = false;
        }
        self.reported.push(cause);
        for shard in state.shards().iter() {
            self.shard_senders[shard].send_gaps(vec![ChannelGap {
                channel: self.channel.name.clone(),
                cause,
                position,
            }]);
        }
    }

    fn send(&self, state: &ChannelState, publications: &[Arc<Publication>]) {
        if publications.is_empty() {
            return;
        }
        for shard in state.shards().iter() {
            // When the queue of a shard is full, the shard detects the gap in the sequence and reports it.
            let _ = self.shard_senders[shard].send_publications(publications.to_vec());
        }
    }
}

/// Whether a position directly follows another; the first entry of a log follows the position of no log.
fn follows(here: StreamPosition, next: StreamPosition) -> bool {
    let begins = here.epoch.is_provisional() && here.offset == 0 && next.offset == 1;
    begins || (next.epoch == here.epoch && next.offset == here.offset + 1)
}
