//! What is read from the logs of channels, and where it goes.
//!
//! Owns the list of channels whose log must be read, each at most once, and what a page of a log means for a channel.
//! Must never read a log itself: the node does, which knows the broker.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, Payload, StreamPosition};

use super::channel::Channel;
use super::history::Unrecoverable;
use super::log::Filling;
use super::messages::{RecoverFrom, RecoveryEpoch};
use super::publication::Publication;
use super::registry::ChannelRegistry;
use crate::broker::log::LogPage;

impl ChannelRegistry {
    pub(super) fn must_fill(&self, channel: Arc<Channel>) {
        self.fills().push_back(channel);
        self.fill.notify_one();
    }

    pub(super) fn fills(&self) -> MutexGuard<'_, VecDeque<Arc<Channel>>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for channels whose log must be read, and takes some of them.
    pub(super) async fn to_fill(&self, most: usize) -> Vec<Arc<Channel>> {
        loop {
            let some: Vec<_> = {
                let mut fills = self.fills();
                let some = fills.len().min(most);
                fills.drain(..some).collect()
            };
            if !some.is_empty() {
                return some;
            }
            self.fill.notified().await;
        }
    }

    /// The log could not be read: it is to be read again.
    pub(super) fn fill_again(&self, channel: Arc<Channel>) {
        self.must_fill(channel);
    }

    /// Hands out a page of a channel's log that was read from where the channel stood; `true` when more must be read.
    pub(super) fn filled(&self, channel: &Channel, from: StreamPosition, page: LogPage) -> bool {
        let mut filling =
            Filling { channel, shard_senders: &self.shard_senders, budget: &self.budget, told: Vec::new() };
        let mut state = channel.state();
        if state.is_gone() {
            return false;
        }
        if state.position() != from {
            // Somebody else read the log meanwhile, and came further.
            return state.log().is_some_and(|follow| follow.is_filling());
        }
        let more = filling.page(&mut state, page);
        drop(state);
        for cause in filling.told {
            self.count_gaps(cause, 1);
        }
        more
    }

    /// The first look at a channel's log.
    pub(super) fn begin_log(&self, channel: &Arc<Channel>, page: &LogPage) {
        let mut filling =
            Filling { channel, shard_senders: &self.shard_senders, budget: &self.budget, told: Vec::new() };
        if filling.begin(&mut channel.state(), page) {
            self.must_fill(Arc::clone(channel));
        }
    }

    /// Whether it must be read when a log began before a client can be told what it missed.
    pub(super) fn needs_origin(&self, channel: &Channel, since: Option<&RecoverFrom>) -> bool {
        since.is_some_and(|since| channel.state().needs_origin(since))
    }

    /// Puts entries of the log, from new to old, in front of what a channel remembers; `false` when no more fit.
    pub(super) fn backfill(&self, channel: &Channel, page: LogPage) -> bool {
        let mut state = channel.state();
        let top = state.position();
        if state.is_gone() || page.top.is_none_or(|log| log.epoch != top.epoch) {
            return false;
        }
        page.entries.into_iter().filter(|entry| entry.offset <= top.offset).all(|entry| {
            let position = StreamPosition { offset: entry.offset, ..top };
            let publication = Publication::new(channel.name.clone(), position, Payload::new(entry.payload));
            let publication = publication.with_attributes(entry.attributes);
            state.ring().push_before(&publication, top, &channel.history, &self.budget)
        })
    }

    /// The channel remembers as much of its log as it can.
    pub(super) fn backfilled(&self, channel: &Channel) {
        if let Some(follow) = channel.state().log() {
            follow.backfilled = true;
        }
    }

    /// The last position of a log that was handed out here.
    pub(super) fn seen(&self, name: &ChannelName) -> Option<StreamPosition> {
        let position = self.find(name)?.state().position();
        (!position.epoch.is_provisional()).then_some(position)
    }

    /// Whether the log stands beyond what was handed out here.
    pub(super) fn lags(&self, channel: &Channel, top: Option<StreamPosition>) -> bool {
        let here = channel.state().position();
        top.is_some_and(|top| top.epoch != here.epoch || top.offset > here.offset)
    }

    /// Whether a client has more of the log than this node.
    pub(super) fn is_behind(&self, channel: &Channel, since: Option<&RecoverFrom>) -> bool {
        let mut state = channel.state();
        let top = state.position();
        since.is_some_and(|since| {
            // The log may have begun without this node's knowledge.
            let names_a_log = matches!(since.epoch, RecoveryEpoch::Exact(epoch) if !epoch.is_provisional());
            let since = state.translate(since);
            top.epoch.is_provisional() && names_a_log || since.matches(top.epoch) && since.offset > top.offset
        })
    }

    /// Whether a client that stood there, or wants the newest publication, wants more than the channel remembers,
    /// though the log may have it.
    pub(super) fn wants_backfill(&self, channel: &Channel, since: Option<&RecoverFrom>, last: bool) -> bool {
        let mut state = channel.state();
        let top = state.position();
        if state.log().is_none_or(|follow| follow.backfilled) || top.offset == 0 {
            return false;
        }
        let most = self.limits.recovery_publications;
        match since {
            Some(since) => {
                let since = state.translate(since);
                matches!(state.ring().missed(&since, top, most), Err(Unrecoverable::TooShort))
            }
            None => last && state.ring().is_empty(),
        }
    }
}
