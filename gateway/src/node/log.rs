//! Channels whose sequence is a log in Redis: every node that hears one hands out the same positions.
//!
//! Owns the step from what was heard to what comes next in the log. When a number is missing, whatever is heard waits
//! until the log has been read from where the node stood; so its clients see neither hole nor duplicate nor disorder.
//! When the log itself has lost what was handed out, they are told. Must never number anything itself.

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

/// Bytes that may wait while the log is read; what is beyond them is read from the log, too.
const PENDING_BYTES: usize = 4 * 1024 * 1024;

/// Readings of the log in a row that may bring nothing, before what waits is taken for no part of it.
const IDLE_READINGS_MAX: u32 = 3;

/// The position of a channel before the first look at its log.
pub(super) const NOWHERE: StreamPosition = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };

/// How a channel keeps in step with its log.
#[derive(Debug, Default)]
pub(super) struct Follow {
    phase: Phase,
    /// What was heard while the log was to be read.
    pending: Vec<LoggedMessage>,
    pending_bytes: usize,
    /// Readings of the log in a row that brought the channel no further.
    idle_readings: u32,
    /// Something may have been missed while the log was being read: it is to be read again.
    again: bool,
    /// The ring holds as much of the log as it can.
    pub(super) backfilled: bool,
    /// When the log of an epoch began, as far as the log says so.
    origin: Option<(Epoch, Option<LogOrigin>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nobody has asked yet where the log stands.
    #[default]
    Unknown,
    /// What is heard follows on what was handed out.
    Live,
    /// The log is to be read from where the channel stands.
    Filling,
}

/// What is to be done with something that was heard.
pub(super) enum Heard {
    /// It is the next.
    Next(Arc<Publication>),
    /// It was handed out before, or waits.
    Nothing,
    /// The log must be read: something is missing.
    Hole,
}

impl Follow {
    pub(super) fn is_unknown(&self) -> bool {
        self.phase == Phase::Unknown
    }

    pub(super) fn is_filling(&self) -> bool {
        self.phase == Phase::Filling
    }

    fn wait(&mut self, envelope: LoggedMessage) {
        self.pending_bytes +=
            envelope.payload.len() + envelope.attributes.cost() + size_of::<LoggedMessage>();
        if self.pending_bytes <= PENDING_BYTES {
            self.pending.push(envelope);
        }
    }

    /// Gives up what waits: the log does not know it, so somebody published it past the log.
    fn give_up_pending(&mut self) {
        drop(self.take_pending());
        self.idle_readings = 0;
    }

    fn take_pending(&mut self) -> Vec<LoggedMessage> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }
}

impl State {
    /// Something was heard on the channel.
    pub(super) fn follow(
        &mut self,
        channel: &Channel,
        envelope: LoggedMessage,
        budget: &HistoryBudget,
    ) -> Heard {
        let here = self.position();
        let Some(follow) = self.log() else { return Heard::Nothing };
        if follow.phase != Phase::Live {
            follow.wait(envelope);
            return Heard::Nothing;
        }
        let next = envelope.position;
        if next.epoch == here.epoch && next.offset <= here.offset {
            return Heard::Nothing;
        }
        if !follows(here, next) {
            follow.phase = Phase::Filling;
            follow.wait(envelope);
            return Heard::Hole;
        }
        Heard::Next(self.hand_out(channel, next, &envelope.payload, envelope.attributes, budget))
    }

    fn hand_out(
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
        self.ring().push(&publication, &channel.history, budget);
        publication
    }

    /// The link was deaf: the log is to be read. `false` when that is being done already, or nobody has asked yet
    /// where it stands.
    pub(super) fn lose_log(&mut self) -> bool {
        match self.log() {
            Some(follow) if follow.phase == Phase::Live => {
                follow.phase = Phase::Filling;
                true
            }
            Some(follow) => {
                follow.again = true;
                false
            }
            None => false,
        }
    }

    /// The entries of the log were removed; its numbers go on.
    pub(super) fn forget_log(&mut self, budget: &HistoryBudget) {
        self.ring().clear(budget);
        if let Some(follow) = self.log() {
            follow.backfilled = false;
        }
    }

    /// The first look at the log: where it stands is where the channel begins. `false` when there was one before.
    fn begin_log(&mut self, page: &LogPage) -> bool {
        let Some(follow) = self.log().filter(|follow| follow.is_unknown()) else { return false };
        // What waits is judged like a page of the log.
        follow.phase = Phase::Filling;
        follow.origin = page.top.map(|top| (top.epoch, page.origin));
        self.set_position(page.top.unwrap_or_else(|| before_first(page.origin)));
        true
    }

    /// Notes when the log began.
    pub(super) fn note_origin(&mut self, page: &LogPage) {
        if let (Some(follow), Some(top)) = (self.log(), page.top) {
            follow.origin = Some((top.epoch, page.origin));
        }
    }

