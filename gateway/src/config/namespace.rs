//! `[[namespace]]`: a set of channels, their source and their permissions.
//!
//! Owns the settings of one namespace. Must never compare namespaces with each other: [`super::shadowing`] does.

use super::access;
use super::channel_pattern::channel_pattern;
use super::history::Replay;
use super::reader::diagnostics::Location;
use super::reader::keyword;
use super::reader::toml_writer::TomlWriter;
use super::reader::{Located, Section};
use super::redis::{DEFAULT_INSTANCE, MEMORY, RedisInstance, check_name};
use super::slow_consumer;
use super::source::Source;
use crate::auth::access::{Access, AccessRules, Grant};
use crate::broker::WhenUnavailable;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::channel_pattern::ChannelPattern;
use crate::node::history_rules::HistoryRules;
use earshot_redis_link::slot;

/// The name of the namespace for `EARSHOT_OPEN_CHANNELS`.
pub(super) const OPEN_CHANNELS: &str = "open-channels";

/// The error for a log without a Redis server.
const STREAM_WITHOUT_REDIS: &str = "source = \"stream\" requires a Redis server: set `redis` or REDIS_URL";

/// A set of channel patterns with common settings. The first namespace that matches a channel applies; a channel without
/// a namespace is rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceConfig {
    /// The name in logs, metrics and errors.
    pub name: String,
    /// Its channels.
    pub channels: Vec<ChannelPattern>,
    /// The name of its Redis instance; `None`: this process only.
    pub redis: Option<String>,
    /// The prefix of its keys in Redis.
    pub key_prefix: String,
    /// Its Redis is a cluster and `key_prefix` has no hash tag: the slot of a key depends on the channel.
    pub spread: bool,
    /// Its publishers use `SPUBLISH`: only the cluster node of the channel's slot carries the channel.
    pub sharded_pubsub: bool,
    /// The source of its publications.
    pub source: Source,
    /// The history of each channel.
    pub history: HistoryRules,
    /// The publications that a new subscriber receives first.
    pub replay: Replay,
    /// The permissions of clients.
    pub access: AccessRules,
    /// Whether globs are subscribed as patterns (`PSUBSCRIBE`) instead of the exact names that clients request.
    pub subscribe_pattern: bool,
    /// Behavior while the Redis instance is unavailable.
    pub when_redis_down: WhenUnavailable,
    /// The policy for slow consumers; `None`: they are disconnected.
    pub slow_consumer: Option<BackpressurePolicy>,
}

/// The name and patterns of a namespace with their locations, for [`super::shadowing`].
pub(super) struct NamespaceLocations<'d> {
    pub(super) name: Located<'d, String>,
    pub(super) channels: Vec<Located<'d, ChannelPattern>>,
}

impl<'d> NamespaceLocations<'d> {
    /// The namespace of `EARSHOT_OPEN_CHANNELS`.
    pub(super) fn open_channels(channels: Vec<Located<'d, ChannelPattern>>) -> Self {
        let location = Location::Variable(super::root::OPEN_CHANNELS);
        Self { name: Located { value: OPEN_CHANNELS.into(), location }, channels }
    }
}

impl NamespaceConfig {
    /// Development mode without a namespace in the file: every channel is open for subscribing and publishing.
    pub(super) fn development(redis: Option<String>) -> Self {
        // The pattern is valid. An empty list would reject every channel.
        let channels = ChannelPattern::parse("*").into_iter().collect();
        let access = AccessRules {
            subscribe: Access::of(&[Grant::Anyone]),
            publish: Access::of(&[Grant::Subscribers]),
            ..AccessRules::default()
        };
        Self { access, ..Self::named("default", channels, redis) }
    }

    /// No namespace in the file and no open channel: the gateway connects to Redis and rejects every channel.
    pub(super) fn closed(redis: Option<String>) -> Self {
        Self::named("default", Vec::new(), redis)
    }

