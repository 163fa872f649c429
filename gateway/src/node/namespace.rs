//! Namespaces: the rules of a channel, by its name.
//!
//! Owns the order in which patterns are tried: the first match wins. Must never know how a rule is applied.

use std::sync::Arc;

use earshot_protocol::ChannelName;
use wildmatch::WildMatch;

use super::backpressure_policy::BackpressurePolicy;
use super::channel_pattern::ChannelPattern;
use super::channel_source::ChannelSource;
use super::history_rules::HistoryRules;
use crate::auth::access::AccessRules;
use crate::broker::{Topic, WhenUnavailable, broker_index};
use crate::metrics::NamespaceCounters;

/// Channels of other programs on the same Redis, and of the gateway itself. A glob never matches them: a namespace
/// must name such a channel exactly. docs/configuration.md also lists them.
pub const PROTECTED_CHANNELS: [&str; 10] = [
    // Redis itself: keyspace events, client-side caching, Sentinels.
    "__keyspace@*",
    "__keyevent@*",
    "__redis__:*",
    "__sentinel__:*",
    // Celery: commands to workers and their replies, events of workers and tasks.
    "*celery.pidbox",
    "*.celeryev*",
    "celeryev*",
    // RQ: commands to workers.
    "rq:pubsub:*",
    // Bull and BullMQ: internal channels.
    "bull:*",
    // The gateway: probes.
    "earshot:*",
];

/// The rules for the channels that match a namespace's patterns.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Exact names and globs.
    pub channels: Vec<ChannelPattern>,
    /// The indices of its brokers; not empty. Each channel is on one of them.
    pub brokers: Box<[usize]>,
    /// The permissions of clients.
    pub access: AccessRules,
    /// Where the publications of its channels come from.
    pub source: ChannelSource,
    /// The bounds of the history of its channels.
    pub history: HistoryRules,
    /// The behavior while the broker is unavailable.
    pub when_unavailable: WhenUnavailable,
    /// A new subscriber immediately receives the newest publication.
    pub replay_last: bool,
    /// The policy for slow clients; without one, a slow client is disconnected.
    pub backpressure: Option<Arc<BackpressurePolicy>>,
    /// Its counters.
    pub counters: Arc<NamespaceCounters>,
}

/// The rules of a channel: its namespace, and how the broker subscribes to the channel. A clone is cheap.
#[derive(Clone, Debug)]
pub struct ChannelRules {
    /// The namespace that the channel belongs to.
    pub namespace: Arc<Namespace>,
    /// The pattern that the broker subscribes to, if it does not subscribe to the name.
    broker_pattern: Option<Arc<str>>,
}

/// A channel with its rules. A name is resolved once, where it enters the gateway; from there on, the rules are passed
/// along with it.
#[derive(Clone, Debug)]
pub struct ResolvedChannel {
    /// The name.
    pub name: ChannelName,
    /// The rules.
    pub rules: ChannelRules,
}

impl ChannelRules {
    /// The topic that the broker subscribes to for the channel of this name.
    pub(super) fn topic(&self, name: &ChannelName) -> Topic {
        match &self.broker_pattern {
            Some(pattern) => Topic::Pattern(Arc::clone(pattern)),
            None if self.namespace.source.is_sharded() => Topic::Sharded(name.clone()),
            None => Topic::Channel(name.clone()),
        }
    }

    /// Whether the channel has a history.
    pub fn has_history(&self) -> bool {
        self.namespace.history.size > 0
    }
}

impl ResolvedChannel {
    /// The index of the broker of the channel.
    pub(super) fn broker(&self) -> usize {
        let brokers = &self.rules.namespace.brokers;
        brokers[broker_index(&self.name, brokers.len())]
    }

    /// The topic that the broker subscribes to for the channel.
    pub(super) fn topic(&self) -> Topic {
        self.rules.topic(&self.name)
    }
}

/// All namespaces, in order.
#[derive(Clone, Debug)]
pub struct Namespaces {
    namespaces: Vec<Arc<Namespace>>,
    protected: Vec<WildMatch>,
}

impl Namespaces {
    /// Creates the list, in the order in which namespaces are tried. Channels that begin with one of `own_prefixes`
    /// are protected like [`PROTECTED_CHANNELS`].
    pub fn new(namespaces: Vec<Namespace>, own_prefixes: &[String]) -> Self {
        let own = own_prefixes.iter().map(|prefix| WildMatch::new(&format!("{prefix}*")));
        Self {
            namespaces: namespaces.into_iter().map(Arc::new).collect(),
            protected: PROTECTED_CHANNELS.iter().map(|glob| WildMatch::new(glob)).chain(own).collect(),
        }
    }

    /// The name and the counters of each namespace.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &NamespaceCounters)> {
        self.namespaces.iter().map(|namespace| (namespace.name.as_str(), &*namespace.counters))
    }

    /// The channel with its rules; `None` when no namespace matches its name.
    pub fn resolve(&self, name: ChannelName) -> Option<ResolvedChannel> {
        #[cfg(test)]
        RESOLUTIONS.set(RESOLUTIONS.get() + 1);
        let (mut namespace, mut pattern) = self.find(&name, |_| true)?;
        if !pattern.is_exact() && self.protected.iter().any(|glob| glob.matches(name.as_str())) {
            (namespace, pattern) = self.find(&name, |pattern| pattern.is_exact())?;
        }
        let (namespace, broker_pattern) = (Arc::clone(namespace), pattern.broker_pattern.clone());
        Some(ResolvedChannel { name, rules: ChannelRules { namespace, broker_pattern } })
    }

    fn find(
        &self,
        channel: &ChannelName,
        counts: impl Fn(&ChannelPattern) -> bool,
    ) -> Option<(&Arc<Namespace>, &ChannelPattern)> {
        self.namespaces.iter().find_map(|namespace| {
            let matches = |pattern: &&ChannelPattern| counts(pattern) && pattern.matches(channel.as_str());
            Some((namespace, namespace.channels.iter().find(matches)?))
        })
    }
}

/// Whether a channel is one of [`PROTECTED_CHANNELS`].
pub fn is_protected(channel: &str) -> bool {
    PROTECTED_CHANNELS.iter().any(|glob| WildMatch::new(glob).matches(channel))
}

#[cfg(test)]
thread_local! {
    /// The number of names that [`Namespaces::resolve`] has resolved on this thread.
    pub(crate) static RESOLUTIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Fixtures for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::time::Duration;

    use super::*;
    use crate::auth::access::{Access, Grant};

    /// A channel that every client may subscribe to, without a history.
    pub(crate) fn open_channel(name: &str) -> ResolvedChannel {
        let namespace = Namespace {
            name: String::new(),
            channels: vec![ChannelPattern::parse("*").unwrap()],
            brokers: Box::new([0]),
            access: AccessRules { subscribe: Access::of(&[Grant::Anyone]), ..AccessRules::default() },
            source: ChannelSource::PubSub,
            history: HistoryRules { size: 0, ttl: Duration::ZERO, bytes: 0 },
            when_unavailable: WhenUnavailable::Reject,
            replay_last: false,
            backpressure: None,
            counters: Arc::default(),
        };
        Namespaces::new(vec![namespace], &[]).resolve(ChannelName::parse(name).unwrap()).unwrap()
    }
}
