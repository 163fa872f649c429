//! The channels of one broker: stamps what is heard and hands it to the shards that want it.
//!
//! Owns the map from names to channels and the time a channel lingers after its last listener left. It is the
//! broker's [`Listener`]. Must never wait: a shard that is behind gets a gap, not the node's time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use earshot_protocol::{ChannelName, Payload, StreamPosition};
use tokio::time::Instant;

use super::SubscribeError;
use super::channel::{Channel, ShardId, shards_of};
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
}

/// The channels of one broker.
#[derive(Debug)]
pub struct Registry {
    channels: DashMap<ChannelName, Arc<Channel>>,
    ports: Arc<[Port]>,
    limits: ChannelLimits,
    lingering: Mutex<VecDeque<(Instant, Arc<Channel>)>>,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// An empty registry in front of these shards.
    pub fn new(ports: Arc<[Port]>, limits: ChannelLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let (channels, lingering) = (DashMap::new(), Mutex::default());
        Arc::new(Self { channels, ports, limits, lingering, metrics })
    }

    /// The channels known at this moment, those that linger included.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The channel, kept from being let go until [`Registry::entered`] or [`Registry::abandon`].
    pub(super) fn enter(&self, name: &ChannelName) -> Result<Arc<Channel>, SubscribeError> {
        if let Some(channel) = self.channels.get(name) {
            channel.state().attaching += 1;
            return Ok(Arc::clone(&channel));
        }
        if self.channels.len() >= self.limits.channels {
            return Err(SubscribeError::TooManyChannels);
        }
        // The entry is held until the channel is marked: nobody can let it go in between.
        let entry = self.channels.entry(name.clone()).or_insert_with(|| Arc::new(Channel::new(name.clone())));
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
        channel.state().attaching -= 1;
        self.linger(channel);
    }

    /// A shard no longer hears the channel.
    pub(super) fn detach(&self, name: &ChannelName, shard: ShardId) {
        let Some(channel) = self.channels.get(name).map(|channel| Arc::clone(&channel)) else { return };
        channel.state().detach(shard);
        self.linger(&channel);
    }

    fn linger(&self, channel: &Arc<Channel>) {
        let mut state = channel.state();
        if !state.is_idle() {
            return;
        }
        let now = Instant::now();
        state.idle_since = Some(now);
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            self.queue().push_back((now + self.limits.linger, Arc::clone(channel)));
        }
    }

    /// Lets go the channels whose time is over, each with a call to `let_go` before anybody can enter it again; and
    /// says when to ask the next time.
    pub(super) fn expire(&self, now: Instant, let_go: impl Fn(&ChannelName)) -> Instant {
        loop {
            let channel = {
                let mut queue = self.queue();
                match queue.front() {
                    Some((due, _)) if *due <= now => queue.pop_front().map(|(_, channel)| channel),
                    Some((due, _)) => return *due,
                    None => return now + self.limits.linger.max(Duration::from_millis(10)),
                }
            };
            if let Some(channel) = channel {
                self.expire_one(&channel, now, &let_go);
            }
        }
    }

    fn expire_one(&self, channel: &Arc<Channel>, now: Instant, let_go: impl Fn(&ChannelName)) {
        // The map's entry is held while the channel is judged, so that nobody can enter it meanwhile.
        let removed = self.channels.remove_if(&channel.name, |name, _| {
            let over = {
                let state = channel.state();
                state.is_idle() && state.idle_since.is_some_and(|since| since + self.limits.linger <= now)
            };
            if over {
                let_go(name);
            }
            over
        });
        if removed.is_none() {
            channel.state().lingering = false;
            self.relinger(channel);
        }
    }

    fn relinger(&self, channel: &Arc<Channel>) {
        let mut state = channel.state();
        let Some(since) = state.idle_since.filter(|_| state.is_idle()) else { return };
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            self.queue().push_back((since + self.limits.linger, Arc::clone(channel)));
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<Channel>)>> {
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
        let Some((shards, publication)) = channel.stamp(Payload::new(message.data)) else { return };
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
                (state.break_sequence(), state.shards())
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
