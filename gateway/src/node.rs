//! The node: joins brokers to shards.
//!
//! Owns the channels that somebody on this node hears: their sequence, the shards that want them, and the wish that
//! the broker hear them. The first shard that attaches subscribes at the broker; after the last one left, the wish
//! lingers for a while. Must never know a connection, nor what a broker is made of.
//!
//! - [`channel`]: one channel: stamp, listening shards.
//! - [`history`]: what a channel remembers, and what can be recovered from it.
//! - [`registry`]: the channels of one broker; what the broker heard goes in here.
//! - [`port`]: the bounded way to a shard.
//! - [`lane`]: the bounded way back: what shards ask for.
//! - [`namespace`]: the rules that a channel's name falls under.
//! - [`publication`]: one message, stamped and encoded once.

pub mod channel;
pub mod history;
pub mod lane;
pub mod namespace;
pub mod port;
pub mod publication;
pub mod registry;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, LinkStatus, Topic};
use crate::drain::Drain;
use crate::metrics::Metrics;
use channel::ShardId;
use history::HistoryBudget;
use lane::{HistoryAnswer, Ticket};
use namespace::{ChannelPattern, Namespace, Namespaces};
use port::{Delivery, Port};
use registry::{Page, RecoveryRequest, Registry};

/// The time between two looks for publications that are too old to be remembered.
const FORGET: Duration = Duration::from_secs(5);

/// Why a channel cannot be heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// No namespace has the channel.
    #[error("no namespace has this channel")]
    UnknownChannel,
    /// The node's limit of channels is reached.
    #[error("too many channels on this node")]
    TooManyChannels,
    /// The broker could not or would not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Why a publication was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No namespace has the channel.
    #[error("no namespace has this channel")]
    UnknownChannel,
    /// The payload is larger than `limits.publication_bytes`.
    #[error("the publication is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The broker could not or would not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// A broker with its name and its channels.
#[derive(Debug)]
pub struct Ear {
    /// The name of the Redis instance, or `memory`.
    pub name: String,
    /// What it hears is stamped and handed on here.
    pub registry: Arc<Registry>,
    /// The broker.
    pub broker: Broker,
}