    /// The channels of `EARSHOT_OPEN_CHANNELS`: open for subscribing, closed for publishing.
    pub(super) fn open_channels(channels: Vec<ChannelPattern>, redis: Option<String>) -> Self {
        let access = AccessRules { subscribe: Access::of(&[Grant::Anyone]), ..AccessRules::default() };
        Self { access, ..Self::named(OPEN_CHANNELS, channels, redis) }
    }

    /// A namespace with the defaults of the file.
    fn named(name: &str, channels: Vec<ChannelPattern>, redis: Option<String>) -> Self {
        Self {
            name: name.into(),
            channels,
            redis,
            key_prefix: String::new(),
            spread: false,
            sharded_pubsub: false,
            source: Source::PubSub,
            history: HistoryRules::default_for(Source::PubSub),
            replay: Replay::default(),
            access: AccessRules::default(),
            subscribe_pattern: false,
            when_redis_down: WhenUnavailable::Local,
            slow_consumer: None,
        }
    }

    pub(super) fn read<'d>(
        mut section: Section<'d>,
        instances: &[RedisInstance],
        placeholders: &[&str],
    ) -> (Self, NamespaceLocations<'d>) {
        let name = section.text("name", |text| check_name(text).map(|()| text.to_owned()));
        if name.is_none() && !section.has("name") {
            section.error(&section.location(), "missing `name`");
        }
        let channels = read_channels(&mut section, placeholders);
        let patterns: Vec<ChannelPattern> = channels.iter().map(|found| found.value.clone()).collect();
        let access = access::read(&mut section, &patterns);
        let source = section.text("source", Source::parse).map_or(Source::PubSub, |found| found.value);
        let history = HistoryRules::read(&mut section, source);
        let redis = read_redis(&mut section, instances, source);
        let cluster = is_cluster(redis.as_deref(), instances);
        let key_prefix = section.text("key_prefix", |text| key_prefix(text, cluster));
        let key_prefix = key_prefix.map(|found| found.value).unwrap_or_default();
        let sharded_pubsub = read_sharded_pubsub(&mut section, cluster, source, &key_prefix);
        let namespace = Self {
            name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
            channels: patterns,
            redis,
            spread: cluster && slot::hash_tag(&key_prefix).is_none(),
            sharded_pubsub,
            key_prefix,
            source,
            replay: Replay::read(&mut section, &history),
            history,
            access,
            subscribe_pattern: read_subscribe_pattern(&mut section, source, sharded_pubsub),
            when_redis_down: read_when_redis_down(&mut section, source),
            slow_consumer: slow_consumer::read(&mut section),
        };
        let name = name.unwrap_or(Located { value: String::new(), location: section.location() });
        section.finish();
        (namespace, NamespaceLocations { name, channels })
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        out.section("[[namespace]]");
        out.text("name", &self.name);
        out.texts("channels", self.channels.iter().map(|pattern| pattern.text.as_str()));
        out.text("redis", self.redis.as_deref().unwrap_or(MEMORY));
        out.text("key_prefix", &self.key_prefix);
        out.line("sharded_pubsub", &self.sharded_pubsub.to_string());
        out.text("source", self.source.as_str());
        out.inline("history", &self.history.entries());
        out.text("replay", self.replay.as_str());
        access::show(&self.access, out);
        out.line("subscribe_pattern", &self.subscribe_pattern.to_string());
        out.text("when_redis_down", when_down_as_str(self.when_redis_down));
        slow_consumer::show(self.slow_consumer.as_ref(), out);
    }
}

/// Reads the patterns; in them, the names in `placeholders` stand for values of a client's identity.
fn read_channels<'d>(section: &mut Section<'d>, placeholders: &[&str]) -> Vec<Located<'d, ChannelPattern>> {
    let channels = section.texts("channels", |text| channel_pattern(text, placeholders));
    if channels.is_none() {
        section.error(&section.location(), "missing `channels`, such as channels = [\"web-*\"]");
    } else if section.is_empty_list("channels") {
        section.error(&section.location_of_key("channels"), "empty list; for every channel use \"*\"");
    }
    channels.unwrap_or_default()
}

