//! The channels of one broker: stamps what is heard and hands it to the shards that want it.
//!
//! Owns the map from names to channels and the time a channel lingers after its last listener left. It is the
//! broker's [`Listener`]. Must never wait: a shard that is behind gets a gap, not the node's time.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};
use tokio::time::Instant;

use super::SubscribeError;
use super::channel::{Channel, ShardId, State, shards_of};
use super::history::{HistoryBudget, HistoryRules, Recovery, Since, Unrecoverable};
use super::lane::HistoryAnswer;
use super::port::{Gap, Port};
use super::publication::Publication;
use crate::broker::{GapCause, Listener, Loss, LostTopics, Message, Topic};
use crate::metrics::{GAP_CAUSES, Metrics};

/// Bounds of a node's channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Channels that may be known at once (`limits.channels`).
    pub channels: usize,
    /// How long a channel without listeners stays subscribed (`gateway.linger`).
    pub linger: Duration,
    /// The largest publication (`limits.publication_bytes`).
    pub publication_bytes: usize,
    /// Publications in one recovery (`limits.recovery_publications`).
    pub recovery_publications: usize,
}

/// How long the node waits at the most before it looks for channels to let go.
const LOOK: Duration = Duration::from_millis(500);

/// What a client that comes back asks for.
#[derive(Clone, Debug)]
pub struct RecoveryRequest {
    /// Where it stood; `None`: it was not here before.
    pub since: Option<Since>,
    /// The newest publication is wanted in any case.
    pub last: bool,
}

/// A part of a channel's history.
#[derive(Clone, Debug)]
pub struct Page {
    since: Option<Since>,
    limit: usize,
    reverse: bool,
}

impl Page {
    /// Behind (in reverse: before) a position, as many as `limit` says: 0: only the top's position; below 0: as many
    /// as there may be, which is `most`.
    pub fn new(since: Option<Since>, limit: i32, most: usize, reverse: bool) -> Self {
        Self { since, limit: usize::try_from(limit).unwrap_or(most).min(most), reverse }
    }
}

/// What a channel remembers.
#[derive(Clone, Debug)]
pub struct History {
    /// The position of its top.
    pub top: StreamPosition,
    /// The publications asked for.
    pub publications: Vec<Arc<Publication>>,
}

/// The channels of one broker.
#[derive(Debug)]
pub struct Registry {
    channels: DashMap<ChannelName, Arc<Channel>>,
    ports: Arc<[Port]>,
    limits: ChannelLimits,
    budget: Arc<HistoryBudget>,
    lingering: Mutex<BinaryHeap<Lingering>>,
    metrics: Arc<Metrics>,
}

/// A channel that may be let go, first due first out.
#[derive(Debug)]
struct Lingering {
    due: Instant,
    channel: Arc<Channel>,
}

impl Registry {
    /// An empty registry in front of these shards.
    pub fn new(
        ports: Arc<[Port]>,
        limits: ChannelLimits,
        budget: Arc<HistoryBudget>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (channels, lingering) = (DashMap::new(), Mutex::default());
        Arc::new(Self { channels, ports, limits, budget, lingering, metrics })
    }

