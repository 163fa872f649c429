//! Brokers: where publications come from and go to.
//!
//! A broker knows channels and payloads, and the positions of a log that it keeps itself. It must never know a
//! connection, a subscriber or a position of the node's own: the [`BrokerEventHandler`] (the node) joins it to those.
//!
//! - [`attributes`]: what travels with a payload where there is room for it.
//! - [`memory`]: this process alone; needs nothing.
//! - [`redis`]: one Redis instance; a plain `PUBLISH` in, a plain `PUBLISH` out.
//! - [`log`]: what a numbered publication and a part of a log look like.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};
use tokio::time::Instant;

pub mod attributes;
pub mod log;
pub mod memory;
pub mod redis;

use self::log::{AppendOptions, LogConfig, LogPage};

pub use self::redis::RedisBroker;
pub use attributes::Attributes;
pub use memory::MemoryBroker;

/// What a broker can be asked to hear.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One channel, by its exact name.
    Channel(ChannelName),
    /// Every channel that matches a pattern in the broker's own syntax (Redis: `PSUBSCRIBE`).
    Pattern(Arc<str>),
    /// One channel, by its exact name, where its slot of a cluster is (Redis: `SSUBSCRIBE`). It hears what was
    /// published for the shard, and nothing else.
    Sharded(ChannelName),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) | Self::Sharded(name) => f.write_str(name.as_str()),
            Self::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

/// One publication as the broker heard it.
#[derive(Clone, Debug)]
pub struct BrokerMessage {
    /// The channel's name as the publisher wrote it.
    pub channel: String,
    /// The payload, untouched.
    pub data: Bytes,
}

/// Why publications may have been missed. The label of the gap counter, and the reason that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The link to the broker was down, or its hearing was not proven.
    LinkDown,
    /// A bounded queue between link and subscribers was full.
    QueueFull,
    /// A publication was larger than the configured limit.
    TooLarge,
    /// A client's position belongs to a sequence that is no more: the node or the log began anew.
    UnknownPosition,
    /// A client was away for longer than the ring remembers.
    HistoryTooShort,
    /// The log in the broker is shorter than what was handed out.
    LogLost,
    /// A client was too slow, in a namespace that then drops the oldest.
    SlowConsumer,
}

impl GapCause {
    /// The stable name, for clients and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinkDown => "link-down",
            Self::QueueFull => "queue-full",
            Self::TooLarge => "too-large",
            Self::UnknownPosition => "unknown-position",
            Self::HistoryTooShort => "history-too-short",
            Self::LogLost => "log-lost",
            Self::SlowConsumer => "slow-consumer",
        }
    }
}

/// A spell in which a broker may have missed publications.
#[derive(Clone, Debug)]
pub struct TopicGap {
    /// The topics concerned. For a pattern: every channel that matches it.
    pub topics: AffectedTopics,
    /// Why.
    pub cause: GapCause,
    /// The first moment that may have gone unheard.
    pub from: Instant,
}

/// Which topics a [`TopicGap`] concerns.
#[derive(Clone, Debug)]
pub enum AffectedTopics {
    /// Everything that this broker hears.
    All,
    /// These.
    Some(Vec<Topic>),
}

/// Who listens to a broker: the node. Both calls are synchronous, quick, and never block. For each topic a broker
/// makes them from one place at a time, in the order in which things happened; it may call from several places at once
/// for different topics.
pub trait BrokerEventHandler: Send + Sync + 'static {
    /// Publications, in the broker's order. The vector is drained.
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>);

    /// One publication of a broker that carries attributes; otherwise as [`BrokerEventHandler::heard`].
    fn on_message(&self, message: BrokerMessage, attributes: Attributes);

    /// A publication of this node's own clients, which no broker can take at the moment. May be called at the same time
    /// as the others, from another place.
    fn on_local_publish(&self, message: BrokerMessage);

    /// Publications may have been missed. Said before anything that was heard afterwards.
    fn on_gap(&self, gap: TopicGap);
}

