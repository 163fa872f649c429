//! One channel of a broker: its sequence, its history, and the attached shards.
//!
//! Owns the assignment of positions. Must never hold its lock across an await or a send that can wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};

use super::creators::Attribution;
use super::history::{HistoryBudget, Ring, Unrecoverable};
use super::history_rules::HistoryRules;
use super::log_follower::{LogFollower, UNKNOWN_POSITION};
use super::messages::{RecoverFrom, Recovery, RecoveryRequest};
use super::namespace::ChannelRules;
use super::publication::Publication;
use super::shard_set::{ShardId, ShardSet};
use crate::auth::ClientNetwork;
use crate::broker::Attributes;
use crate::broker::log::LogConfig;

/// A channel that this node is subscribed to.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    pub(super) rules: ChannelRules,
    /// Serializes backfills from the log, so that one read serves all clients that recover. Holds the time of the last
    /// failure, which all callers that waited for the lock share.
    pub(super) backfill: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    state: Mutex<ChannelState>,
}

/// The mutable state of a channel, guarded by its lock.
#[derive(Debug)]
pub(super) struct ChannelState {
    position: StreamPosition,
    follower: Option<LogFollower>,
    ring: Ring,
    shards: ShardSet,
    /// The channel has been removed from the registry: nothing may be added to its history.
    closed: bool,
    /// The number of attaches in progress; the channel must not be removed meanwhile.
    pub(super) pending_attaches: usize,
    /// The channel has an entry in the queue of idle channels.
    pub(super) is_scheduled: bool,
    /// When its last shard detached.
    pub(super) idle_since: Option<tokio::time::Instant>,
    /// The only address that has used it.
    attribution: Option<Attribution>,
}

impl Channel {
    pub(super) fn new(name: ChannelName, rules: ChannelRules, attribution: Option<Attribution>) -> Self {
        let has_log = rules.namespace.source.log().is_some();
        let own = StreamPosition { epoch: new_epoch(), offset: 0 };
        let state = ChannelState {
            position: if has_log { UNKNOWN_POSITION } else { own },
            follower: has_log.then(LogFollower::default),
            ring: Ring::default(),
            shards: ShardSet::default(),
            closed: false,
            pending_attaches: 0,
            is_scheduled: false,
            idle_since: None,
            attribution,
        };
        Self { name, rules, backfill: tokio::sync::Mutex::default(), state: Mutex::new(state) }
    }

    /// The bounds of its history.
    pub(super) fn history(&self) -> &HistoryRules {
        &self.rules.namespace.history
    }

    /// The log that defines its sequence, if it has one.
    pub(super) fn log(&self) -> Option<&Arc<LogConfig>> {
        self.rules.namespace.source.log()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ChannelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns the next position to a message and adds it to the history. Returns `None` when no shard is attached.
    pub(super) fn sequence(
        &self,
        payload: Payload,
        attributes: Attributes,
        budget: &HistoryBudget,
    ) -> Option<(ShardSet, Arc<Publication>)> {
        let mut state = self.state();
        state.position.offset += 1;
        let without_history = self.history().size == 0;
        if state.shards.is_empty() && without_history {
            return None;
        }
        let mut publication =
            Publication::new(self.name.clone(), state.position, payload).with_attributes(attributes);
        publication.without_history = without_history;
        let publication = Arc::new(publication);
        state.ring.push(&publication, self.history(), budget);
        (!state.shards.is_empty()).then_some((state.shards, publication))
    }

    /// How long the channel stays subscribed without a shard.
    pub(super) fn retention(&self, unsubscribe_delay: std::time::Duration) -> std::time::Duration {
        if self.history().size == 0 { unsubscribe_delay } else { unsubscribe_delay.max(self.history().ttl) }
    }
}

impl ChannelState {
    pub(super) fn position(&self) -> StreamPosition {
        self.position
    }

