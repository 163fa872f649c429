//! Namespaces: which rules a channel's name falls under.
//!
//! Owns the order in which patterns are tried: the first match wins. Must never know how a rule is carried out.

use std::sync::Arc;

use earshot_protocol::ChannelName;
use wildmatch::WildMatch;

use super::backpressure_policy::BackpressurePolicy;
use super::history::HistoryRules;
use crate::broker::WhenUnavailable;
use crate::broker::log::LogConfig;
use earshot_redis_link::slot::slot;

/// Channels of other programs on the same Redis, and of the gateway itself. A glob never takes them: a namespace must
/// name such a channel exactly. The list of docs/configuration.md is this one.
pub const PROTECTED_CHANNELS: [&str; 10] = [
    // Redis itself: keyspace events, client-side caching, Sentinels.
    "__keyspace@*",
    "__keyevent@*",
    "__redis__:*",
    "__sentinel__:*",
    // Celery: commands to workers and their answers, events of workers and tasks.
    "*celery.pidbox",
    "*.celeryev*",
    "celeryev*",
    // Commands to workers of RQ.
    "rq:pubsub:*",
    // What Bull and BullMQ call their own.
    "bull:*",
    // The gateway's own: probes.
    "earshot:*",
];

/// Access may do a thing with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every client.
    Anyone,
    /// Clients that are subscribed to the channel.
    Subscribers,
    /// No client; backends only.
    Nobody,
}

/// The rules for the channels that match a namespace's patterns.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name, for logs.
    pub name: String,
    /// Exact names and globs.
    pub channels: Vec<ChannelPattern>,
    /// The places of its brokers in the node's list; never empty. Each channel is on one of them.
    pub brokers: Box<[usize]>,
    /// Access may subscribe.
    pub subscribe: Access,
    /// Access may publish from a client.
    pub publish: Access,
    /// Its channels are carried where their slots are, and nowhere else.
    pub sharded: bool,
    /// How much its channels remember.
    pub history: HistoryRules,
    /// The log that the sequences of its channels are; without one, each node numbers what it hears.
    pub log: Option<Arc<LogConfig>>,
    /// What is done while the broker is away.
    pub when_unavailable: WhenUnavailable,
    /// Whoever subscribes gets the newest publication at once.
    pub replay_last: bool,
    /// What gives way when a client is slow; without a rule, the client does.
    pub backpressure: Option<Arc<BackpressurePolicy>>,
}

impl Namespace {
    /// The place of the broker that carries a channel: of several, the one that its slot says, as its publishers
    /// count it, too.
    pub fn broker(&self, channel: &ChannelName) -> usize {
        match &*self.brokers {
            [only] => *only,
            brokers => brokers[usize::from(slot(channel.as_str())) % brokers.len()],
        }
    }
}

/// A channel's name, or a glob over names: `*` is any run of characters, `?` is any one.
#[derive(Clone, Debug)]
pub struct ChannelPattern {
    /// The pattern by which the channel is matched.
    pub glob: WildMatch,
    /// It names one channel.
    pub is_exact: bool,
    /// The pattern in Redis' syntax, when the broker shall hear the pattern and not exact names.
    pub broker_pattern: Option<Arc<str>>,
}

/// All namespaces, in their order.
#[derive(Clone, Debug)]
pub struct Namespaces {
    namespaces: Vec<Namespace>,
    protected: Vec<WildMatch>,
}

impl Namespaces {
    /// Namespaces in the order in which they are tried. The channels that begin with one of `own_prefixes` are
    /// protected like those of [`PROTECTED_CHANNELS`].
    pub fn new(namespaces: Vec<Namespace>, own_prefixes: &[String]) -> Self {
        let own = own_prefixes.iter().map(|prefix| WildMatch::new(&format!("{prefix}*")));
        Self {
            namespaces,
            protected: PROTECTED_CHANNELS.iter().map(|glob| WildMatch::new(glob)).chain(own).collect(),
        }
    }

    /// The rules for a channel, and the pattern it matched; `None` when no namespace has it.
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
