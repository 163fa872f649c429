//! Namespaces: the rules of a channel, by its name.
//!
//! Owns the order in which patterns are tried: the first match wins. Must never know how a rule is applied.

use std::sync::Arc;

use earshot_protocol::ChannelName;
use wildmatch::WildMatch;

use super::backpressure_policy::BackpressurePolicy;
use super::history::HistoryRules;
pub use crate::auth::Access;
use crate::broker::log::LogConfig;
use crate::broker::{WhenUnavailable, broker_index};
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
    /// Which clients may subscribe.
    pub subscribe: Access,
    /// Which clients may publish.
    pub publish: Access,
    /// Its channels use sharded pub/sub.
    pub sharded: bool,
    /// The bounds of the history of its channels.
    pub history: HistoryRules,
    /// The log of its channels; without one, each node assigns positions itself.
    pub log: Option<Arc<LogConfig>>,
    /// What happens while the broker is unavailable.
    pub when_unavailable: WhenUnavailable,
    /// A new subscriber immediately receives the newest publication.
    pub replay_last: bool,
    /// What is dropped for a slow client; without a policy, the client is disconnected.
    pub backpressure: Option<Arc<BackpressurePolicy>>,
    /// Its counters.
    pub counters: Arc<NamespaceCounters>,
}

impl Namespace {
    /// The index of the broker of a channel.
    pub fn broker(&self, channel: &ChannelName) -> usize {
        self.brokers[broker_index(channel, self.brokers.len())]
    }
}

/// A channel's name, or a glob: `*` matches any characters, `?` matches one.
#[derive(Clone, Debug)]
pub struct ChannelPattern {
    /// The pattern.
    pub glob: WildMatch,
    /// Whether the pattern is an exact name.
    pub is_exact: bool,
    /// The pattern in the syntax of the broker, if the broker subscribes to the pattern and not to names.
    pub broker_pattern: Option<Arc<str>>,
}

/// All namespaces, in order.
#[derive(Clone, Debug)]
pub struct Namespaces {
    namespaces: Vec<Namespace>,
    protected: Vec<WildMatch>,
}

impl Namespaces {
    /// Creates the list, in the order in which namespaces are tried. Channels that begin with one of `own_prefixes`
    /// are protected like [`PROTECTED_CHANNELS`].
    pub fn new(namespaces: Vec<Namespace>, own_prefixes: &[String]) -> Self {
        let own = own_prefixes.iter().map(|prefix| WildMatch::new(&format!("{prefix}*")));
        Self {
            namespaces,
            protected: PROTECTED_CHANNELS.iter().map(|glob| WildMatch::new(glob)).chain(own).collect(),
        }
    }

    /// The name and the counters of each namespace.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &NamespaceCounters)> {
        self.namespaces.iter().map(|namespace| (namespace.name.as_str(), &*namespace.counters))
    }

    /// The rules of a channel, and the pattern that matches it; `None` when no namespace matches.
    pub fn resolve(&self, channel: &ChannelName) -> Option<(&Namespace, &ChannelPattern)> {
        let (namespace, pattern) = self.find(channel, |_| true)?;
        if !pattern.is_exact && self.protected.iter().any(|glob| glob.matches(channel.as_str())) {
            return self.find(channel, |pattern| pattern.is_exact);
        }
        Some((namespace, pattern))
    }

    fn find(
        &self,
        channel: &ChannelName,
        counts: impl Fn(&ChannelPattern) -> bool,
    ) -> Option<(&Namespace, &ChannelPattern)> {
        self.namespaces.iter().find_map(|namespace| {
            let matches =
                |pattern: &&ChannelPattern| counts(pattern) && pattern.glob.matches(channel.as_str());
            Some((namespace, namespace.channels.iter().find(matches)?))
        })
    }
}

/// Whether a channel is one of [`PROTECTED_CHANNELS`].
pub fn is_protected(channel: &str) -> bool {
    PROTECTED_CHANNELS.iter().any(|glob| WildMatch::new(glob).matches(channel))
}