    pub(super) fn set_position(&mut self, position: StreamPosition) {
        self.position = position;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Marks the channel as removed and drops its history. Returns its attribution, to be released.
    pub(super) fn close(&mut self, budget: &HistoryBudget) -> Option<Attribution> {
        self.closed = true;
        self.ring.clear(budget);
        self.end_idle();
        self.attribution.take()
    }

    /// Marks the channel as idle, unless an attach is in progress. Returns the oldest idle channels of its creator
    /// beyond `max`.
    pub(super) fn begin_idle(
        &mut self,
        name: &ChannelName,
        now: tokio::time::Instant,
        max: usize,
    ) -> Vec<ChannelName> {
        self.idle_since.get_or_insert(now);
        self.attribution.as_mut().map_or_else(Vec::new, |attribution| {
            attribution.begin_idle(name);
            attribution.excess(max)
        })
    }

    fn end_idle(&mut self) {
        self.idle_since = None;
        if let Some(attribution) = &mut self.attribution {
            attribution.end_idle();
        }
    }

    /// Ends the attribution if this network is not the creator's. Returns it, to be released.
    pub(super) fn share_with(&mut self, network: Option<ClientNetwork>) -> Option<Attribution> {
        self.attribution.take_if(|attribution| attribution.is_other(network))
    }

    /// Ends the attribution. Returns it, to be released.
    pub(super) fn take_attribution(&mut self) -> Option<Attribution> {
        self.attribution.take()
    }

    /// Whether its creator counts the channel as idle.
    pub(super) fn counts_as_idle(&self) -> bool {
        self.attribution.as_ref().is_some_and(Attribution::is_idle)
    }

    /// The oldest offset in the history; without any, the next offset.
    pub(super) fn oldest(&self) -> Option<u64> {
        Some(self.ring.oldest().unwrap_or(self.position.offset + 1))
    }

    /// The state of following the log, if the channel has one.
    pub(super) fn follower(&mut self) -> Option<&mut LogFollower> {
        self.follower.as_mut()
    }

    /// Translates a position before the first publication of a log to the present epoch, if nothing can have been lost
    /// since.
    pub(super) fn translate(&self, since: &RecoverFrom) -> RecoverFrom {
        match &self.follower {
            Some(follower) => follower.translate(self.position.epoch, since),
            None => since.clone(),
        }
    }

    pub(super) fn shards(&self) -> ShardSet {
        self.shards
    }

    pub(super) fn attach(&mut self, shard: ShardId) {
        self.shards.insert(shard);
        self.end_idle();
    }

    pub(super) fn detach(&mut self, shard: ShardId) {
        self.shards.remove(shard);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.shards.is_empty() && self.pending_attaches == 0
    }

    /// Skips the position of one publication that was not delivered.
    pub(super) fn skip_one(&mut self, budget: &HistoryBudget) -> StreamPosition {
        self.ring.clear(budget);
        self.position.offset += 1;
        self.position
    }

    /// A page of the publications that a client has missed; without a position, the newest publication if requested.
    pub(super) fn recover(
        &mut self,
        channel: &Channel,
        request: &RecoveryRequest,
        max: usize,
    ) -> Result<Recovery, (Unrecoverable, Recovery)> {
        let RecoveryRequest { since, replay_last, page, is_continuation } = request;
        let top = self.position;
        // A recovery in progress may exceed the limit for a new one.
        let max = if *is_continuation { usize::MAX } else { max };
        let missed = since.as_ref().map(|since| {
            let since = self.translate(since);
            self.ring.count_missed(&since, top, max)
        });
        let (count, recovered) = match missed {
            Some(Ok(count)) => (count, true),
            // A client that requests only the newest publication is not affected by an earlier gap.
            _ if *replay_last && !self.ring.is_empty() => (1, since.is_some()),
            None => return Ok(Recovery::empty(top, false)),
            Some(Err(why)) => return Err((why, Recovery::empty(top, false))),
        };
        let publications = self.ring.newest(&channel.name, count, *page, *is_continuation);
        let start = StreamPosition { offset: top.offset - count as u64, ..top };
        let is_complete = publications.len() == count;
        Ok(Recovery { top, start, publications, recovered, is_complete })
    }

    pub(super) fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Starts a new sequence, because the present one cannot be continued.
    pub(super) fn start_new_epoch(&mut self, budget: &HistoryBudget) -> StreamPosition {
        self.ring.clear(budget);
        self.position = StreamPosition { epoch: new_epoch(), offset: 0 };
        self.position
    }
}

/// Returns an epoch that is unique, and never zero. Epochs count up from a random start of 48 bits.
///
/// A collision between two processes is as unlikely as with random epochs. Epochs of one process are close together.
/// This keeps the cursors of event streams short, because cursors contain the differences between epochs. An epoch is
/// not a secret: each subscriber of the channel receives it, and a client that guesses one gets no more of the history
/// than a client that leaves it empty.
fn new_epoch() -> Epoch {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(crate::random::u64() % ((1 << 48) - (1 << 40)) + 1));
    Epoch::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
}