/// What a node does for a channel whose broker is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// It goes on by itself: its clients may subscribe, and hear each other.
    Local,
    /// It refuses what the broker would be needed for.
    Reject,
}

/// Which clients a publication reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryScope {
    /// The clients of every node.
    AllNodes,
    /// Only the clients of this node: the broker is unavailable.
    ThisNode,
}

/// Why a broker could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The link is down, or did not answer within the command time-out. Worth trying again.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// Too many requests wait for the broker. Worth trying again later.
    #[error("too many requests wait for the broker")]
    Busy,
    /// The broker understood and refused (an ACL, a wrong type). Trying again will not help.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// How a link to a broker stands, for `/health`, `/ready` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Which link: `commands`, `subscriptions`, or `sharded` (those of a cluster, all together).
    pub link: &'static str,
    /// Whether it works at this moment: connected, and for subscriptions: every wanted topic confirmed.
    pub up: bool,
    /// What is wrong when it is not up; never a secret.
    pub error: Option<String>,
    /// Whether its server is a replica, through which nothing should be published.
    pub replica: bool,
    /// How often it was established anew since the start.
    pub reconnects: u64,
    /// How often it was given up, by reason: `unreachable`, `not-receiving`, `rejected`.
    pub failures: Vec<(&'static str, u64)>,
    /// How long it has not worked since the start; subscriptions count from the last proof of hearing.
    pub downtime: Duration,
    /// What is known of its hearing (subscriptions only); `None`: nothing yet.
    pub probe: Option<ProbeState>,
    /// Topics that are wanted (subscriptions only).
    pub desired: usize,
    /// Topics that the server has confirmed on the present connection (subscriptions only).
    pub active: usize,
    /// Bytes that were heard and wait to be handed on (subscriptions only).
    pub receive_queue_bytes: usize,
}

/// What is known of a link's hearing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// A publication of our own came back.
    Verified {
        /// How long ago it was published: everything that others published before that was heard, too.
        age: Duration,
        /// How long it took.
        rtt: Duration,
    },
    /// It may not be published or heard; that the server answers is all that is known.
    Unavailable(String),
}

/// A broker of one namespace or several.
#[derive(Clone, Debug)]
pub enum Broker {
    /// This process alone.
    Memory(Arc<MemoryBroker>),
    /// One Redis instance.
    Redis(Arc<RedisBroker>),
}

