//! The node: connects brokers and shards.
//!
//! Owns the channels that this node is subscribed to: their sequences and the shards attached to each. The first shard
//! that attaches to a channel subscribes at the broker. After the last shard detaches, the node unsubscribes with a
//! delay. Must never know a connection, or the implementation of a broker.
//!
//! - [`messages`]: requests, responses and events between the node and its shards.
//! - [`shard_queue`]: the bounded queue to a shard; [`requests`]: the bounded queue of its requests.
//! - [`registry`]: the channels of one broker; `attachments`: attaching shards to them; [`channel`]: one of them;
//!   [`history`], [`history_rules`]: its newest publications, and their bounds.
//! - `ingest`: messages of the broker enter here; [`shard_set`]: the shards that receive them.
//! - `log_sequence`, `log_follower`, `log_reader`, `catch_up`, `catch_up_queue`: channels whose sequence is a log.
//! - `idle_channels`, `idle_queue`: the delayed unsubscribe; `creators`: the client networks that created channels.
//! - [`namespace`]: the rules of a channel, by its name; [`channel_pattern`]: which channels it has;
//!   [`channel_source`]: where their publications come from;
//!   [`backpressure_policy`]: the policies for slow clients.
//! - `publishing`: publications of clients and of the API; `idempotency`: their results by idempotency key.
//! - [`publication`]: one message with its position; subscribers share its encodings.

mod attachments;
pub mod backpressure_policy;
mod catch_up;
mod catch_up_queue;
pub mod channel;
pub mod channel_pattern;
pub mod channel_source;
mod creators;
mod error_code;
pub mod history;
pub mod history_rules;
pub mod idempotency;
mod idle_channels;
mod idle_queue;
mod ingest;
mod log_follower;
mod log_reader;
mod log_sequence;
pub mod messages;
pub mod namespace;
pub mod permission_report;
pub mod publication;
mod publishing;
pub mod registry;
pub mod requests;
pub mod shard_queue;
pub mod shard_set;

#[cfg(test)]
pub(crate) use ingest::steps::IngestSteps;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::auth::ClientNetwork;
use crate::broker::{Broker, BrokerError, LinkStatus, Topic};
use crate::drain::Drain;
use crate::login::Authenticator;
use crate::metrics::Metrics;
use channel::Channel;
use history::HistoryBudget;
use idempotency::Idempotency;
use log_reader::LogReader;
use messages::{
    HistoryQuery, HistoryResponse, NodeEvent, RecoverFrom, RecoveryEpoch, RecoveryRequest, RequestId,
    SubscribeError,
};
use namespace::{Namespaces, ResolvedChannel};
use registry::ChannelRegistry;
use shard_queue::ShardSender;
use shard_set::ShardId;

/// Interval between two removals of expired publications.
const HISTORY_EXPIRY_INTERVAL: Duration = Duration::from_secs(5);

/// A broker with its name and its channels.
#[derive(Debug)]
pub struct BrokerBinding {
    /// Its name in the configuration, or `memory`.
    pub name: String,
    /// The channels; receives the messages of the broker.
    pub registry: Arc<ChannelRegistry>,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Whether the node is not ready while a link of this broker is down.
    pub affects_readiness: bool,
}

impl BrokerBinding {
    fn log_reader(&self) -> LogReader<'_> {
        LogReader { binding: self }
    }
}

/// The rules and limits for requests of clients.
#[derive(Debug)]
pub struct NodeRules {
    /// The rules of channels, which refer to the brokers by their index.
    pub namespaces: Namespaces,
    /// Determines who clients are.
    pub authenticator: Arc<Authenticator>,
    /// The largest payload, in bytes (`limits.publication_bytes`).
    pub publication_bytes: usize,
}

/// Connects brokers and shards.
#[derive(Debug)]
pub struct Node {
    rules: NodeRules,
    bindings: Vec<BrokerBinding>,
    shard_senders: Arc<[ShardSender]>,
    budget: Arc<HistoryBudget>,
    idempotency: Idempotency,
    drain: Drain,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Creates a node.
    pub fn new(
        rules: NodeRules,
        bindings: Vec<BrokerBinding>,
        shard_senders: Arc<[ShardSender]>,
        budget: Arc<HistoryBudget>,
        drain: Drain,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let idempotency = Idempotency::default();
        Arc::new(Self { rules, bindings, shard_senders, budget, idempotency, drain, metrics })
    }

