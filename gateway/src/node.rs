//! The node: joins brokers to shards.
//!
//! Owns the channels that somebody on this node hears: their sequence, the shards that want them, and the wish that
//! the broker hear them. The first shard that attaches subscribes at the broker; after the last one left, the wish
//! lingers for a while. Must never know a connection, nor what a broker is made of.
//!
//! - [`messages`]: what a shard requests, what the node answers, and what the node sends.
//! - [`shard_queue`]: the bounded queue to a shard; [`requests`]: the bounded queue of its requests.
//! - [`channel`]: one channel: its sequence and its shards. [`history`]: its newest publications.
//! - [`registry`]: the channels of one broker. `hearing`: messages of the broker enter here. `lingering`: the delayed
//!   unsubscribe. `creator`: the client addresses that created channels.
//! - `log`, `filling`: channels whose sequence is a log in Redis.
//! - [`namespace`]: the rules of a channel, by its name. [`backpressure_policy`]: what is dropped for slow clients.
//! - `idempotency`: results of publications by idempotency key, for channels without a log.
//! - `publishing`: publications of clients and of the API.
//! - [`publication`]: one message with its position, encoded once.

pub mod backpressure_policy;
pub mod channel;
pub(crate) mod creator;
mod filling;
mod hearing;
pub mod history;
pub mod idempotency;
mod lingering;
mod log;
pub mod messages;
pub mod namespace;
pub mod publication;
mod publishing;
pub mod registry;
pub mod requests;
pub mod shard_queue;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::log::{LogConfig, LogEntry, LogPage};
use crate::broker::{Broker, BrokerError, LinkStatus, Topic, WhenUnavailable};
use crate::drain::Drain;
use crate::metrics::Metrics;
use channel::{Channel, ShardId};
use history::HistoryBudget;
use idempotency::Idempotency;
use messages::{
    HistoryError, HistoryPage, HistoryQuery, HistoryResponse, NodeEvent, PublishError, RecoverFrom,
    RecoveryEpoch, RecoveryRequest, RequestId, SubscribeError,
};
use namespace::{ChannelPattern, Namespace, Namespaces};
use publication::Publication;
use registry::ChannelRegistry;
use shard_queue::ShardSender;

/// The time between two looks for publications that are too old to be remembered.
const FORGET: Duration = Duration::from_secs(5);

/// Entries of a log that are read at once.
const FILL_PAGE: usize = 1000;

/// Logs that are read at the same time after a deaf spell.
const FILLS_AT_ONCE: usize = 64;

/// The wait before a log is read again that could not be read.
const FILL_RETRY: Duration = Duration::from_millis(250);

/// A broker with its name and its channels.
#[derive(Debug)]
pub struct BrokerBinding {
    /// The name of the Redis instance, or `memory`.
    pub name: String,
    /// What it hears is stamped and handed on here.
    pub registry: Arc<ChannelRegistry>,
    /// The broker.
    pub broker: Broker,
    /// Whether the node is ready only while this broker is heard.
    pub affects_readiness: bool,
}

/// Joins brokers to shards.
#[derive(Debug)]
pub struct Node {
    namespaces: Namespaces,
    bindings: Vec<BrokerBinding>,
    shard_senders: Arc<[ShardSender]>,
    budget: Arc<HistoryBudget>,
    publication_bytes: usize,
    idempotency: Idempotency,
    drain: Drain,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Joins these brokers, which the namespaces name by their place, to these shards.
    pub fn new(
        namespaces: Namespaces,
        bindings: Vec<BrokerBinding>,
        shard_senders: Arc<[ShardSender]>,
        budget: Arc<HistoryBudget>,
        publication_bytes: usize,
        drain: Drain,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let idempotency = Idempotency::default();
        Arc::new(Self {
            namespaces,
            bindings,
            shard_senders,
            budget,
            publication_bytes,
            idempotency,
            drain,
            metrics,
        })
    }

    /// Starts what the node does by itself: letting go the channels that nobody wants any more.
    pub fn start(self: &Arc<Self>) {
        for place in 0..self.bindings.len() {
            let (node, stop) = (Arc::clone(self), self.drain.clone());
            self.drain.spawn(async move {
                tokio::select! {
                    () = node.let_go(place) => {}
                    () = node.fill(place) => {}
                    () = stop.stopped() => {}
                }
            });
        }
    }

