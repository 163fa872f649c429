//! Channels whose sequence is a log in Redis: every node delivers the same positions.
//!
//! Owns the step from the messages received to the next entry of the log. When an entry is missing, messages are held
//! until the log has been read from the last delivered position, so that clients see no gap, no duplicate and no
//! reordering. When the log itself has lost entries, clients get a gap. Must never assign a position.

use std::sync::Arc;

use earshot_protocol::{Epoch, Payload, StreamPosition};

use super::channel::{Channel, State};
use super::history::HistoryBudget;
use super::messages::ChannelGap;
use super::messages::{RecoverFrom, RecoveryEpoch};
use super::publication::Publication;
use super::shard_queue::ShardSender;
use crate::broker::log::{LogEntry, LogOrigin, LogPage, LoggedMessage};
use crate::broker::{Attributes, GapCause};
use crate::random;

/// Bytes that may be held while the log is read; what exceeds this is also read from the log.
const PENDING_BYTES: usize = 4 * 1024 * 1024;

/// Consecutive reads of the log without progress before the held messages are discarded.
const EMPTY_READS_MAX: u32 = 3;

/// The position of a channel before the first read of its log.
pub(super) const UNKNOWN_POSITION: StreamPosition = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };

/// The state of following a log.
#[derive(Debug, Default)]
pub(super) struct LogFollower {
    phase: Phase,
    /// Messages that are held until the log has been read.
    pending: Vec<LoggedMessage>,
    pending_bytes: usize,
    /// Consecutive reads of the log without progress.
    empty_reads: u32,
    /// Messages may have been missed while the log was being read: it must be read again.
    reread: bool,
    /// The history holds as much of the log as it can.
    pub(super) backfilled: bool,
    /// When the log of an epoch began, if the log states it.
    origin: Option<(Epoch, Option<LogOrigin>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The log has not been read yet.
    #[default]
    Unopened,
    /// The next message follows the last delivered position.
    InSync,
    /// The log must be read from the last delivered position.
    Behind,
}

/// What to do with a message.
pub(super) enum Ingest {
    /// Deliver it.
    InOrder(Arc<Publication>),
    /// Nothing: it was delivered before, or is held.
    Duplicate,
    /// Read the log: an entry is missing before it.
    Gap,
}

impl LogFollower {
    pub(super) fn is_unopened(&self) -> bool {
        self.phase == Phase::Unopened
    }

    pub(super) fn is_behind(&self) -> bool {
        self.phase == Phase::Behind
    }

    fn hold(&mut self, envelope: LoggedMessage) {
        self.pending_bytes +=
            envelope.payload.len() + envelope.attributes.cost() + size_of::<LoggedMessage>();
        if self.pending_bytes <= PENDING_BYTES {
            self.pending.push(envelope);
        }
    }

    /// Discards the held messages. They are not in the log, so they were published without it.
    fn discard_pending(&mut self) {
        drop(self.take_pending());
        self.empty_reads = 0;
    }

    fn take_pending(&mut self) -> Vec<LoggedMessage> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }
}

impl State {
    /// Handles a message on the channel.
    pub(super) fn follow(
        &mut self,
        channel: &Channel,
        envelope: LoggedMessage,
        budget: &HistoryBudget,
    ) -> Ingest {
        let here = self.position();
        let Some(follower) = self.follower() else { return Ingest::Duplicate };
        if follower.phase != Phase::InSync {
            follower.hold(envelope);
            return Ingest::Duplicate;
        }
        let next = envelope.position;
        if next.epoch == here.epoch && next.offset <= here.offset {
            return Ingest::Duplicate;
        }
        if !follows(here, next) {
            follower.phase = Phase::Behind;
            follower.hold(envelope);
            return Ingest::Gap;
        }
        Ingest::InOrder(self.append_publication(
            channel,
            next,
            &envelope.payload,
            envelope.attributes,
            budget,
        ))
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
        match self.follower() {
            Some(follower) if follower.phase == Phase::InSync => {
                follower.phase = Phase::Behind;
                true
            }
            Some(follower) => {
                follower.reread = true;
                false
            }
            None => false,
        }
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
        // The held messages are handled as after a page of the log.
        follower.phase = Phase::Behind;
        follower.origin = page.top.map(|top| (top.epoch, page.origin));
        self.set_position(page.top.unwrap_or_else(|| before_first(page.origin)));
        true
    }

