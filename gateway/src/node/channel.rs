//! One channel of the node: its sequence and the shards that hear it.
//!
//! Owns the stamp. Must never hold its lock across an await or a send that can wait.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};

use super::creator::Attribution;
use super::history::{HistoryBudget, HistoryRules, Ring, Unrecoverable};
use super::log::{Follow, NOWHERE};
use super::messages::{Recovery, RecoveryRequest};
use super::publication::Publication;
use crate::broker::Attributes;
use crate::broker::log::LogConfig;

/// The most shards a node can have: one bit each in a channel's set of listeners.
pub const SHARDS_MAX: usize = 128;

/// The place of a shard in the node's list.
pub type ShardId = usize;

/// A channel that somebody here hears, or heard a moment ago.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    /// How much it remembers.
    pub(super) history: HistoryRules,
    /// The log that its sequence is, if it is one.
    pub(super) log: Option<Arc<LogConfig>>,
    /// Held while the ring is filled from the log, so that this is done once for all clients that return. Contains the
    /// time of the last failure, which those that waited for the lock share.
    pub(super) backfill: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    state: Mutex<State>,
}

/// What changes about a channel; only ever seen under its lock.
#[derive(Debug)]
pub(super) struct State {
    position: StreamPosition,
    follow: Option<Follow>,
    ring: Ring,
    shards: u128,
    /// The channel was let go: nothing may be remembered here any more.
    gone: bool,
    /// Attaches on their way: the channel must not be let go meanwhile.
    pub(super) attaching: usize,
    /// The channel has an entry in the queue of those that may be let go.
    pub(super) lingering: bool,
    /// When its last listener left.
    pub(super) idle_since: Option<tokio::time::Instant>,
    /// The address that alone has used it.
    attribution: Option<Attribution>,
}