    async fn let_go(&self, place: usize) {
        let binding = &self.bindings[place];
        let mut forget_next = Instant::now();
        loop {
            if forget_next <= Instant::now() {
                binding.registry.forget_old(Instant::now());
                self.idempotency.expire(Instant::now());
                forget_next = Instant::now() + FORGET;
            }
            binding.registry.relieve(Instant::now());
            let next = binding.registry.expire(Instant::now(), self.release(binding));
            // A sleep whose time has come does not yield.
            tokio::task::yield_now().await;
            tokio::time::sleep_until(next).await;
        }
    }

    /// How a channel is given up at a broker. What a pattern brings is not subscribed to by itself.
    fn release<'a>(&'a self, binding: &'a BrokerBinding) -> impl Fn(&ChannelName) + 'a {
        |channel| match self.topic(channel) {
            Some(topic @ (Topic::Channel(_) | Topic::Sharded(_))) => binding.broker.unsubscribe(&topic),
            Some(Topic::Pattern(_)) | None => {}
        }
    }

    /// The rules for a channel, if a namespace has it.
    pub fn namespace(&self, channel: &ChannelName) -> Option<&Namespace> {
        self.namespaces.resolve(channel).map(|(namespace, _)| namespace)
    }

    /// The largest payload of a publication (`limits.publication_bytes`).
    pub fn publication_bytes(&self) -> usize {
        self.publication_bytes
    }

    fn topic(&self, channel: &ChannelName) -> Option<Topic> {
        self.namespaces.resolve(channel).map(|(namespace, pattern)| topic(channel, namespace, pattern))
    }

    /// A shard wants to hear a channel. The answer goes through the shard's shard_queue, in the order of the publications.
    async fn attach(&self, shard: ShardId, name: ChannelName, from: Option<IpAddr>) {
        let shard_queue = &self.shard_senders[shard];
        if let Err(error) = self.try_attach(shard, shard_queue, &name, from).await {
            // The shard has ended when this fails: nobody is left to be told.
            let _ = shard_queue.send(NodeEvent::AttachFailed(name, error)).await;
        }
    }

    /// The channel cannot be heard now: too much waits for its broker.
    async fn reject_attach(&self, shard: ShardId, name: ChannelName) {
        let busy = SubscribeError::Broker(BrokerError::Busy);
        // The shard has ended when this fails: nobody is left to be told.
        let _ = self.shard_senders[shard].send(NodeEvent::AttachFailed(name, busy)).await;
    }

    async fn try_attach(
        &self,
        shard: ShardId,
        shard_queue: &ShardSender,
        name: &ChannelName,
        from: Option<IpAddr>,
    ) -> Result<(), SubscribeError> {
        let (namespace, pattern) = self.namespaces.resolve(name).ok_or(SubscribeError::UnknownChannel)?;
        let binding = &self.bindings[namespace.broker(name)];
        let channel = {
            let rules = (namespace.history, namespace.log.as_ref());
            binding.registry.enter(name, rules, from, self.release(binding))?
        };
        if let Err(error) =
            hear(binding, &topic(name, namespace, pattern), &channel, namespace.when_unavailable).await
        {
            binding.registry.abandon(&channel, self.release(binding));
            return Err(error.into());
        }
        match shard_queue.reserve().await {
            Some(permit) => binding.registry.entered(&channel, shard, |position| {
                shard_queue.discard_overflow(name);
                permit.send(NodeEvent::Attached(name.clone(), position));
            }),
            None => binding.registry.abandon(&channel, self.release(binding)),
        }
        Ok(())
    }

    /// A connection comes back to a channel that its shard hears. The answer goes through the shard_queue, in the order of the
    /// publications: what comes after it comes after the recovery's top.
    async fn recover(
        &self,
        shard: ShardId,
        channel: ChannelName,
        request: RecoveryRequest,
        request_id: RequestId,
    ) {
        let Some(namespace) = self.namespace(&channel) else { return };
        let binding = &self.bindings[namespace.broker(&channel)];
        let since = request.since.as_ref();
        let read =
            request.is_continuation || self.backfill(binding, &channel, since, request.replay_last).await;
        let known = binding.registry.find(&channel);
        if !read && known.is_some_and(|known| binding.registry.is_behind(&known, since)) {
            // This node cannot see what another has handed out. To go on from here would give the client part of it
            // twice: it is asked to come again.
            let error = SubscribeError::NodeBehind;
            // A shard that has ended needs no answer.
            let _ =
                self.shard_senders[shard].send(NodeEvent::RecoverFailed(request_id, channel, error)).await;
            return;
        }
        if let Some(permit) = self.shard_senders[shard].reserve().await {
            binding.registry.recover(&channel, &request, |recovery| {
                permit.send(NodeEvent::Recovered(request_id, channel.clone(), recovery));
            });
        }
    }