    /// Stores when the log began.
    pub(super) fn set_origin(&mut self, page: &LogPage) {
        if let (Some(follower), Some(top)) = (self.follower(), page.top) {
            follower.origin = Some((top.epoch, page.origin));
        }
    }

    /// Whether a position can be judged only with the origin of the log.
    pub(super) fn needs_origin(&mut self, since: &RecoverFrom) -> bool {
        let here = self.position().epoch;
        let Some(follower) = self.follower() else { return false };
        let known = follower.origin.is_some_and(|(epoch, _)| epoch == here);
        since.provisional().is_some() && !here.is_provisional() && !known
    }

    /// Translates a position before the first publication to the present epoch, if nothing can have been lost since.
    pub(super) fn translate(&mut self, since: &RecoverFrom) -> RecoverFrom {
        let here = self.position().epoch;
        let origin = self.follower().and_then(|follower| follower.origin);
        let Some(absent) = since.provisional() else { return since.clone() };
        let continues = match (LogOrigin::of_epoch(here), origin) {
            (Some(still), _) => still.is_same_absence(absent),
            (None, Some((epoch, Some(origin)))) => epoch == here && origin.is_first_since(absent),
            (None, _) => false,
        };
        let epoch = if continues { RecoveryEpoch::Exact(here) } else { since.epoch };
        RecoverFrom { epoch, offset: since.offset }
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
    pub(super) fn page(&mut self, state: &mut State, page: LogPage) -> bool {
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
    pub(super) fn begin(&mut self, state: &mut State, page: &LogPage) -> bool {
        if !state.open_log_at(page) {
            return false;
        }
        let here = state.position();
        let more = self.pending(state);
        self.finish_read(state, here, more)
    }

    /// Counts reads without progress since `here`. Returns `true` when more must be read.
    fn finish_read(&mut self, state: &mut State, here: StreamPosition, more: bool) -> bool {
        let moved = state.position() != here;
        let Some(follower) = state.follower() else { return false };
        if std::mem::take(&mut follower.reread) {
            follower.phase = Phase::Behind;
            return true;
        }
        follower.empty_reads = if more && !moved { follower.empty_reads + 1 } else { 0 };
        if follower.empty_reads == EMPTY_READS_MAX {
            follower.discard_pending();
            // A message that is in the log, but arrived after this read, may have been discarded as well.
            return true;
        }
        more
    }

    fn read_page(
        &mut self,
        state: &mut State,
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

    fn entries(&mut self, state: &mut State, top: StreamPosition, entries: Vec<LogEntry>) {
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
    fn pending(&mut self, state: &mut State) -> bool {
        let Some(follower) = state.follower() else { return false };
        let dropped = follower.pending_bytes > PENDING_BYTES;
        let mut pending = follower.take_pending().into_iter();
        let mut handed = Vec::new();
        let mut hole = dropped;
        for envelope in pending.by_ref() {
            let (here, next) = (state.position(), envelope.position);
            if next.epoch == here.epoch && next.offset <= here.offset {
                continue;
            }
            if !follows(here, next) {
                if let Some(follower) = state.follower() {
                    follower.hold(envelope);
                }
                hole = true;
                break;
            }
            handed.push(state.append_publication(
                self.channel,
                next,
                &envelope.payload,
                envelope.attributes,
                self.budget,
            ));
        }
        self.send(state, &handed);
        if let Some(follower) = state.follower() {
            pending.for_each(|envelope| follower.hold(envelope));
            follower.phase = if hole { Phase::Behind } else { Phase::InSync };
        }
        hole
    }

    fn gap(&mut self, state: &mut State, cause: GapCause, position: StreamPosition) {
        state.ring().clear(self.budget);
        state.set_position(position);
        if let Some(follower) = state.follower() {
            follower.backfilled = false;
        }
        self.reported.push(cause);
        for shard in super::channel::shards_of(state.shards()) {
            self.shard_senders[shard].send_gaps(vec![ChannelGap {
                channel: self.channel.name.clone(),
                cause,
                position,
            }]);
        }
    }

    fn send(&self, state: &State, publications: &[Arc<Publication>]) {
        if publications.is_empty() {
            return;
        }
        for shard in super::channel::shards_of(state.shards()) {
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
