//! The node: joins brokers to shards.
//!
//! Owns the channels that somebody on this node hears: their sequence, the shards that want them, and the wish that
//! the broker hear them. The first shard that attaches subscribes at the broker; after the last one left, the wish
//! lingers for a while. Must never know a connection, nor what a broker is made of.
//!
//! - [`channel`]: one channel: stamp, listening shards.
//! - [`history`]: what a channel remembers, and what can be recovered from it; [`recovery`]: what a client asks for and
//!   is given.
//! - `log`: channels whose sequence is a log in Redis.
//! - [`registry`]: the channels of one broker; `hearing`: what the broker heard goes in here; `lingering`: how a
//!   channel is let go; `creator`: who has created them; `filling`: what is read from logs.
//! - [`port`]: the bounded way to a shard.
//! - [`lane`]: the bounded way back: what shards ask for.
//! - [`namespace`]: the rules that a channel's name falls under.
//! - `idempotency`: results of publications by their keys, where no log keeps them.
//! - `publishing`: the way of a publication to its broker.
//! - [`publication`]: one message, stamped and encoded once.

pub mod channel;
pub(crate) mod creator;
mod filling;
mod hearing;
pub mod history;
pub mod idempotency;
pub mod lane;
mod lingering;
mod log;
pub mod namespace;
pub mod port;
pub mod publication;
mod publishing;
pub mod recovery;
pub mod registry;
pub mod slow;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::log::{Log, LogEntry, LogPage};
use crate::broker::{Broker, BrokerError, LinkStatus, OnLoss, Topic};
use crate::drain::Drain;
use crate::metrics::Metrics;
use channel::{Channel, ShardId};
use history::HistoryBudget;
use idempotency::Idempotency;
use lane::{HistoryAnswer, HistoryError, Ticket};
use namespace::{ChannelPattern, Namespace, Namespaces};
use port::{Delivery, Port};
use publication::Publication;
pub use publishing::{PublishError, Published};
use recovery::{RecoveryRequest, Since};
use registry::{History, Page, Registry};

/// The time between two looks for publications that are too old to be remembered.
const FORGET: Duration = Duration::from_secs(5);

/// Entries of a log that are read at once.
const FILL_PAGE: usize = 1000;

/// Logs that are read at the same time after a deaf spell.
const FILLS_AT_ONCE: usize = 64;

/// The wait before a log is read again that could not be read.
const FILL_RETRY: Duration = Duration::from_millis(250);

/// Why a channel cannot be heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// No namespace has the channel.
    #[error("no namespace has this channel")]
    UnknownChannel,
    /// A client has more of the log than this node can see at the moment.
    #[error("the log cannot be read up to where the client stood")]
    Behind,
    /// The node's limit of channels is reached.
    #[error("too many channels on this node")]
    TooManyChannels,
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
    /// Whether the node is ready only while this broker is heard.
    pub affects_readiness: bool,
}