    /// Reads the log of a channel for all who come back to it, once. `false` when it could not be read.
    async fn backfill(
        &self,
        binding: &BrokerBinding,
        name: &ChannelName,
        since: Option<&RecoverFrom>,
        last: bool,
    ) -> bool {
        let Some(channel) = binding.registry.find(name) else { return true };
        let Some(log) = channel.log.clone() else { return true };
        if binding.registry.needs_origin(&channel, since)
            && let Ok(page) = binding.broker.read_log(&log, name, u64::MAX, 0).await
        {
            // Whoever stood before the first publication cannot be judged without it, and then is told of a gap.
            channel.state().note_origin(&page);
        }
        let behind = binding.registry.is_behind(&channel, since);
        if !behind && !binding.registry.wants_backfill(&channel, since, last) {
            return true;
        }
        let asked = Instant::now();
        let mut failed = channel.backfill.lock().await;
        if failed.is_some_and(|at| at >= asked) {
            // Whoever was before us has failed for us, too.
            return false;
        }
        // Another node has handed out what this one has not heard: it missed something.
        if behind && binding.registry.is_behind(&channel, since) {
            // A look at the log first: what a client claims must not hold up the channel.
            match binding.broker.read_log(&log, name, u64::MAX, 0).await {
                Ok(page) if binding.registry.lags(&channel, page.top) => {
                    if !channel.state().lose_log() {
                        // It is being read already, and until then nobody can be told where the channel stands.
                        return false;
                    }
                    if let Some(channel) = fill_one(binding, Arc::clone(&channel)).await {
                        *failed = Some(Instant::now());
                        binding.registry.fill_again(channel);
                        return false;
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    *failed = Some(Instant::now());
                    return false;
                }
            }
        }
        if !binding.registry.wants_backfill(&channel, since, last) {
            return true;
        }
        let mut wanted = channel.history.size;
        let mut before = channel.state().oldest();
        while wanted > 0 {
            let page = match binding.broker.read_log_back(&log, name, before, wanted.min(FILL_PAGE)).await {
                Ok(page) => page,
                // Whoever asks now is told that it cannot be recovered; the next one asks again.
                Err(error) => {
                    *failed = Some(Instant::now());
                    tracing::debug!(%error, "a log could not be read for a recovery");
                    return false;
                }
            };
            wanted -= page.entries.len().min(wanted);
            before = page.entries.last().map(|entry| entry.offset);
            if before.is_none() || !binding.registry.backfill(&channel, page) {
                break;
            }
        }
        binding.registry.backfilled(&channel);
        true
    }

    /// Reads the logs of channels that may have missed something, several at a time.
    async fn fill(&self, place: usize) {
        let binding = &self.bindings[place];
        let (mut reading, mut waiting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            let room = FILLS_AT_ONCE - reading.len();
            tokio::select! {
                channels = binding.registry.to_fill(room), if room > 0 => {
                    reading.extend(channels.into_iter().map(|channel| fill_one(binding, channel)));
                }
                Some(failed) = reading.next() => {
                    // A log that cannot be read takes nobody's place while it waits.
                    waiting.extend(failed.map(|channel| async {
                        tokio::time::sleep(FILL_RETRY).await;
                        channel
                    }));
                }
                Some(channel) = waiting.next() => binding.registry.fill_again(channel),
            }
        }
    }

    /// A part of what a channel remembers; `None` when the channel is not known on this node.
    pub async fn history(&self, channel: &ChannelName, page: &HistoryQuery) -> Option<HistoryResponse> {
        let namespace = self.namespace(channel)?;
        let binding = &self.bindings[namespace.broker(channel)];
        if let (Some(log), None) = (&namespace.log, binding.registry.find(channel)) {
            return self.logged(binding, log, channel, page).await;
        }
        let everything = RecoverFrom { epoch: RecoveryEpoch::Any, offset: 0 };
        self.backfill(binding, channel, Some(&everything), true).await;
        binding.registry.history(channel, page)
    }

    /// A part of a log that nobody on this node hears.
    async fn logged(
        &self,
        binding: &BrokerBinding,
        log: &LogConfig,
        name: &ChannelName,
        page: &HistoryQuery,
    ) -> Option<HistoryResponse> {
        let since = page.since.as_ref().map(|since| since.offset);
        let read = if page.reverse {
            binding.broker.read_log_back(log, name, since, page.limit).await
        } else {
            binding.broker.read_log(log, name, since.unwrap_or(0), page.limit).await
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return Some(Err(HistoryError::Broker(error))),
        };
        if page.since.as_ref().is_some_and(|since| !since.matches_log(&read)) {
            return Some(Err(HistoryError::Unrecoverable));
        }
        let LogPage { top, entries, .. } = read;
        let top = top?;
        let publication = |entry: LogEntry| {
            let position = StreamPosition { offset: entry.offset, ..top };
            let publication = Publication::new(name.clone(), position, Payload::new(entry.payload));
            Arc::new(publication.with_attributes(entry.attributes))
        };
        Some(Ok(HistoryPage { top, publications: entries.into_iter().map(publication).collect() }))
    }

    /// Forgets what a channel remembers, here and in its log.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn clear_history(&self, channel: &ChannelName) -> Result<(), PublishError> {
        let namespace = self.namespace(channel).ok_or(PublishError::UnknownChannel)?;
        let binding = &self.bindings[namespace.broker(channel)];
        if let Some(log) = &namespace.log {
            binding.broker.clear_log(log, channel).await?;
        }
        binding.registry.forget(channel);
        Ok(())
    }