/// Joins brokers to shards.
#[derive(Debug)]
pub struct Node {
    namespaces: Namespaces,
    ears: Vec<Ear>,
    ports: Arc<[Port]>,
    budget: Arc<HistoryBudget>,
    publication_bytes: usize,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Joins these brokers, which the namespaces name by their place, to these shards.
    pub fn new(
        namespaces: Namespaces,
        ears: Vec<Ear>,
        ports: Arc<[Port]>,
        budget: Arc<HistoryBudget>,
        publication_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { namespaces, ears, ports, budget, publication_bytes, metrics })
    }

    /// Starts what the node does by itself: letting go the channels that nobody wants any more.
    pub fn start(self: &Arc<Self>, drain: &Drain) {
        for place in 0..self.ears.len() {
            let (node, stop) = (Arc::clone(self), drain.clone());
            drain.spawn(async move {
                tokio::select! {
                    () = node.let_go(place) => {}
                    () = stop.stopped() => {}
                }
            });
        }
    }

    async fn let_go(&self, place: usize) {
        let ear = &self.ears[place];
        let mut forget_next = Instant::now();
        loop {
            if forget_next <= Instant::now() {
                ear.registry.forget_old(Instant::now());
                forget_next = Instant::now() + FORGET;
            }
            let next = ear.registry.expire(Instant::now(), |channel| {
                if let Some(topic @ Topic::Channel(_)) = self.topic(channel) {
                    ear.broker.unsubscribe(&topic);
                }
            });
            tokio::time::sleep_until(next).await;
        }
    }

    /// The rules for a channel, if a namespace has it.
    pub fn namespace(&self, channel: &ChannelName) -> Option<&Namespace> {
        self.namespaces.resolve(channel).map(|(namespace, _)| namespace)
    }

    fn topic(&self, channel: &ChannelName) -> Option<Topic> {
        self.namespaces.resolve(channel).map(|(_, pattern)| topic(channel, pattern))
    }

    /// A shard wants to hear a channel. The answer goes through the shard's port, in the order of the publications.
    async fn attach(&self, shard: ShardId, name: ChannelName) {
        let port = &self.ports[shard];
        if let Err(error) = self.try_attach(shard, port, &name).await {
            // The shard has ended when this fails: nobody is left to be told.
            let _ = port.send(Delivery::AttachFailed(name, error)).await;
        }
    }

    /// The channel cannot be heard now: too much waits for its broker.
    async fn refuse_attach(&self, shard: ShardId, name: ChannelName) {
        let busy = SubscribeError::Broker(BrokerError::Busy);
        // The shard has ended when this fails: nobody is left to be told.
        let _ = self.ports[shard].send(Delivery::AttachFailed(name, busy)).await;
    }

    async fn try_attach(
        &self,
        shard: ShardId,
        port: &Port,
        name: &ChannelName,
    ) -> Result<(), SubscribeError> {
        let (namespace, pattern) = self.namespaces.resolve(name).ok_or(SubscribeError::UnknownChannel)?;
        let ear = &self.ears[namespace.broker];
        let channel = ear.registry.enter(name, namespace.history)?;
        if let Err(error) = ear.broker.subscribe(&topic(name, pattern)).await {
            ear.registry.abandon(&channel);
            return Err(error.into());
        }
        match port.reserve().await {
            Some(permit) => ear.registry.entered(&channel, shard, |position| {
                permit.send(Delivery::Attached(name.clone(), position));
            }),
            None => ear.registry.abandon(&channel),
        }
        Ok(())
    }

    /// A connection comes back to a channel that its shard hears. The answer goes through the port, in the order of the
    /// publications: what comes after it comes after the recovery's top.
    async fn recover(&self, shard: ShardId, channel: ChannelName, request: RecoveryRequest, ticket: Ticket) {
        let Some(permit) = self.ports[shard].reserve().await else { return };
        if let Some(namespace) = self.namespace(&channel) {
            self.ears[namespace.broker].registry.recover(&channel, &request, |recovery| {
                permit.send(Delivery::Recovered(ticket, channel.clone(), recovery));
            });
        }
    }

    /// A part of what a channel remembers; `None` when the channel is not known on this node.
    pub fn history(&self, channel: &ChannelName, page: &Page) -> Option<HistoryAnswer> {
        self.ears[self.namespace(channel)?.broker].registry.history(channel, page)
    }

    /// Forgets what a channel remembers.
    pub fn forget_history(&self, channel: &ChannelName) {
        if let Some(namespace) = self.namespace(channel) {
            self.ears[namespace.broker].registry.forget(channel);
        }
    }

    /// Bytes that the rings of this node hold.
    pub fn history_bytes(&self) -> usize {
        self.budget.used()
    }

    /// A shard has no subscriber left for a channel.
    fn detach(&self, shard: ShardId, name: &ChannelName) {
        if let Some(namespace) = self.namespace(name) {
            self.ears[namespace.broker].registry.detach(name, shard);
        }
    }

    /// Publishes a payload, untouched. The place in the order of publications is taken by the call itself.
    pub fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let metrics = Arc::clone(&self.metrics);
        let taken = match self.namespace(channel) {
            None => Err(PublishError::UnknownChannel),
            Some(_) if data.len() > self.publication_bytes => {
                Err(PublishError::TooLarge { limit: self.publication_bytes })
            }
            Some(namespace) => Ok(self.ears[namespace.broker].broker.publish(channel, data)),
        };
        async move {
            let result = match taken {
                Ok(published) => published.await.map_err(PublishError::from),
                Err(error) => Err(error),
            };
            let count =
                if result.is_ok() { &metrics.control.published } else { &metrics.control.publish_failures };
            count.add(1);
            result
        }
    }

    /// How many subscribers each channel has on this node, asked of every shard.
    pub async fn census(&self) -> HashMap<ChannelName, u32> {
        let mut total = HashMap::new();
        for port in &*self.ports {
            let (answer, counts) = oneshot::channel();
            if !port.send(Delivery::Census(answer)).await {
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
        self.ears.iter().map(|ear| ear.registry.channels()).sum()
    }

    /// The state of every link, with the name of its broker.
    pub fn links(&self) -> Vec<(&str, LinkStatus)> {
        let of = |ear: &'_ Ear| ear.broker.links();
        self.ears
            .iter()
            .flat_map(|ear| of(ear).into_iter().map(move |link| (ear.name.as_str(), link)))
            .collect()
    }

    /// Whether every link hears and speaks.
    pub fn is_hearing(&self) -> bool {
        self.links().iter().all(|(_, link)| link.up)
    }

    /// Whether any channel is carried by something beyond this process.
    pub fn has_broker(&self) -> bool {
        self.ears.iter().any(|ear| matches!(ear.broker, Broker::Redis(_)))
    }
}

fn topic(channel: &ChannelName, pattern: &ChannelPattern) -> Topic {
    match &pattern.broker_pattern {
        Some(pattern) => Topic::Pattern(Arc::clone(pattern)),
        None => Topic::Channel(channel.clone()),
    }
}
