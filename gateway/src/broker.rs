//! Brokers: the sources and targets of publications.
//!
//! A broker handles channels and payloads, and the positions of its own logs. It must never access a connection, a
//! subscriber or a position that the node assigns: the [`BrokerEventHandler`] (the node) adds those. What a client
//! requests goes through the trait [`Broker`]; publications that arrive go directly to the handler.
//!
//! - [`attributes`]: tags and publisher of a publication.
//! - [`memory`]: within this process.
//! - [`redis`]: one Redis deployment; plain `PUBLISH` in, plain `PUBLISH` out.
//! - [`log`]: the publications and pages of a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};
use futures::future::BoxFuture;

pub mod attributes;
mod gap;
pub mod log;
pub mod memory;
mod placement;
pub mod redis;

use self::log::{AppendOptions, LogConfig, LogPage};

pub use self::redis::RedisBroker;
pub use attributes::Attributes;
pub use gap::{AffectedTopics, GapCause, TopicGap};
pub use memory::MemoryBroker;
pub use placement::broker_index;

/// A subscription target of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One channel, by its exact name.
    Channel(ChannelName),
    /// Every channel that matches a pattern in the syntax of the broker (Redis: `PSUBSCRIBE`).
    Pattern(Arc<str>),
    /// One channel, by its exact name, with sharded pub/sub (Redis: `SSUBSCRIBE`). It receives only sharded
    /// publications.
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

/// One publication as received from the broker.
#[derive(Clone, Debug)]
pub struct BrokerMessage {
    /// The channel's name as published.
    pub channel: String,
    /// The payload, unchanged.
    pub data: Bytes,
}

/// Receives the events of a broker. The calls are synchronous, fast, and never block. For each topic, a broker calls
/// from one place at a time and in order; for different topics it may call concurrently.
pub trait BrokerEventHandler: Send + Sync + 'static {
    /// Publications, in the order of the broker. The vector is drained.
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>);

    /// One publication of a broker that supports attributes; otherwise as [`BrokerEventHandler::on_messages`].
    fn on_message(&self, message: BrokerMessage, attributes: Attributes);

    /// A publication of this node's own clients, while the broker is unavailable. May be called concurrently with the
    /// others.
    fn on_local_publish(&self, message: BrokerMessage);

    /// Publications may have been missed. Called before the messages that follow the gap.
    fn on_gap(&self, gap: TopicGap);
}

/// The behavior for a channel whose broker is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// Its clients may subscribe, and receive each other's publications.
    Local,
    /// It rejects what needs the broker.
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

/// Why a request to a broker failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// The link is down, or the broker did not reply within the command timeout. Can be retried.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// Too many requests are waiting for the broker. Can be retried later.
    #[error("too many requests are waiting for the broker")]
    Busy,
    /// The broker rejected the request (an ACL, a wrong type). A retry will not succeed.
    #[error("the broker rejected the request: {0}")]
    Rejected(String),
}

/// The status of a link to a broker, for `/health`, `/ready` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The link: `commands`, `subscriptions`, or `sharded` (all sharded links of a cluster together).
    pub link: &'static str,
    /// Whether it works: connected, and for subscriptions, every desired topic is active.
    pub up: bool,
    /// Why it is not up; never a secret.
    pub error: Option<String>,
    /// Whether the server is a replica, which must not be published to.
    pub replica: bool,
    /// The number of reconnects since the start.
    pub reconnects: u64,
    /// The number of failures by reason: `unreachable`, `not-receiving`, `rejected`.
    pub failures: Vec<(&'static str, u64)>,
    /// How long it has been down since the start; for subscriptions, from the last verified probe.
    pub downtime: Duration,
    /// The state of its probes (subscriptions only); `None` before the first result.
    pub probe: Option<ProbeState>,
    /// Desired topics (subscriptions only).
    pub desired: usize,
    /// Topics that the server has confirmed on the present connection (subscriptions only).
    pub active: usize,
    /// Bytes of received publications that have not been processed (subscriptions only).
    pub receive_queue_bytes: usize,
}

/// The state of the probes of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// A probe returned.
    Verified {
        /// How long ago it was published: everything published before that has been received.
        age: Duration,
        /// The round-trip time of the probe.
        rtt: Duration,
    },
    /// Probes are not permitted; PING is the only check.
    Unavailable(String),
}

/// Options of a plain publication.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishOptions {
    /// Tags and publisher; dropped by a broker that does not support them: see [`Broker::supports_attributes`].
    pub attributes: Attributes,
    /// Publishes with sharded pub/sub: see [`Topic::Sharded`].
    pub sharded: bool,
    /// The behavior while the broker is unavailable.
    pub when_unavailable: WhenUnavailable,
}