impl Channel {
    pub(super) fn new(
        name: ChannelName,
        history: HistoryRules,
        log: Option<Arc<LogConfig>>,
        attribution: Option<Attribution>,
    ) -> Self {
        let own = StreamPosition { epoch: new_epoch(), offset: 0 };
        let state = State {
            position: if log.is_some() { NOWHERE } else { own },
            follow: log.is_some().then(Follow::default),
            ring: Ring::default(),
            shards: 0,
            gone: false,
            attaching: 0,
            lingering: false,
            idle_since: None,
            attribution,
        };
        Self { name, history, log, backfill: tokio::sync::Mutex::default(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message its place. `None` when no shard hears the channel; it is remembered all the same.
    pub(super) fn stamp(
        &self,
        payload: Payload,
        attributes: Attributes,
        budget: &HistoryBudget,
    ) -> Option<(u128, Arc<Publication>)> {
        let mut state = self.state();
        state.position.offset += 1;
        let without_history = self.history.size == 0;
        if state.shards == 0 && without_history {
            return None;
        }
        let mut publication =
            Publication::new(self.name.clone(), state.position, payload).with_attributes(attributes);
        publication.without_history = without_history;
        let publication = Arc::new(publication);
        state.ring.push(&publication, &self.history, budget);
        (state.shards != 0).then_some((state.shards, publication))
    }

    /// How long it is worth hearing without a listener.
    pub(super) fn worth(&self, linger: std::time::Duration) -> std::time::Duration {
        if self.history.size == 0 { linger } else { linger.max(self.history.ttl) }
    }
}

impl State {
    pub(super) fn position(&self) -> StreamPosition {
        self.position
    }

    pub(super) fn set_position(&mut self, position: StreamPosition) {
        self.position = position;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// The channel is let go, with all that it remembers. Returns its attribution, to be released.
    pub(super) fn go(&mut self, budget: &HistoryBudget) -> Option<Attribution> {
        self.gone = true;
        self.ring.clear(budget);
        self.end_idle();
        self.attribution.take()
    }

    /// The channel has no subscriber, unless one is attaching. Returns the oldest idle channels of its creator, as many
    /// as it has more than `most`.
    pub(super) fn begin_idle(
        &mut self,
        name: &ChannelName,
        now: tokio::time::Instant,
        most: usize,
    ) -> Vec<ChannelName> {
        self.idle_since.get_or_insert(now);
        self.attribution.as_mut().map_or_else(Vec::new, |attribution| {
            attribution.begin_idle(name);
            attribution.excess(most)
        })
    }

    fn end_idle(&mut self) {
        self.idle_since = None;
        if let Some(attribution) = &mut self.attribution {
            attribution.end_idle();
        }
    }

    /// Ends the attribution if a client of this address is another than the creator. Returns it, to be released.
    pub(super) fn share(&mut self, address: Option<IpAddr>) -> Option<Attribution> {
        self.attribution.take_if(|attribution| attribution.is_other(address))
    }

    /// Ends the attribution. Returns it, to be released.
    pub(super) fn take_attribution(&mut self) -> Option<Attribution> {
        self.attribution.take()
    }

    /// Whether a creator counts the channel as idle.
    pub(super) fn is_counted(&self) -> bool {
        self.attribution.as_ref().is_some_and(Attribution::is_idle)
    }

    /// The oldest offset that is remembered; without any, the one behind the top.
    pub(super) fn oldest(&self) -> Option<u64> {
        Some(self.ring.oldest().unwrap_or(self.position.offset + 1))
    }

    /// How the channel keeps in step with its log, if it has one.
    pub(super) fn log(&mut self) -> Option<&mut Follow> {
        self.follow.as_mut()
    }

    pub(super) fn shards(&self) -> u128 {
        self.shards
    }

    pub(super) fn attach(&mut self, shard: ShardId) {
        self.shards |= 1 << shard;
        self.end_idle();
    }

    pub(super) fn detach(&mut self, shard: ShardId) {
        self.shards &= !(1 << shard);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.shards == 0 && self.attaching == 0
    }

    /// One publication is missing for certain, and nothing else.
    pub(super) fn skip(&mut self, budget: &HistoryBudget) -> StreamPosition {
        self.ring.clear(budget);
        self.position.offset += 1;
        self.position
    }

    /// A page of what a client has missed; without a position, the newest publication if `last` is asked for.
    pub(super) fn recover(
        &mut self,
        channel: &Channel,
        request: &RecoveryRequest,
        most: usize,
    ) -> Result<Recovery, (Unrecoverable, Recovery)> {
        let RecoveryRequest { since, replay_last, page, is_continuation } = request;
        let top = self.position;
        // A recovery that has begun may become longer than one that begins may be.
        let most = if *is_continuation { usize::MAX } else { most };
        let missed = since.as_ref().map(|since| {
            let since = self.translate(since);
            self.ring.missed(&since, top, most)
        });
        let (count, recovered) = match missed {
            Some(Ok(count)) => (count, true),
            // A client that wants the newest only has missed nothing by a gap before it.
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

    /// What went before cannot be continued: a new sequence begins.
    pub(super) fn break_sequence(&mut self, budget: &HistoryBudget) -> StreamPosition {
        self.ring.clear(budget);
        self.position = StreamPosition { epoch: new_epoch(), offset: 0 };
        self.position
    }
}

/// A name for a new sequence that no other will bear: never zero, and counted on from a random start of 48 bits.
///
/// That two processes give one name to two sequences of a channel is as unlikely as if each name were random. Those of
/// one process lie close together, which keeps the cursors of streams short, since they hold differences. An epoch is not
/// a secret: each subscriber of the channel receives it, and a client that guesses one gets no more of the history than
/// a client that leaves it empty.
fn new_epoch() -> Epoch {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(crate::random::u64() % ((1 << 48) - (1 << 40)) + 1));
    Epoch::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The shards in a set.
pub(super) fn shards_of(mut set: u128) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let shard = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(shard)
    })
}