impl Broker {
    /// Hears a topic from now on. Resolves when the broker has confirmed it: whatever is published after that moment
    /// reaches the listener. Asking again for what is already confirmed resolves at once.
    /// Dropping the future does not take the wish back; [`Broker::unsubscribe`] does.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] when it was not confirmed within the command time-out (the wish stays, and is
    /// fulfilled when the link is back), or was confirmed before and is refused now, which may be mended;
    /// [`BrokerError::Refused`] when the broker refused a topic that was never heard. With
    /// [`WhenUnavailable::Local`] a broker that has been away for a while is not waited for: the topic counts as heard, and as
    /// lost from then on until the broker is back.
    pub async fn subscribe(
        &self,
        topic: &Topic,
        when_unavailable: WhenUnavailable,
    ) -> Result<(), BrokerError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(broker) => broker.subscribe(topic, when_unavailable).await,
        }
    }

    /// Whether publications outside of a log keep their attributes.
    pub fn supports_attributes(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// No longer hears a topic. Takes effect soon; needs no confirmation.
    pub fn unsubscribe(&self, topic: &Topic) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(broker) => broker.unsubscribe(topic),
        }
    }

    /// Publishes one payload, untouched. Redis carries nothing but the payload: `attributes` are dropped there, see
    /// [`Broker::supports_attributes`]. Payloads given in order by one caller (who may not wait for the first before
    /// giving the second) are published in that order: the place in the order is taken when the call is made, before
    /// the returned future is first polled.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        attributes: Attributes,
        when_unavailable: WhenUnavailable,
    ) -> impl Future<Output = Result<DeliveryScope, BrokerError>> + Send + use<> {
        use futures::future::Either;
        match self {
            Self::Memory(broker) => {
                broker.publish(channel, data, attributes);
                Either::Left(std::future::ready(Ok(DeliveryScope::AllNodes)))
            }
            Self::Redis(broker) => Either::Right(broker.publish(channel, data, when_unavailable)),
        }
    }

    /// As [`Broker::publish`], to those alone who hear the channel as [`Topic::Sharded`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn publish_sharded(
        &self,
        channel: &ChannelName,
        data: Bytes,
        when_unavailable: WhenUnavailable,
    ) -> impl Future<Output = Result<DeliveryScope, BrokerError>> + Send + use<> {
        use futures::future::Either;
        match self {
            Self::Memory(broker) => {
                broker.publish(channel, data, Attributes::default());
                Either::Left(std::future::ready(Ok(DeliveryScope::AllNodes)))
            }
            Self::Redis(broker) => Either::Right(broker.publish_sharded(channel, data, when_unavailable)),
        }
    }

    /// Numbers a payload in a log and publishes it in its [`log::LoggedMessage`], in one step. The place in the order, among
    /// plain publications, too, is taken by the call itself: see [`Broker::publish`].
    ///
    /// `seen` is the last position that somebody was given. When the log is behind it (a replica that had not everything
    /// took over), it begins a new epoch, instead of giving it out a second time.
    ///
    /// # Errors
    /// See [`BrokerError`]. After [`BrokerError::Unavailable`] nobody knows whether it was published; with an
    /// idempotency key it can be tried again without harm.
    pub fn append(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        data: Bytes,
        extras: AppendOptions,
        seen: Option<StreamPosition>,
    ) -> impl Future<Output = Result<StreamPosition, BrokerError>> + Send + use<> {
        use futures::future::Either;
        match self {
            Self::Memory(_) => Either::Left(std::future::ready(Err(no_log()))),
            Self::Redis(broker) => Either::Right(broker.append(log, channel, data, extras, seen)),
        }
    }

    /// Says where a log stands. Writes nothing: see [`log::LogOrigin`] for a channel that has no log yet.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn open_log(&self, log: &LogConfig, channel: &ChannelName) -> Result<LogPage, BrokerError> {
        match self {
            Self::Memory(_) => Err(no_log()),
            Self::Redis(broker) => broker.open_log(log, channel).await,
        }
    }

    /// Reads entries behind the last position that was handed out, in order, at most `limit`; see [`LogPage`]. A log
    /// that is behind that position (a server went back to an older state) begins a new epoch.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn follow_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        seen: StreamPosition,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        match self {
            Self::Memory(_) => Err(no_log()),
            Self::Redis(broker) => broker.follow_log(log, channel, seen, limit).await,
        }
    }

    /// Reads entries behind an offset, in order, at most `limit` (0: only where the log stands); see [`LogPage`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn read_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        after: u64,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        match self {
            Self::Memory(_) => Err(no_log()),
            Self::Redis(broker) => broker.read_log(log, channel, after, limit).await,
        }
    }

    /// Reads entries before an offset (`None`: from the end), against their order, at most `limit`; see [`LogPage`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn read_log_back(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        match self {
            Self::Memory(_) => Err(no_log()),
            Self::Redis(broker) => broker.read_log_back(log, channel, before, limit).await,
        }
    }

    /// Removes the entries of a log; its numbers go on.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn clear_log(&self, log: &LogConfig, channel: &ChannelName) -> Result<(), BrokerError> {
        match self {
            Self::Memory(_) => Err(no_log()),
            Self::Redis(broker) => broker.clear_log(log, channel).await,
        }
    }

    /// How each link stands; empty for a broker without links.
    pub fn links(&self) -> Vec<LinkStatus> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::Redis(broker) => broker.links(),
        }
    }
}

fn no_log() -> BrokerError {
    BrokerError::Refused("a log is kept in Redis".to_owned())
}