    /// Whether a position can only be judged when it is known when the log began.
    pub(super) fn needs_origin(&mut self, since: &RecoverFrom) -> bool {
        let here = self.position().epoch;
        let Some(follow) = self.log() else { return false };
        let known = follow.origin.is_some_and(|(epoch, _)| epoch == here);
        since.provisional().is_some() && !here.is_provisional() && !known
    }

    /// A position as it stands in the present epoch, if it is one of before the first publication and nothing can have
    /// been lost since.
    pub(super) fn translate(&mut self, since: &RecoverFrom) -> RecoverFrom {
        let here = self.position().epoch;
        let origin = self.log().and_then(|follow| follow.origin);
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

/// The position of a channel whose log has no entry yet. A server that does not say who it is gets one that fits nowhere.
fn before_first(origin: Option<LogOrigin>) -> StreamPosition {
    let unknown = || Epoch::provisional(random::u64());
    StreamPosition { epoch: origin.map_or_else(unknown, LogOrigin::epoch), offset: 0 }
}

/// Hands out what a channel's log holds, to the shards that listen, in one go with the log's order.
pub(super) struct Filling<'a> {
    pub(super) channel: &'a Channel,
    pub(super) shard_senders: &'a [ShardSender],
    pub(super) budget: &'a HistoryBudget,
    /// Gaps that were told, by cause.
    pub(super) told: Vec<GapCause>,
}

impl Filling<'_> {
    /// A page that was read from where the channel stood. `true` when more must be read before the channel is in step.
    pub(super) fn page(&mut self, state: &mut State, page: LogPage) -> bool {
        let here = state.position();
        state.note_origin(&page);
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
        self.settle(state, here, more)
    }

    /// The first look at the log, as a page without entries. `true` when the log must be read.
    pub(super) fn begin(&mut self, state: &mut State, page: &LogPage) -> bool {
        if !state.begin_log(page) {
            return false;
        }
        let here = state.position();
        let more = self.pending(state);
        self.settle(state, here, more)
    }

    /// Notes whether a reading brought the channel any further than `here`. `true` when more must be read.
    fn settle(&mut self, state: &mut State, here: StreamPosition, more: bool) -> bool {
        let moved = state.position() != here;
        let Some(follow) = state.log() else { return false };
        if std::mem::take(&mut follow.again) {
            follow.phase = Phase::Filling;
            return true;
        }
        follow.idle_readings = if more && !moved { follow.idle_readings + 1 } else { 0 };
        if follow.idle_readings == IDLE_READINGS_MAX {
            follow.give_up_pending();
            // Something that came after this reading, and is in the log, may have been given up with it.
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
            // A log that began anew is handed out from its beginning; one that was cut, from its end.
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
            handed.push(state.hand_out(self.channel, position, &payload, attributes, self.budget));
        }
        self.send(state, &handed);
    }

    /// What was heard meanwhile; `true` when there is a hole before it.
    fn pending(&mut self, state: &mut State) -> bool {
        let Some(follow) = state.log() else { return false };
        let dropped = follow.pending_bytes > PENDING_BYTES;
        let mut pending = follow.take_pending().into_iter();
        let mut handed = Vec::new();
        let mut hole = dropped;
        for envelope in pending.by_ref() {
            let (here, next) = (state.position(), envelope.position);
            if next.epoch == here.epoch && next.offset <= here.offset {
                continue;
            }
            if !follows(here, next) {
                if let Some(follow) = state.log() {
                    follow.wait(envelope);
                }
                hole = true;
                break;
            }
            handed.push(state.hand_out(
                self.channel,
                next,
                &envelope.payload,
                envelope.attributes,
                self.budget,
            ));
        }
        self.send(state, &handed);
        if let Some(follow) = state.log() {
            pending.for_each(|envelope| follow.wait(envelope));
            follow.phase = if hole { Phase::Filling } else { Phase::Live };
        }
        hole
    }

    fn gap(&mut self, state: &mut State, cause: GapCause, position: StreamPosition) {
        state.ring().clear(self.budget);
        state.set_position(position);
        if let Some(follow) = state.log() {
            follow.backfilled = false;
        }
        self.told.push(cause);
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
            // What finds no room is a hole in the shard's sequence, which it notices and tells.
            let _ = self.shard_senders[shard].send_publications(publications.to_vec());
        }
    }
}

/// Whether a position is the very next after another; the first of a log follows on nothing.
fn follows(here: StreamPosition, next: StreamPosition) -> bool {
    let begins = here.epoch.is_provisional() && here.offset == 0 && next.offset == 1;
    begins || (next.epoch == here.epoch && next.offset == here.offset + 1)
}
