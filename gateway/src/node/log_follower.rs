//! The state of following a log.
//!
//! Owns the decision whether the log must be read, the messages that are held until then, and the origin of the log.
//! Must never know a channel: [`super::log_sequence`] applies it to one.

use earshot_protocol::{Epoch, StreamPosition};

use super::messages::{RecoverFrom, RecoveryEpoch};
use crate::broker::log::{LogOrigin, LogPage, LoggedMessage};

/// Bytes that may be held while the log is read; messages beyond this limit are also read from the log.
const PENDING_BYTES: usize = 4 * 1024 * 1024;

/// Consecutive reads of the log without progress before the held messages are discarded.
const EMPTY_READS_MAX: u32 = 3;

/// The position of a channel before the first read of its log.
pub(super) const UNKNOWN_POSITION: StreamPosition = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };

/// The state of following a log.
#[derive(Debug, Default)]
pub(super) struct LogFollower {
    phase: LogPhase,
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
enum LogPhase {
    /// The log has not been read yet.
    #[default]
    Unopened,
    /// The next message follows the last delivered position.
    InSync,
    /// The log must be read from the last delivered position.
    Behind,
}

impl LogFollower {
    pub(super) fn is_unopened(&self) -> bool {
        self.phase == LogPhase::Unopened
    }

    pub(super) fn is_in_sync(&self) -> bool {
        self.phase == LogPhase::InSync
    }

    pub(super) fn is_behind(&self) -> bool {
        self.phase == LogPhase::Behind
    }

    /// Handles the first read of the log. The held messages are handled as after a page of the log.
    pub(super) fn open(&mut self, page: &LogPage) {
        self.phase = LogPhase::Behind;
        self.origin = page.top.map(|top| (top.epoch, page.origin));
    }

    /// Holds a message until the log has been read.
    pub(super) fn hold(&mut self, message: LoggedMessage) {
        self.pending_bytes += message.payload.len() + message.attributes.cost() + size_of::<LoggedMessage>();
        if self.pending_bytes <= PENDING_BYTES {
            self.pending.push(message);
        }
    }

    /// Holds a message before which an entry is missing: the log must be read.
    pub(super) fn hold_after_gap(&mut self, message: LoggedMessage) {
        self.phase = LogPhase::Behind;
        self.hold(message);
    }

    /// Whether messages were dropped because too many were held.
    pub(super) fn has_dropped_pending(&self) -> bool {
        self.pending_bytes > PENDING_BYTES
    }

    pub(super) fn take_pending(&mut self) -> Vec<LoggedMessage> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }

    /// Holds the messages that remain after the others were delivered. `has_gap`: an entry is missing before them.
    pub(super) fn put_back_pending(&mut self, rest: impl Iterator<Item = LoggedMessage>, has_gap: bool) {
        rest.for_each(|message| self.hold(message));
        self.phase = if has_gap { LogPhase::Behind } else { LogPhase::InSync };
    }

    /// Notes that messages may have been missed. Returns `false` when the log is being read already, or was never
    /// read.
    pub(super) fn mark_behind(&mut self) -> bool {
        if self.phase == LogPhase::InSync {
            self.phase = LogPhase::Behind;
            true
        } else {
            self.reread = true;
            false
        }
    }

    /// Notes that the log was read. `more`: more must be read; `has_moved`: the position has advanced. Returns whether
    /// the log must be read again.
    pub(super) fn finish_read(&mut self, more: bool, has_moved: bool) -> bool {
        if std::mem::take(&mut self.reread) {
            self.phase = LogPhase::Behind;
            return true;
        }
        self.empty_reads = if more && !has_moved { self.empty_reads + 1 } else { 0 };
        if self.empty_reads == EMPTY_READS_MAX {
            // The held messages are not in the log, so they were published without it.
            drop(self.take_pending());
            self.empty_reads = 0;
            // A message that is in the log, but arrived after this read, may have been discarded as well.
            return true;
        }
        more
    }

    /// Stores when the log began.
    pub(super) fn set_origin(&mut self, page: &LogPage) {
        if let Some(top) = page.top {
            self.origin = Some((top.epoch, page.origin));
        }
    }

    /// Whether a position can be judged only with the origin of the log, for a channel at the epoch `here`.
    pub(super) fn needs_origin(&self, here: Epoch, since: &RecoverFrom) -> bool {
        let is_known = self.origin.is_some_and(|(epoch, _)| epoch == here);
        since.provisional().is_some() && !here.is_provisional() && !is_known
    }

    /// Translates a position before the first publication to the epoch `here` of the channel, if nothing can have been
    /// lost since.
    pub(super) fn translate(&self, here: Epoch, since: &RecoverFrom) -> RecoverFrom {
        let Some(absent) = since.provisional() else { return since.clone() };
        let continues = match (LogOrigin::of_epoch(here), self.origin) {
            (Some(still), _) => still.is_same_absence(absent),
            (None, Some((epoch, Some(origin)))) => epoch == here && origin.is_first_since(absent),
            (None, _) => false,
        };
        let epoch = if continues { RecoveryEpoch::Exact(here) } else { since.epoch };
        RecoverFrom { epoch, offset: since.offset }
    }
}
