//! The channels of one broker, and recovery from their history.
//!
//! Owns the map from names to channels. Must never wait, or hold an entry of the map across anything but the lock of
//! its channel.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use earshot_protocol::{ChannelName, Epoch, StreamPosition};
use tokio::time::Instant;

use super::catch_up_queue::CatchUpQueue;
use super::channel::Channel;
use super::creators::Creators;
use super::history::{HistoryBudget, Unrecoverable};
use super::idle_queue::IdleQueue;
use super::messages::{HistoryError, HistoryPage, HistoryQuery, HistoryResponse, Recovery, RecoveryRequest};
use super::shard_queue::ShardSender;
use crate::broker::GapCause;
use crate::metrics::Metrics;

/// The bounds of a node's channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Channels on this node (`limits.channels`).
    pub channels: usize,
    /// Channels without a subscriber that one address may leave behind (`limits.idle_channels_per_address`).
    pub idle_per_creator: usize,
    /// How long a channel without a subscriber stays subscribed (`gateway.unsubscribe_delay`).
    pub unsubscribe_delay: Duration,
    /// The largest publication (`limits.publication_bytes`).
    pub publication_bytes: usize,
    /// Publications in one recovery (`limits.recovery_publications`).
    pub recovery_publications: usize,
}

/// How often, at most, the age limit of the history is halved to free memory.
const EVICTION_ROUNDS_MAX: u32 = 16;

/// The channels of one broker.
#[derive(Debug)]
pub struct ChannelRegistry {
    pub(super) channels: DashMap<ChannelName, Arc<Channel>>,
    /// The addresses that created them.
    pub(super) creators: Creators,
    pub(super) shard_senders: Arc<[ShardSender]>,
    pub(super) limits: ChannelLimits,
    pub(super) budget: Arc<HistoryBudget>,
    pub(super) catch_up: CatchUpQueue,
    pub(super) idle: IdleQueue,
    /// Held for writing by a local publish: whatever the broker's calls have sequenced must be in the queues before
    /// the local publish assigns its position, and vice versa.
    pub(super) local_publish_gate: RwLock<()>,
    pub(super) metrics: Arc<Metrics>,
}

impl ChannelRegistry {
    /// Creates an empty registry for these shards.
    pub fn new(
        shard_senders: Arc<[ShardSender]>,
        limits: ChannelLimits,
        budget: Arc<HistoryBudget>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            channels: DashMap::new(),
            creators: Creators::default(),
            shard_senders,
            limits,
            budget,
            catch_up: CatchUpQueue::default(),
            idle: IdleQueue::default(),
            local_publish_gate: RwLock::default(),
            metrics,
        })
    }

    /// The number of channels, including idle ones.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Recovers the publications that a client has missed. Calls `announce` with the result, in order with the
    /// publications.
    pub(super) fn recover(
        &self,
        name: &ChannelName,
        request: &RecoveryRequest,
        announce: impl FnOnce(Recovery),
    ) {
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else {
            let top = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };
            return announce(Recovery::empty(top, false));
        };
        let mut state = channel.state();
        state.ring().expire(Instant::now(), channel.history(), &self.budget);
        let max = self.limits.recovery_publications;
        match state.recover(&channel, request, max) {
            Ok(recovery) => announce(recovery),
            Err((why, recovery)) => {
                self.metrics.control.count_gaps(GapCause::from(why).as_str(), 1);
                announce(recovery);
            }
        }
    }

    /// A page of a channel's history; `None` when the channel is not known on this node.
    pub(super) fn history(&self, name: &ChannelName, page: &HistoryQuery) -> Option<HistoryResponse> {
        let channel = self.channels.get(name).map(|channel| Arc::clone(&channel))?;
        let mut state = channel.state();
        state.ring().expire(Instant::now(), channel.history(), &self.budget);
        let top = state.position();
        if page.since.as_ref().is_some_and(|since| !state.translate(since).matches(top.epoch)) {
            return Some(Err(HistoryError::Unrecoverable));
        }
        let since = page.since.as_ref().map(|since| since.offset);
        let publications = state.ring().page(name, since, page.limit, page.reverse);
        Some(Ok(HistoryPage { top, publications }))
    }

    /// Removes a channel's publications; its sequence continues.
    pub(super) fn clear_history(&self, name: &ChannelName) {
        if let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) {
            channel.state().ring().clear(&self.budget);
        }
    }

    /// Drops the oldest publications of all channels when the node's limit is near, so that new ones find room.
    pub(super) fn enforce_history_budget(&self, now: Instant) {
        if !self.budget.is_above_high_watermark() {
            return;
        }
        for halvings in 1..EVICTION_ROUNDS_MAX {
            for channel in &self.channels {
                let age = channel.history().ttl / (1 << halvings);
                channel.state().ring().drop_older_than(now, age, &self.budget);
            }
            if self.budget.is_below_low_watermark() {
                return;
            }
        }
    }

    /// Drops expired publications, also of channels without traffic.
    pub(super) fn expire_history(&self, now: Instant) {
        for channel in &self.channels {
            let mut state = channel.state();
            if !state.ring().is_empty() {
                state.ring().expire(now, channel.history(), &self.budget);
            }
        }
    }

    /// The channel, if it exists.
    pub(super) fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        self.channels.get(name).map(|channel| Arc::clone(&channel))
    }
}

impl From<Unrecoverable> for GapCause {
    fn from(why: Unrecoverable) -> Self {
        match why {
            Unrecoverable::Epoch => Self::UnknownPosition,
            Unrecoverable::TooShort => Self::HistoryTooShort,
        }
    }
}
