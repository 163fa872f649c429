//! Reading the logs of channels, after a gap and for a recovery.
//!
//! Owns the effect of a page of a log on a channel. Must never read a log itself: [`super::log_reader`] does.

use std::sync::Arc;

use earshot_protocol::{Payload, StreamPosition};

use super::channel::Channel;
use super::history::{HistoryBudget, Unrecoverable};
use super::log_sequence::CatchUp;
use super::messages::{RecoverFrom, RecoveryEpoch};
use super::publication::Publication;
use super::registry::ChannelRegistry;
use crate::broker::log::LogPage;

impl ChannelRegistry {
    /// Delivers a page of a channel's log that was read from position `from`. Returns `true` when more must be read.
    pub(super) fn on_page(&self, channel: &Channel, from: StreamPosition, page: LogPage) -> bool {
        let mut catch_up = CatchUp {
            channel,
            shard_senders: &self.shard_senders,
            budget: &self.budget,
            reported: Vec::new(),
        };
        let mut state = channel.state();
        if state.is_closed() {
            return false;
        }
        if state.position() != from {
            // Another read of the log has already advanced further.
            return state.follower().is_some_and(|follower| follower.is_behind());
        }
        let more = catch_up.page(&mut state, page);
        drop(state);
        for cause in catch_up.reported {
            self.metrics.control.count_gaps(cause.as_str(), 1);
        }
        more
    }

    /// Sets the position of a channel from the first read of its log.
    pub(super) fn open_log_at(&self, channel: &Arc<Channel>, page: &LogPage) {
        let mut catch_up = CatchUp {
            channel,
            shard_senders: &self.shard_senders,
            budget: &self.budget,
            reported: Vec::new(),
        };
        if catch_up.begin(&mut channel.state(), page) {
            self.catch_up.push(Arc::clone(channel));
        }
    }
}

impl Channel {
    /// Whether the origin of the log is needed to judge a position.
    pub(super) fn needs_origin(&self, since: Option<&RecoverFrom>) -> bool {
        since.is_some_and(|since| self.state().needs_origin(since))
    }

    /// Adds entries of the log, from new to old, before the oldest publication of the history. Returns `false` when no
    /// further entry fits.
    pub(super) fn prepend_page(&self, page: LogPage, budget: &HistoryBudget) -> bool {
        let mut state = self.state();
        let top = state.position();
        if state.is_closed() || page.top.is_none_or(|log| log.epoch != top.epoch) {
            return false;
        }
        page.entries.into_iter().filter(|entry| entry.offset <= top.offset).all(|entry| {
            let position = StreamPosition { offset: entry.offset, ..top };
            let publication = Publication::new(self.name.clone(), position, Payload::new(entry.payload));
            let publication = publication.with_attributes(entry.attributes);
            state.ring().push_before(&publication, top, self.history(), budget)
        })
    }

    /// Notes that the history holds as much of the log as it can.
    pub(super) fn finish_backfill(&self) {
        if let Some(follower) = self.state().follower() {
            follower.backfilled = true;
        }
    }

    /// The last position of the log that was delivered on this node.
    pub(super) fn logged_position(&self) -> Option<StreamPosition> {
        let position = self.state().position();
        (!position.epoch.is_provisional()).then_some(position)
    }

    /// Whether the log is ahead of what was delivered on this node.
    pub(super) fn log_is_ahead(&self, top: Option<StreamPosition>) -> bool {
        let here = self.state().position();
        top.is_some_and(|top| top.epoch != here.epoch || top.offset > here.offset)
    }

    /// Whether the position of a client is ahead of this node.
    pub(super) fn is_client_ahead(&self, since: Option<&RecoverFrom>) -> bool {
        let state = self.state();
        let top = state.position();
        since.is_some_and(|since| {
            // The log may have begun since this node read it.
            let names_a_log = matches!(since.epoch, RecoveryEpoch::Exact(epoch) if !epoch.is_provisional());
            let since = state.translate(since);
            top.epoch.is_provisional() && names_a_log || since.matches(top.epoch) && since.offset > top.offset
        })
    }

    /// Whether a recovery of at most `max` publications needs more of the log than the history holds.
    pub(super) fn needs_backfill(&self, since: Option<&RecoverFrom>, last: bool, max: usize) -> bool {
        let mut state = self.state();
        let top = state.position();
        if state.follower().is_none_or(|follower| follower.backfilled) || top.offset == 0 {
            return false;
        }
        match since {
            Some(since) => {
                let since = state.translate(since);
                matches!(state.ring().count_missed(&since, top, max), Err(Unrecoverable::TooShort))
            }
            None => last && state.ring().is_empty(),
        }
    }
}