/// Reads the instance of a namespace. If the key is absent: the default instance, or memory if no instance is configured.
fn read_redis(section: &mut Section<'_>, instances: &[RedisInstance], source: Source) -> Option<String> {
    let known = |name: &str| instances.iter().any(|instance| instance.name == name);
    let choices = || {
        let names = instances.iter().map(|instance| instance.name.as_str()).chain([MEMORY]);
        names.map(|name| format!("\"{}\"", name.escape_debug())).collect::<Vec<_>>().join(", ")
    };
    let named = section.text("redis", |name| match name {
        MEMORY if source == Source::Stream => Err(STREAM_WITHOUT_REDIS.into()),
        MEMORY => Ok(None),
        name if known(name) => Ok(Some(name.to_owned())),
        name => Err(format!("no [redis.{}] is configured; use one of {}", name.escape_debug(), choices())),
    });
    if let Some(found) = named {
        return found.value;
    }
    if known(DEFAULT_INSTANCE) {
        return Some(DEFAULT_INSTANCE.into());
    }
    if section.has("redis") {
        return None;
    }
    if !instances.is_empty() {
        section.error(&section.location(), format!("missing `redis`; use one of {}", choices()));
    } else if source == Source::Stream {
        section.error(&section.location_of_key("source"), STREAM_WITHOUT_REDIS);
    }
    None
}

fn when_down_as_str(when: WhenUnavailable) -> &'static str {
    match when {
        WhenUnavailable::Local => "local",
        WhenUnavailable::Reject => "reject",
    }
}

fn read_subscribe_pattern(section: &mut Section<'_>, source: Source, sharded_pubsub: bool) -> bool {
    let by_pattern = section.flag("subscribe_pattern", false);
    if by_pattern && source == Source::Stream {
        let what = "requires source = \"pubsub\"";
        section.error(&section.location_of_key("subscribe_pattern"), what);
    } else if by_pattern && sharded_pubsub {
        section.error(
            &section.location_of_key("subscribe_pattern"),
            "cannot be combined with `sharded_pubsub`: sharded pub/sub has no patterns",
        );
    }
    by_pattern
}

/// Channels of a log cannot continue without Redis, which assigns their offsets.
fn read_when_redis_down(section: &mut Section<'_>, source: Source) -> WhenUnavailable {
    let choices = [WhenUnavailable::Local, WhenUnavailable::Reject];
    let found = keyword::read(section, "when_redis_down", &choices, when_down_as_str);
    let can_be_local = source == Source::PubSub;
    match found {
        Some(found) if found.value == WhenUnavailable::Local && !can_be_local => {
            section.error(
                &found.location,
                "requires source = \"pubsub\": the offsets of a log are assigned by Redis",
            );
            WhenUnavailable::Reject
        }
        Some(found) => found.value,
        None if can_be_local => WhenUnavailable::Local,
        None => WhenUnavailable::Reject,
    }
}

fn read_sharded_pubsub(section: &mut Section<'_>, cluster: bool, source: Source, key_prefix: &str) -> bool {
    let sharded_pubsub = section.flag("sharded_pubsub", false);
    if !sharded_pubsub {
        return false;
    }
    let location = section.location_of_key("sharded_pubsub");
    if !cluster {
        section.error(&location, "requires a cluster: the `redis` of this namespace has no `cluster`");
    } else if source == Source::Stream && slot::hash_tag(key_prefix).is_some() {
        let what = "conflicts with the hash tag in `key_prefix`, which keeps all logs in one slot: remove the hash tag";
        section.error(&location, what);
    }
    sharded_pubsub
}

fn is_cluster(name: Option<&str>, instances: &[RedisInstance]) -> bool {
    instances.iter().any(|instance| Some(instance.name.as_str()) == name && instance.servers.is_cluster())
}

fn key_prefix(text: &str, cluster: bool) -> Result<String, String> {
    if cluster && text.contains('{') && slot::hash_tag(text).is_none() {
        return Err("contains a `{` but no hash tag; a hash tag is written as in \"{express}:\"".into());
    }
    if text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err("expected at most 128 visible ASCII characters without spaces, such as \"express:\"".into())
}