    /// Bytes that the rings of this node hold.
    pub fn history_bytes(&self) -> usize {
        self.budget.used()
    }

    /// A shard has no subscriber left for a channel.
    fn detach(&self, shard: ShardId, name: &ChannelName, shared: bool) {
        if let Some(namespace) = self.namespace(name) {
            let binding = &self.bindings[namespace.broker(name)];
            binding.registry.detach(name, shard, shared, self.release(binding));
        }
    }

    /// How many subscribers each channel has on this node, asked of every shard.
    pub async fn subscriber_counts(&self) -> HashMap<ChannelName, u32> {
        let mut total = HashMap::new();
        for shard_queue in &*self.shard_senders {
            let (answer, counts) = oneshot::channel();
            if !shard_queue.send(NodeEvent::CountSubscribers(answer)).await {
                continue;
            }
            for (channel, subscribers) in counts.await.unwrap_or_default() {
                *total.entry(channel).or_insert(0) += subscribers;
            }
        }
        total
    }

    /// Channels known on this node, those that linger included.
    pub fn channels(&self) -> usize {
        self.bindings.iter().map(|binding| binding.registry.channels()).sum()
    }

    /// The state of every link, with its broker.
    pub fn links(&self) -> Vec<(&BrokerBinding, LinkStatus)> {
        self.bindings
            .iter()
            .flat_map(|binding| binding.broker.links().into_iter().map(move |link| (binding, link)))
            .collect()
    }

    /// Whether every link hears and speaks.
    pub fn all_links_up(&self) -> bool {
        self.links().iter().all(|(_, link)| link.up)
    }

    /// Whether any channel is carried by something beyond this process.
    pub fn has_remote_broker(&self) -> bool {
        self.bindings.iter().any(|binding| matches!(binding.broker, Broker::Redis(_)))
    }
}

/// Hears a topic, and knows where its log stands.
async fn hear(
    binding: &BrokerBinding,
    topic: &Topic,
    channel: &Arc<Channel>,
    when_unavailable: WhenUnavailable,
) -> Result<(), BrokerError> {
    binding.broker.subscribe(topic, when_unavailable).await?;
    if let Some(log) = &channel.log
        && channel.state().log().is_some_and(|follow| follow.is_unknown())
    {
        let page = binding.broker.open_log(log, &channel.name).await?;
        binding.registry.begin_log(channel, &page);
    }
    Ok(())
}

/// Reads a channel's log until the channel is in step with it; gives the channel back when it cannot be read.
async fn fill_one(binding: &BrokerBinding, channel: Arc<Channel>) -> Option<Arc<Channel>> {
    let log = channel.log.clone()?;
    loop {
        let from = channel.state().position();
        match binding.broker.follow_log(&log, &channel.name, from, FILL_PAGE).await {
            Ok(page) => {
                if !binding.registry.filled(&channel, from, page) {
                    return None;
                }
            }
            Err(_) if channel.state().is_gone() => return None,
            Err(error) => {
                tracing::debug!(%error, "a log could not be read after a deaf spell: trying again");
                return Some(channel);
            }
        }
    }
}

fn topic(channel: &ChannelName, namespace: &Namespace, pattern: &ChannelPattern) -> Topic {
    match &pattern.broker_pattern {
        Some(pattern) => Topic::Pattern(Arc::clone(pattern)),
        None if namespace.sharded => Topic::Sharded(channel.clone()),
        None => Topic::Channel(channel.clone()),
    }
}