    /// Starts the background tasks: expiry and delayed unsubscribe, and reading logs after gaps.
    pub fn start(self: &Arc<Self>) {
        for index in 0..self.bindings.len() {
            let (node, stop) = (Arc::clone(self), self.drain.clone());
            self.drain.spawn(async move {
                let log_reader = node.bindings[index].log_reader();
                tokio::select! {
                    () = node.run_expiry(index) => {}
                    () = log_reader.run() => {}
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
    fn unsubscriber<'a>(&'a self, binding: &'a BrokerBinding) -> impl Fn(&Channel) + 'a {
        |channel| match channel.rules.topic(&channel.name) {
            topic @ (Topic::Channel(_) | Topic::Sharded(_)) => binding.broker.unsubscribe(&topic),
            Topic::Pattern(_) => {}
        }
    }

    /// The namespaces of the configuration.
    pub fn namespaces(&self) -> &Namespaces {
        &self.rules.namespaces
    }

    /// The channel with its rules; `None` when no namespace matches its name.
    pub fn resolve(&self, name: ChannelName) -> Option<ResolvedChannel> {
        self.rules.namespaces.resolve(name)
    }

    fn binding(&self, channel: &ResolvedChannel) -> &BrokerBinding {
        &self.bindings[channel.broker()]
    }

    /// The largest payload of a publication (`limits.publication_bytes`).
    pub fn publication_bytes(&self) -> usize {
        self.rules.publication_bytes
    }

    /// Determines who clients are.
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.rules.authenticator
    }

    /// Attaches a shard to a channel. The response goes through the shard's queue, in order with the publications.
    async fn attach(&self, shard: ShardId, channel: ResolvedChannel, network: Option<ClientNetwork>) {
        let shard_queue = &self.shard_senders[shard];
        if let Err(error) = self.try_attach(shard, shard_queue, &channel, network).await {
            // Fails only if the shard has ended, and then the response is not needed.
            let _ = shard_queue.send(NodeEvent::AttachFailed(channel.name, error)).await;
        }
    }

    /// Rejects an attach because too many requests are waiting for the broker.
    async fn reject_attach(&self, shard: ShardId, name: ChannelName) {
        let busy = SubscribeError::Broker(BrokerError::Busy);
        // Fails only if the shard has ended, and then the response is not needed.
        let _ = self.shard_senders[shard].send(NodeEvent::AttachFailed(name, busy)).await;
    }

    async fn try_attach(
        &self,
        shard: ShardId,
        shard_queue: &ShardSender,
        resolved: &ResolvedChannel,
        network: Option<ClientNetwork>,
    ) -> Result<(), SubscribeError> {
        let binding = self.binding(resolved);
        let channel = binding.registry.acquire(resolved, network, self.unsubscriber(binding))?;
        let (topic, when_unavailable) = (resolved.topic(), resolved.rules.namespace.when_unavailable);
        if let Err(error) = binding.log_reader().subscribe(&topic, &channel, when_unavailable).await {
            binding.registry.abort_attach(&channel, self.unsubscriber(binding));
            return Err(error.into());
        }
        match shard_queue.reserve().await {
            Some(permit) => binding.registry.commit_attach(&channel, shard, |position| {
                shard_queue.discard_overflow(&resolved.name);
                permit.send(NodeEvent::Attached(resolved.name.clone(), position));
            }),
            None => binding.registry.abort_attach(&channel, self.unsubscriber(binding)),
        }
        Ok(())
    }

    /// Recovers the publications that a connection has missed. The response goes through the shard's queue: the
    /// publications after it follow the top of the recovery.
    async fn recover(
        &self,
        shard: ShardId,
        resolved: ResolvedChannel,
        request: RecoveryRequest,
        request_id: RequestId,
    ) {
        let binding = self.binding(&resolved);
        let channel = resolved.name;
        let since = request.since.as_ref();
        let read = request.is_continuation
            || binding.log_reader().backfill(&channel, since, request.replay_last).await;
        let known = binding.registry.find(&channel);
        if !read && known.is_some_and(|known| known.is_client_ahead(since)) {
            // The client has seen more of the log than this node. Continuing from here would repeat a part of it, so
            // the client must retry.
            let error = SubscribeError::NodeBehind;
            // Fails only if the shard has ended, and then the response is not needed.
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

    /// A page of a channel's history; `None` when the channel is not known on this node.
    pub async fn history(&self, resolved: &ResolvedChannel, page: &HistoryQuery) -> Option<HistoryResponse> {
        let (binding, channel) = (self.binding(resolved), &resolved.name);
        if let (Some(log), None) = (resolved.rules.namespace.source.log(), binding.registry.find(channel)) {
            return binding.log_reader().read_page(log, channel, page).await;
        }
        let everything = RecoverFrom { epoch: RecoveryEpoch::Any, offset: 0 };
        binding.log_reader().backfill(channel, Some(&everything), true).await;
        binding.registry.history(channel, page)
    }

    /// Removes the history of a channel, on this node and in its log.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn clear_history(&self, resolved: &ResolvedChannel) -> Result<(), BrokerError> {
        let (binding, channel) = (self.binding(resolved), &resolved.name);
        if let Some(log) = resolved.rules.namespace.source.log() {
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
    fn detach(&self, shard: ShardId, channel: &ResolvedChannel, shared: bool) {
        let binding = self.binding(channel);
        binding.registry.detach(&channel.name, shard, shared, self.unsubscriber(binding));
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
}
