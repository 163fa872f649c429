//! The node: connects brokers and shards.
//!
//! Owns the channels that this node is subscribed to: their sequences and the shards attached to each. The first shard
//! that attaches to a channel subscribes at the broker. After the last shard detaches, the node unsubscribes with a
//! delay. Must never know a connection, or the implementation of a broker.
//!
//! - [`messages`]: what a shard requests, what the node answers, and what the node sends.
//! - [`shard_queue`]: the bounded queue to a shard; [`requests`]: the bounded queue of its requests.
//! - [`registry`]: the channels of one broker; [`channel`]: one of them; [`history`]: its newest publications.
//! - `ingest`: messages of the broker enter here.
//! - `log_follower`, `catch_up`: channels whose sequence is a log in Redis.
//! - `idle_channels`: the delayed unsubscribe; `creators`: the client addresses that created channels.
//! - [`namespace`]: the rules of a channel, by its name; [`backpressure_policy`]: what is dropped for slow clients.
//! - `publishing`: publications of clients and of the API; `idempotency`: their results by idempotency key.
//! - [`publication`]: one message with its position, encoded once.

pub mod backpressure_policy;
mod catch_up;
pub mod channel;
pub(crate) mod creators;
mod error_code;
pub mod history;
pub mod idempotency;
mod idle_channels;
mod ingest;
mod log_follower;
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

/// Interval between two removals of expired publications.
const HISTORY_EXPIRY_INTERVAL: Duration = Duration::from_secs(5);

/// Entries of a log in one read.
const LOG_PAGE_ENTRIES: usize = 1000;

/// Logs that are read concurrently after a gap.
const CATCH_UPS_MAX: usize = 64;

/// Interval between a failed read of a log and the next attempt.
const CATCH_UP_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// A broker with its name and its channels.
#[derive(Debug)]
pub struct BrokerBinding {
    /// The name of the Redis instance, or `memory`.
    pub name: String,
    /// The channels; receives the messages of the broker.
    pub registry: Arc<ChannelRegistry>,
    /// The broker.
    pub broker: Broker,
    /// Whether the node is not ready while a link of this broker is down.
    pub affects_readiness: bool,
}