    /// The channels known at this moment, those that linger included.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The channel, kept from being let go until [`Registry::entered`] or [`Registry::abandon`].
    pub(super) fn enter(
        &self,
        name: &ChannelName,
        history: HistoryRules,
    ) -> Result<Arc<Channel>, SubscribeError> {
        if let Some(channel) = self.channels.get(name) {
            channel.state().attaching += 1;
            return Ok(Arc::clone(&channel));
        }
        if self.channels.len() >= self.limits.channels {
            return Err(SubscribeError::TooManyChannels);
        }
        // The entry is held until the channel is marked: nobody can let it go in between.
        let entry = self
            .channels
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Channel::new(name.clone(), history)));
        entry.state().attaching += 1;
        Ok(Arc::clone(&entry))
    }

    /// A shard hears the channel from now on; `announce` is called with the position, in the sequence's order.
    pub(super) fn entered(&self, channel: &Channel, shard: ShardId, announce: impl FnOnce(StreamPosition)) {
        let mut state = channel.state();
        state.attaching -= 1;
        state.attach(shard);
        announce(state.position());
    }

    /// An attach came to nothing.
    pub(super) fn abandon(&self, channel: &Arc<Channel>) {
        let mut state = channel.state();
        state.attaching -= 1;
        self.linger(channel, state);
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
            return announce(Recovery { top, publications: Vec::new(), recovered: false });
        };
        let mut state = channel.state();
        state.ring().forget_old(Instant::now(), &channel.history, &self.budget);
        let most = self.limits.recovery_publications;
        match state.recover(&channel, request.since.as_ref(), request.last, most) {
            Ok(recovery) => announce(recovery),
            Err((why, recovery)) => {
                self.count_gaps(why.into(), 1);
                announce(recovery);
            }
        }
    }

    /// A page of a channel's history, with the position of its top. `None` when the channel is not known here.
    pub(super) fn history(&self, name: &ChannelName, page: &Page) -> Option<HistoryAnswer> {
        let channel = self.channels.get(name).map(|channel| Arc::clone(&channel))?;
        let mut state = channel.state();
        state.ring().forget_old(Instant::now(), &channel.history, &self.budget);
        let top = state.position();
        if page.since.as_ref().is_some_and(|since| !since.fits(top.epoch)) {
            return Some(Err(Unrecoverable::Epoch));
        }
        let since = page.since.as_ref().map(|since| since.offset);
        let publications = state.ring().page(name, since, page.limit, page.reverse);
        Some(Ok(History { top, publications }))
    }

    /// Forgets a channel's publications; its sequence goes on.
    pub(super) fn forget(&self, name: &ChannelName) {
        if let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) {
            channel.state().ring().clear(&self.budget);
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

    /// A shard no longer hears the channel.
    pub(super) fn detach(&self, name: &ChannelName, shard: ShardId) {
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else { return };
        let mut state = channel.state();
        state.detach(shard);
        self.linger(&channel, state);
    }

    fn linger(&self, channel: &Arc<Channel>, mut state: MutexGuard<'_, State>) {
        if !state.is_idle() {
            return;
        }
        let now = Instant::now();
        state.idle_since = Some(now);
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = now + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    /// Lets go the channels whose time is over, each with a call to `let_go` before anybody can enter it again; and
    /// says when to ask the next time.
    pub(super) fn expire(&self, now: Instant, let_go: impl Fn(&ChannelName)) -> Instant {
        loop {
            let channel = {
                let mut queue = self.queue();
                match queue.peek() {
                    Some(first) if first.due <= now => queue.pop().map(|first| first.channel),
                    Some(first) => return first.due.min(now + LOOK),
                    None => return now + LOOK,
                }
            };
            if let Some(channel) = channel {
                self.expire_one(&channel, now, &let_go);
            }
        }
    }

    fn expire_one(&self, channel: &Arc<Channel>, now: Instant, let_go: impl Fn(&ChannelName)) {
        // The map's entry is held while the channel is judged, so that nobody can enter it meanwhile.
        let removed = self.channels.remove_if(&channel.name, |name, present| {
            let over = Arc::ptr_eq(present, channel) && {
                let state = channel.state();
                state.is_idle()
                    && state.idle_since.is_some_and(|since| since + channel.worth(self.limits.linger) <= now)
            };
            if over {
                let_go(name);
            }
            over
        });
        if removed.is_some() {
            channel.state().ring().clear(&self.budget);
        } else {
            channel.state().lingering = false;
            self.relinger(channel);
        }
    }

    fn relinger(&self, channel: &Arc<Channel>) {
        let mut state = channel.state();
        let Some(since) = state.idle_since.filter(|_| state.is_idle()) else { return };
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = since + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    fn queue(&self) -> MutexGuard<'_, BinaryHeap<Lingering>> {
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, message: Message, batches: &mut [Vec<Arc<Publication>>]) {
        let Some(channel) = self.channels.get(message.channel.as_str()) else {
            self.metrics.control.messages_unwanted.add(1);
            return;
        };
        if message.data.len() > self.limits.publication_bytes {
            let channel = Arc::clone(&channel);
            self.flush(batches);
            return self.tell_gap(&[channel], GapCause::TooLarge);
        }
        let stamped = channel.stamp(Payload::new(message.data), &self.budget);
        let Some((shards, publication)) = stamped else { return };
        for shard in shards_of(shards) {
            batches[shard].push(Arc::clone(&publication));
        }
    }

    fn flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        for (port, batch) in self.ports.iter().zip(batches) {
            if !batch.is_empty()
                && let Err(full) = port.publications(std::mem::take(batch))
            {
                self.count_gaps(GapCause::HandoverFull, full.channels);
            }
        }
    }

    fn tell_gap(&self, channels: &[Arc<Channel>], cause: GapCause) {
        let mut gaps: Vec<Vec<Gap>> = vec![Vec::new(); self.ports.len()];
        for channel in channels {
            let (position, shards) = {
                let mut state = channel.state();
                let position = match cause {
                    GapCause::TooLarge => state.skip(&self.budget),
                    _ => state.break_sequence(&self.budget),
                };
                (position, state.shards())
            };
            for shard in shards_of(shards) {
                gaps[shard].push(Gap { channel: channel.name.clone(), cause, position });
            }
        }
        self.count_gaps(cause, channels.len());
        for (port, gaps) in self.ports.iter().zip(gaps) {
            if !gaps.is_empty() {
                port.gaps(gaps);
            }
        }
    }

    fn count_gaps(&self, cause: GapCause, channels: usize) {
        if let Some(place) = GAP_CAUSES.iter().position(|name| *name == cause.as_str()) {
            self.metrics.control.gaps[place].add(channels as u64);
        }
    }

    fn lost_channels(&self, topics: &LostTopics) -> Vec<Arc<Channel>> {
        match topics {
            LostTopics::All => self.channels.iter().map(|entry| Arc::clone(entry.value())).collect(),
            LostTopics::Some(topics) => {
                if topics.iter().any(|topic| matches!(topic, Topic::Pattern(_))) {
                    return self.lost_channels(&LostTopics::All);
                }
                let find = |topic: &Topic| match topic {
                    Topic::Channel(name) => self.channels.get(name).map(|entry| Arc::clone(&entry)),
                    Topic::Pattern(_) => None,
                };
                topics.iter().filter_map(find).collect()
            }
        }
    }
}

impl Listener for Registry {
    fn heard(&self, messages: &mut Vec<Message>) {
        self.metrics.control.messages.add(messages.len() as u64);
        let mut batches: Vec<Vec<Arc<Publication>>> = vec![Vec::new(); self.ports.len()];
        for message in messages.drain(..) {
            self.stamp(message, &mut batches);
        }
        self.flush(&mut batches);
    }

    fn lost(&self, loss: Loss) {
        self.tell_gap(&self.lost_channels(&loss.topics), loss.cause);
    }
}

impl From<Unrecoverable> for GapCause {
    fn from(why: Unrecoverable) -> Self {
        match why {
            Unrecoverable::Epoch => Self::UnknownPosition,
            Unrecoverable::TooShort => Self::RingTooShort,
        }
    }
}

impl PartialEq for Lingering {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Lingering {}

impl PartialOrd for Lingering {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lingering {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}