impl PublishOptions {
    /// Pub/sub without attributes.
    pub fn new(when_unavailable: WhenUnavailable) -> Self {
        Self { attributes: Attributes::default(), sharded: false, when_unavailable }
    }
}

/// The result of a request to a broker. The request is made by the call: dropping the future does not cancel it.
pub type BrokerReply<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// The broker of one or several namespaces. Publications that a broker receives go to its [`BrokerEventHandler`].
///
/// The methods for logs have implementations for a broker without logs, which reject the request.
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// The kind of the broker, as in `/health`: `memory`, `redis`.
    fn kind(&self) -> &'static str;

    /// Whether publications without a log keep their attributes.
    fn supports_attributes(&self) -> bool;

    /// The status of each link; empty for a broker without links.
    fn links(&self) -> Vec<LinkStatus>;

    /// Subscribes to a topic. Resolves when the broker has confirmed it: everything published after that moment
    /// reaches the handler. Resolves immediately for a confirmed topic. Dropping the future does not unsubscribe;
    /// [`Broker::unsubscribe`] does.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] when the topic was not confirmed within the command timeout (it stays desired, and
    /// is subscribed when the link is up), or when it was confirmed before and is rejected now;
    /// [`BrokerError::Rejected`] when the broker rejects a topic that was never active. With
    /// [`WhenUnavailable::Local`], a broker that has been unavailable for a while is not waited for: the topic counts
    /// as active, with a gap until the broker is back.
    fn subscribe<'a>(
        &'a self,
        topic: &'a Topic,
        when_unavailable: WhenUnavailable,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Unsubscribes from a topic. Takes effect soon, without confirmation.
    fn unsubscribe(&self, topic: &Topic);

    /// Publishes one payload unchanged. Payloads of one caller are published in the order of its calls: the call takes
    /// the place in the order, before the returned future is first polled.
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        options: PublishOptions,
    ) -> BrokerReply<DeliveryScope>;

    /// Appends a payload to a log and publishes it as a [`log::LoggedMessage`], in one step. The call takes the place
    /// in the order, also relative to plain publications: see [`Broker::publish`].
    ///
    /// `seen` is the last position that was delivered. When the log is behind it (an incomplete replica was promoted),
    /// the log begins a new epoch instead of assigning the position a second time.
    ///
    /// # Errors
    /// See [`BrokerError`]. After [`BrokerError::Unavailable`] it is unknown whether the payload was published; with
    /// an idempotency key a retry is safe.
    fn append(
        &self,
        _log: &LogConfig,
        _channel: &ChannelName,
        _data: Bytes,
        _options: AppendOptions,
        _seen: Option<StreamPosition>,
    ) -> BrokerReply<StreamPosition> {
        without_logs()
    }

    /// Reads the position of a log. Writes nothing: see [`log::LogOrigin`] for a channel without a log.
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn open_log(&self, _log: &LogConfig, _channel: &ChannelName) -> BrokerReply<LogPage> {
        without_logs()
    }

    /// Reads entries after the last delivered position, in order, at most `limit`; see [`LogPage`]. A log that is
    /// behind that position (a server was restored to an older state) begins a new epoch.
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn follow_log(
        &self,
        _log: &LogConfig,
        _channel: &ChannelName,
        _seen: StreamPosition,
        _limit: usize,
    ) -> BrokerReply<LogPage> {
        without_logs()
    }

    /// Reads entries after an offset, in order, at most `limit` (0: only the position of the log); see [`LogPage`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn read_log(
        &self,
        _log: &LogConfig,
        _channel: &ChannelName,
        _after: u64,
        _limit: usize,
    ) -> BrokerReply<LogPage> {
        without_logs()
    }

    /// Reads entries before an offset (`None`: from the end), in reverse order, at most `limit`; see [`LogPage`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn read_log_back(
        &self,
        _log: &LogConfig,
        _channel: &ChannelName,
        _before: Option<u64>,
        _limit: usize,
    ) -> BrokerReply<LogPage> {
        without_logs()
    }

    /// Removes the entries of a log; its numbering continues.
    ///
    /// # Errors
    /// See [`BrokerError`].
    fn clear_log(&self, _log: &LogConfig, _channel: &ChannelName) -> BrokerReply<()> {
        without_logs()
    }
}

fn without_logs<T: Send + 'static>() -> BrokerReply<T> {
    Box::pin(std::future::ready(Err(BrokerError::Rejected("this broker has no logs".to_owned()))))
}
