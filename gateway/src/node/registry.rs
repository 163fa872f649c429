//! The channels of one broker: who enters and leaves, and what is remembered for those who come back.
//!
//! Owns the map from names to channels. Must never wait, nor hold an entry of the map across anything but the lock of
//! its channel.

use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use earshot_protocol::{ChannelName, Epoch, StreamPosition};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::channel::{Channel, ShardId};
use super::creator::Creators;
use super::history::{HistoryBudget, HistoryRules, Unrecoverable};
use super::lingering::Lingering;
use super::messages::{
    HistoryError, HistoryPage, HistoryQuery, HistoryResponse, Recovery, RecoveryRequest, SubscribeError,
};
use super::shard_queue::ShardSender;
use crate::broker::GapCause;
use crate::broker::log::LogConfig;
use crate::metrics::Metrics;

/// Bounds of a node's channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Channels that may be known at once (`limits.channels`).
    pub channels: usize,
    /// Channels without a subscriber that one address may leave behind (`limits.idle_channels_per_address`).
    pub idle_per_creator: usize,
    /// How long a channel without listeners stays subscribed (`gateway.unsubscribe_delay`).
    pub unsubscribe_delay: Duration,
    /// The largest publication (`limits.publication_bytes`).
    pub publication_bytes: usize,
    /// Publications in one recovery (`limits.recovery_publications`).
    pub recovery_publications: usize,
}

/// How often the age that a publication may reach is halved, at the most, to make room.
const HALVINGS_MAX: u32 = 16;

/// The channels of one broker.
#[derive(Debug)]
pub struct ChannelRegistry {
    pub(super) channels: DashMap<ChannelName, Arc<Channel>>,
    /// Access has created them.
    pub(super) creators: Creators,
    pub(super) shard_senders: Arc<[ShardSender]>,
    pub(super) limits: ChannelLimits,
    pub(super) budget: Arc<HistoryBudget>,
    /// Channels whose log must be read; each at most once.
    pub(super) fills: Mutex<VecDeque<Arc<Channel>>>,
    pub(super) fill: Notify,
    pub(super) lingering: Mutex<BinaryHeap<Lingering>>,
    /// Held for writing where something is heard from another place than the broker's own: what is stamped by the one
    /// must have been handed on before the other stamps.
    pub(super) aside: RwLock<()>,
    pub(super) metrics: Arc<Metrics>,
}

impl ChannelRegistry {
    /// An empty registry in front of these shards.
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
            fills: Mutex::default(),
            fill: Notify::new(),
            lingering: Mutex::default(),
            aside: RwLock::default(),
            metrics,
        })
    }

    /// The channels known at this moment, those that linger included.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The channel, kept from being let go until [`ChannelRegistry::entered`] or [`ChannelRegistry::abandon`]. A new one is
    /// attributed to the address that it is entered `from`, until a client of another address enters it. At the limit,
    /// one without a subscriber is evicted for it, with a call to `release`.
    pub(super) fn enter(
        &self,
        name: &ChannelName,
        (history, log): (HistoryRules, Option<&Arc<LogConfig>>),
        from: Option<IpAddr>,
        release: impl Fn(&ChannelName),
    ) -> Result<Arc<Channel>, SubscribeError> {
        if let Some(channel) = self.find_attaching(name) {
            let other = channel.state().share(from);
            other.into_iter().for_each(|attribution| self.creators.release(attribution));
            return Ok(channel);
        }
        if !self.make_room(release) {
            return Err(SubscribeError::TooManyChannels);
        }
        // The entry is held until the channel is marked: nobody can let it go in between.
        let entry = self.channels.entry(name.clone()).or_insert_with(|| {
            let attribution = from.and_then(|address| self.creators.attribute(address));
            Arc::new(Channel::new(name.clone(), history, log.cloned(), attribution))
        });
        entry.state().attaching += 1;
        Ok(Arc::clone(&entry))
    }

    /// The channel, when it is known, kept from being let go.
    fn find_attaching(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        let channel = self.channels.get(name)?;
        channel.state().attaching += 1;
        Some(Arc::clone(&channel))
    }

    /// A shard hears the channel from now on; `announce` is called with the position, in the sequence's order.
    pub(super) fn entered(&self, channel: &Channel, shard: ShardId, announce: impl FnOnce(StreamPosition)) {
        let mut state = channel.state();
        state.attaching -= 1;
        state.attach(shard);
        announce(state.position());
    }

    /// An attach came to nothing.
    pub(super) fn abandon(&self, channel: &Arc<Channel>, release: impl Fn(&ChannelName)) {
        let mut state = channel.state();
        state.attaching -= 1;
        self.linger(channel, state, release);
    }

    /// What a client of a shard has missed; `announce` is called with it, in the sequence's order. `None` when the
    /// channel is not known.
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
        state.ring().forget_old(Instant::now(), &channel.history, &self.budget);
        let most = self.limits.recovery_publications;
        match state.recover(&channel, request, most) {
            Ok(recovery) => announce(recovery),
            Err((why, recovery)) => {
                self.count_gaps(why.into(), 1);
                announce(recovery);
            }
        }
    }

    /// A page of a channel's history, with the position of its top. `None` when the channel is not known here.
    pub(super) fn history(&self, name: &ChannelName, page: &HistoryQuery) -> Option<HistoryResponse> {
        let channel = self.channels.get(name).map(|channel| Arc::clone(&channel))?;
        let mut state = channel.state();
        state.ring().forget_old(Instant::now(), &channel.history, &self.budget);
        let top = state.position();
        if page.since.as_ref().is_some_and(|since| !state.translate(since).matches(top.epoch)) {
            return Some(Err(HistoryError::Unrecoverable));
        }
        let since = page.since.as_ref().map(|since| since.offset);
        let publications = state.ring().page(name, since, page.limit, page.reverse);
        Some(Ok(HistoryPage { top, publications }))
    }

    /// Forgets a channel's publications; its sequence goes on.
    pub(super) fn forget(&self, name: &ChannelName) {
        if let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) {
            channel.state().ring().clear(&self.budget);
        }
    }

    /// Makes room when the node's bound comes near: the oldest publications of all channels give way, so that the
    /// newest find a place.
    pub(super) fn relieve(&self, now: Instant) {
        if !self.budget.is_tight() {
            return;
        }
        for halvings in 1..HALVINGS_MAX {
            for channel in &self.channels {
                let age = channel.history.ttl / (1 << halvings);
                channel.state().ring().forget_older(now, age, &self.budget);
            }
            if self.budget.is_relieved() {
                return;
            }
        }
    }

    /// Forgets what is too old, also in channels where nothing happens.
    pub(super) fn forget_old(&self, now: Instant) {
        for channel in &self.channels {
            let mut state = channel.state();
            if !state.ring().is_empty() {
                state.ring().forget_old(now, &channel.history, &self.budget);
            }
        }
    }

    /// A shard no longer hears the channel, which was `shared` by clients of several addresses.
    pub(super) fn detach(
        &self,
        name: &ChannelName,
        shard: ShardId,
        shared: bool,
        release: impl Fn(&ChannelName),
    ) {
        let Some(channel) = self.find(name) else { return };
        let mut state = channel.state();
        state.detach(shard);
        let attribution = if shared { state.take_attribution() } else { None };
        self.linger(&channel, state, release);
        attribution.into_iter().for_each(|attribution| self.creators.release(attribution));
    }

    /// The channel, when it is known.
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