/// Joins brokers to shards.
#[derive(Debug)]
pub struct Node {
    namespaces: Namespaces,
    ears: Vec<Ear>,
    ports: Arc<[Port]>,
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
        ears: Vec<Ear>,
        ports: Arc<[Port]>,
        budget: Arc<HistoryBudget>,
        publication_bytes: usize,
        drain: Drain,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let idempotency = Idempotency::default();
        Arc::new(Self { namespaces, ears, ports, budget, publication_bytes, idempotency, drain, metrics })
    }

    /// Starts what the node does by itself: letting go the channels that nobody wants any more.
    pub fn start(self: &Arc<Self>) {
        for place in 0..self.ears.len() {
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
        let ear = &self.ears[place];
        let mut forget_next = Instant::now();
        loop {
            if forget_next <= Instant::now() {
                ear.registry.forget_old(Instant::now());
                self.idempotency.expire(Instant::now());
                forget_next = Instant::now() + FORGET;
            }
            ear.registry.relieve(Instant::now());
            let next = ear.registry.expire(Instant::now(), self.release(ear));
            // A sleep whose time has come does not yield.
            tokio::task::yield_now().await;
            tokio::time::sleep_until(next).await;
        }
    }

    /// How a channel is given up at a broker. What a pattern brings is not subscribed to by itself.
    fn release<'a>(&'a self, ear: &'a Ear) -> impl Fn(&ChannelName) + 'a {
        |channel| match self.topic(channel) {
            Some(topic @ (Topic::Channel(_) | Topic::Sharded(_))) => ear.broker.unsubscribe(&topic),
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

    /// A shard wants to hear a channel. The answer goes through the shard's port, in the order of the publications.
    async fn attach(&self, shard: ShardId, name: ChannelName, from: Option<IpAddr>) {
        let port = &self.ports[shard];
        if let Err(error) = self.try_attach(shard, port, &name, from).await {
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
        from: Option<IpAddr>,
    ) -> Result<(), SubscribeError> {
        let (namespace, pattern) = self.namespaces.resolve(name).ok_or(SubscribeError::UnknownChannel)?;
        let ear = &self.ears[namespace.broker(name)];
        let channel = {
            let rules = (namespace.history, namespace.log.as_ref());
            ear.registry.enter(name, rules, from, self.release(ear))?
        };
        if let Err(error) = hear(ear, &topic(name, namespace, pattern), &channel, namespace.on_loss).await {
            ear.registry.abandon(&channel, self.release(ear));
            return Err(error.into());
        }
        match port.reserve().await {
            Some(permit) => ear.registry.entered(&channel, shard, |position| {
                port.forget_overflow(name);
                permit.send(Delivery::Attached(name.clone(), position));
            }),
            None => ear.registry.abandon(&channel, self.release(ear)),
        }
        Ok(())
    }

    /// A connection comes back to a channel that its shard hears. The answer goes through the port, in the order of the
    /// publications: what comes after it comes after the recovery's top.
    async fn recover(&self, shard: ShardId, channel: ChannelName, request: RecoveryRequest, ticket: Ticket) {
        let Some(namespace) = self.namespace(&channel) else { return };
        let ear = &self.ears[namespace.broker(&channel)];
        let since = request.since.as_ref();
        let read = request.goes_on || self.backfill(ear, &channel, since, request.last).await;
        let known = ear.registry.find(&channel);
        if !read && known.is_some_and(|known| ear.registry.is_behind(&known, since)) {
            // This node cannot see what another has handed out. To go on from here would give the client part of it
            // twice: it is asked to come again.
            let error = SubscribeError::Behind;
            // A shard that has ended needs no answer.
            let _ = self.ports[shard].send(Delivery::RecoverFailed(ticket, channel, error)).await;
            return;
        }
        if let Some(permit) = self.ports[shard].reserve().await {
            ear.registry.recover(&channel, &request, |recovery| {
                permit.send(Delivery::Recovered(ticket, channel.clone(), recovery));
            });
        }
    }

    /// Reads the log of a channel for all who come back to it, once. `false` when it could not be read.
    async fn backfill(&self, ear: &Ear, name: &ChannelName, since: Option<&Since>, last: bool) -> bool {
        let Some(channel) = ear.registry.find(name) else { return true };
        let Some(log) = channel.log.clone() else { return true };
        if ear.registry.needs_origin(&channel, since)
            && let Ok(page) = ear.broker.read_log(&log, name, u64::MAX, 0).await
        {
            // Whoever stood before the first publication cannot be judged without it, and then is told of a gap.
            channel.state().note_origin(&page);
        }
        let behind = ear.registry.is_behind(&channel, since);
        if !behind && !ear.registry.wants_backfill(&channel, since, last) {
            return true;
        }
        let asked = Instant::now();
        let mut failed = channel.backfill.lock().await;
        if failed.is_some_and(|at| at >= asked) {
            // Whoever was before us has failed for us, too.
            return false;
        }
        // Another node has handed out what this one has not heard: it missed something.
        if behind && ear.registry.is_behind(&channel, since) {
            // A look at the log first: what a client claims must not hold up the channel.
            match ear.broker.read_log(&log, name, u64::MAX, 0).await {
                Ok(page) if ear.registry.lags(&channel, page.top) => {
                    if !channel.state().lose_log() {
                        // It is being read already, and until then nobody can be told where the channel stands.
                        return false;
                    }
                    if let Some(channel) = fill_one(ear, Arc::clone(&channel)).await {
                        *failed = Some(Instant::now());
                        ear.registry.fill_again(channel);
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
        if !ear.registry.wants_backfill(&channel, since, last) {
            return true;
        }
        let mut wanted = channel.history.size;
        let mut before = channel.state().oldest();
        while wanted > 0 {
            let page = match ear.broker.read_log_back(&log, name, before, wanted.min(FILL_PAGE)).await {
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
            if before.is_none() || !ear.registry.backfill(&channel, page) {
                break;
            }
        }
        ear.registry.backfilled(&channel);
        true
    }

    /// Reads the logs of channels that may have missed something, several at a time.
    async fn fill(&self, place: usize) {
        let ear = &self.ears[place];
        let (mut reading, mut waiting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            let room = FILLS_AT_ONCE - reading.len();
            tokio::select! {
                channels = ear.registry.to_fill(room), if room > 0 => {
                    reading.extend(channels.into_iter().map(|channel| fill_one(ear, channel)));
                }
                Some(failed) = reading.next() => {
                    // A log that cannot be read takes nobody's place while it waits.
                    waiting.extend(failed.map(|channel| async {
                        tokio::time::sleep(FILL_RETRY).await;
                        channel
                    }));
                }
                Some(channel) = waiting.next() => ear.registry.fill_again(channel),
            }
        }
    }

    /// A part of what a channel remembers; `None` when the channel is not known on this node.
    pub async fn history(&self, channel: &ChannelName, page: &Page) -> Option<HistoryAnswer> {
        let namespace = self.namespace(channel)?;
        let ear = &self.ears[namespace.broker(channel)];
        if let (Some(log), None) = (&namespace.log, ear.registry.find(channel)) {
            return self.logged(ear, log, channel, page).await;
        }
        let everything = Since { epoch: None, offset: 0 };
        self.backfill(ear, channel, Some(&everything), true).await;
        ear.registry.history(channel, page)
    }

    /// A part of a log that nobody on this node hears.
    async fn logged(&self, ear: &Ear, log: &Log, name: &ChannelName, page: &Page) -> Option<HistoryAnswer> {
        let since = page.since.as_ref().map(|since| since.offset);
        let read = if page.reverse {
            ear.broker.read_log_back(log, name, since, page.limit).await
        } else {
            ear.broker.read_log(log, name, since.unwrap_or(0), page.limit).await
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return Some(Err(HistoryError::Broker(error))),
        };
        if page.since.as_ref().is_some_and(|since| !since.fits_log(&read)) {
            return Some(Err(HistoryError::Unrecoverable));
        }
        let LogPage { top, entries, .. } = read;
        let top = top?;
        let publication = |entry: LogEntry| {
            let position = StreamPosition { offset: entry.offset, ..top };
            let publication = Publication::new(name.clone(), position, Payload::new(entry.payload));
            Arc::new(publication.with_attributes(entry.attributes))
        };
        Some(Ok(History { top, publications: entries.into_iter().map(publication).collect() }))
    }

    /// Forgets what a channel remembers, here and in its log.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub async fn forget_history(&self, channel: &ChannelName) -> Result<(), PublishError> {
        let namespace = self.namespace(channel).ok_or(PublishError::UnknownChannel)?;
        let ear = &self.ears[namespace.broker(channel)];
        if let Some(log) = &namespace.log {
            ear.broker.clear_log(log, channel).await?;
        }
        ear.registry.forget(channel);
        Ok(())
    }

    /// Bytes that the rings of this node hold.
    pub fn history_bytes(&self) -> usize {
        self.budget.used()
    }

    /// A shard has no subscriber left for a channel.
    fn detach(&self, shard: ShardId, name: &ChannelName, shared: bool) {
        if let Some(namespace) = self.namespace(name) {
            let ear = &self.ears[namespace.broker(name)];
            ear.registry.detach(name, shard, shared, self.release(ear));
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

    /// The state of every link, with its broker.
    pub fn links(&self) -> Vec<(&Ear, LinkStatus)> {
        self.ears.iter().flat_map(|ear| ear.broker.links().into_iter().map(move |link| (ear, link))).collect()
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

/// Hears a topic, and knows where its log stands.
async fn hear(ear: &Ear, topic: &Topic, channel: &Arc<Channel>, on_loss: OnLoss) -> Result<(), BrokerError> {
    ear.broker.subscribe(topic, on_loss).await?;
    if let Some(log) = &channel.log
        && channel.state().log().is_some_and(|follow| follow.is_unknown())
    {
        let page = ear.broker.open_log(log, &channel.name).await?;
        ear.registry.begin_log(channel, &page);
    }
    Ok(())
}

/// Reads a channel's log until the channel is in step with it; gives the channel back when it cannot be read.
async fn fill_one(ear: &Ear, channel: Arc<Channel>) -> Option<Arc<Channel>> {
    let log = channel.log.clone()?;
    loop {
        let from = channel.state().position();
        match ear.broker.follow_log(&log, &channel.name, from, FILL_PAGE).await {
            Ok(page) => {
                if !ear.registry.filled(&channel, from, page) {
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