/// Connects brokers and shards.
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
    /// Creates a node. The namespaces refer to the brokers by their index in `bindings`.
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

    /// Starts the background tasks: expiry and delayed unsubscribe, and reading logs after gaps.
    pub fn start(self: &Arc<Self>) {
        for index in 0..self.bindings.len() {
            let (node, stop) = (Arc::clone(self), self.drain.clone());
            self.drain.spawn(async move {
                tokio::select! {
                    () = node.run_expiry(index) => {}
                    () = node.run_catch_up(index) => {}
                    () = stop.stopped() => {}
                }
            });
        }
    }

    async fn run_expiry(&self, index: usize) {
        let binding = &self.bindings[index];
        let mut forget_next = Instant::now();
        loop {
            if forget_next <= Instant::now() {
                binding.registry.expire_history(Instant::now());
                self.idempotency.expire(Instant::now());
                forget_next = Instant::now() + HISTORY_EXPIRY_INTERVAL;
            }
            binding.registry.enforce_history_budget(Instant::now());
            let next = binding.registry.unsubscribe_idle(Instant::now(), self.unsubscriber(binding));
            // A sleep until a time in the past does not yield.
            tokio::task::yield_now().await;
            tokio::time::sleep_until(next).await;
        }
    }

    /// Returns the function that unsubscribes a channel at its broker. A channel of a broker-side pattern has no
    /// subscription of its own.
    fn unsubscriber<'a>(&'a self, binding: &'a BrokerBinding) -> impl Fn(&ChannelName) + 'a {
        |channel| match self.topic(channel) {
            Some(topic @ (Topic::Channel(_) | Topic::Sharded(_))) => binding.broker.unsubscribe(&topic),
            Some(Topic::Pattern(_)) | None => {}
        }
    }

    /// The rules of a channel; `None` when no namespace matches it.
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

    /// Attaches a shard to a channel. The answer goes through the shard's queue, in order with the publications.
    async fn attach(&self, shard: ShardId, name: ChannelName, from: Option<IpAddr>) {
        let shard_queue = &self.shard_senders[shard];
        if let Err(error) = self.try_attach(shard, shard_queue, &name, from).await {
            // Fails only if the shard has ended, and then the answer is not needed.
            let _ = shard_queue.send(NodeEvent::AttachFailed(name, error)).await;
        }
    }

    /// Rejects an attach because too many requests wait for the broker.
    async fn reject_attach(&self, shard: ShardId, name: ChannelName) {
        let busy = SubscribeError::Broker(BrokerError::Busy);
        // Fails only if the shard has ended, and then the answer is not needed.
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
            binding.registry.acquire(name, rules, from, self.unsubscriber(binding))?
        };
        if let Err(error) = subscribe_and_open_log(
            binding,
            &topic(name, namespace, pattern),
            &channel,
            namespace.when_unavailable,
        )
        .await
        {
            binding.registry.abort_attach(&channel, self.unsubscriber(binding));
            return Err(error.into());
        }
        match shard_queue.reserve().await {
            Some(permit) => binding.registry.commit_attach(&channel, shard, |position| {
                shard_queue.discard_overflow(name);
                permit.send(NodeEvent::Attached(name.clone(), position));
            }),
            None => binding.registry.abort_attach(&channel, self.unsubscriber(binding)),
        }
        Ok(())
    }

    /// Answers what a connection has missed. The answer goes through the shard's queue: the publications after it
    /// follow the top of the recovery.
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
        if !read && known.is_some_and(|known| binding.registry.is_client_ahead(&known, since)) {
            // The client has seen more of the log than this node. Continuing from here would repeat a part of it, so
            // the client must retry.
            let error = SubscribeError::NodeBehind;
            // Fails only if the shard has ended, and then the answer is not needed.
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

    /// Reads the log of a channel into its history, once for all clients that recover. Returns `false` when the log
    /// could not be read.
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
            // A position before the first publication cannot be judged without the origin; the client then gets a gap.
            channel.state().set_origin(&page);
        }
        let client_ahead = binding.registry.is_client_ahead(&channel, since);
        if !client_ahead && !binding.registry.needs_backfill(&channel, since, last) {
            return true;
        }
        let asked = Instant::now();
        let mut failed = channel.backfill.lock().await;
        if failed.is_some_and(|at| at >= asked) {
            // The attempt before this one has failed; the waiters share its result.
            return false;
        }
        // Another node has delivered a publication that this node has not received.
        if client_ahead && binding.registry.is_client_ahead(&channel, since) {
            // Reads the top first: a false claim of a client must not suspend the channel.
            match binding.broker.read_log(&log, name, u64::MAX, 0).await {
                Ok(page) if binding.registry.log_is_ahead(&channel, page.top) => {
                    if !channel.state().mark_behind() {
                        // A catch-up is under way, and until then the position of the channel is unknown.
                        return false;
                    }
                    if let Some(channel) = catch_up_one(binding, Arc::clone(&channel)).await {
                        *failed = Some(Instant::now());
                        binding.registry.requeue_catch_up(channel);
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
        if !binding.registry.needs_backfill(&channel, since, last) {
            return true;
        }
        let mut wanted = channel.history.size;
        let mut before = channel.state().oldest();
        while wanted > 0 {
            let page =
                match binding.broker.read_log_back(&log, name, before, wanted.min(LOG_PAGE_ENTRIES)).await {
                    Ok(page) => page,
                    // This recovery fails; the next one tries again.
                    Err(error) => {
                        *failed = Some(Instant::now());
                        tracing::debug!(%error, "reading the log for a recovery failed");
                        return false;
                    }
                };
            wanted -= page.entries.len().min(wanted);
            before = page.entries.last().map(|entry| entry.offset);
            if before.is_none() || !binding.registry.prepend_page(&channel, page) {
                break;
            }
        }
        binding.registry.finish_backfill(&channel);
        true
    }

    /// Reads the logs of channels that may have missed publications, several at a time.
    async fn run_catch_up(&self, index: usize) {
        let binding = &self.bindings[index];
        let (mut reading, mut waiting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            let room = CATCH_UPS_MAX - reading.len();
            tokio::select! {
                channels = binding.registry.dequeue_catch_ups(room), if room > 0 => {
                    reading.extend(channels.into_iter().map(|channel| catch_up_one(binding, channel)));
                }
                Some(failed) = reading.next() => {
                    // A log that cannot be read does not occupy a slot while it waits for the retry.
                    waiting.extend(failed.map(|channel| async {
                        tokio::time::sleep(CATCH_UP_RETRY_INTERVAL).await;
                        channel
                    }));
                }
                Some(channel) = waiting.next() => binding.registry.requeue_catch_up(channel),
            }
        }
    }

    /// A page of a channel's history; `None` when the channel is not known on this node.
    pub async fn history(&self, channel: &ChannelName, page: &HistoryQuery) -> Option<HistoryResponse> {
        let namespace = self.namespace(channel)?;
        let binding = &self.bindings[namespace.broker(channel)];
        if let (Some(log), None) = (&namespace.log, binding.registry.find(channel)) {
            return self.read_log_history(binding, log, channel, page).await;
        }
        let everything = RecoverFrom { epoch: RecoveryEpoch::Any, offset: 0 };
        self.backfill(binding, channel, Some(&everything), true).await;
        binding.registry.history(channel, page)
    }

    /// A page of the log of a channel that this node is not subscribed to.
    async fn read_log_history(
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

    /// Removes the history of a channel, on this node and in its log.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn clear_history(&self, channel: &ChannelName) -> Result<(), PublishError> {
        let namespace = self.namespace(channel).ok_or(PublishError::UnknownChannel)?;
        let binding = &self.bindings[namespace.broker(channel)];
        if let Some(log) = &namespace.log {
            binding.broker.clear_log(log, channel).await?;
        }
        binding.registry.clear_history(channel);
        Ok(())
    }

    /// Bytes in the histories of this node.
    pub fn history_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Detaches a shard that has no subscriber left for a channel.
    fn detach(&self, shard: ShardId, name: &ChannelName, shared: bool) {
        if let Some(namespace) = self.namespace(name) {
            let binding = &self.bindings[namespace.broker(name)];
            binding.registry.detach(name, shard, shared, self.unsubscriber(binding));
        }
    }

    /// The number of subscribers of each channel on this node, requested from every shard.
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

    /// The number of channels on this node, including idle ones.
    pub fn channels(&self) -> usize {
        self.bindings.iter().map(|binding| binding.registry.channels()).sum()
    }

    /// The status of every link, with its broker.
    pub fn links(&self) -> Vec<(&BrokerBinding, LinkStatus)> {
        self.bindings
            .iter()
            .flat_map(|binding| binding.broker.links().into_iter().map(move |link| (binding, link)))
            .collect()
    }

    /// Whether every link is up.
    pub fn all_links_up(&self) -> bool {
        self.links().iter().all(|(_, link)| link.up)
    }

    /// Whether any broker connects to another process.
    pub fn has_remote_broker(&self) -> bool {
        self.bindings.iter().any(|binding| matches!(binding.broker, Broker::Redis(_)))
    }
}

/// Subscribes to a topic, and opens the log of the channel if it has one.
async fn subscribe_and_open_log(
    binding: &BrokerBinding,
    topic: &Topic,
    channel: &Arc<Channel>,
    when_unavailable: WhenUnavailable,
) -> Result<(), BrokerError> {
    binding.broker.subscribe(topic, when_unavailable).await?;
    if let Some(log) = &channel.log
        && channel.state().follower().is_some_and(|follower| follower.is_unopened())
    {
        let page = binding.broker.open_log(log, &channel.name).await?;
        binding.registry.open_log_at(channel, &page);
    }
    Ok(())
}

/// Reads a channel's log until the channel is in sync. Returns the channel when the log cannot be read.
async fn catch_up_one(binding: &BrokerBinding, channel: Arc<Channel>) -> Option<Arc<Channel>> {
    let log = channel.log.clone()?;
    loop {
        let from = channel.state().position();
        match binding.broker.follow_log(&log, &channel.name, from, LOG_PAGE_ENTRIES).await {
            Ok(page) => {
                if !binding.registry.on_page(&channel, from, page) {
                    return None;
                }
            }
            Err(_) if channel.state().is_closed() => return None,
            Err(error) => {
                tracing::debug!(%error, "reading the log after a gap failed; retrying");
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
