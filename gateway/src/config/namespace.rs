//! `[[namespace]]`: which channels there are, where they come from, and who may do what with them.
//!
//! Owns one namespace's rules. Must never compare namespaces with each other: that is [`super::reachable`].

use super::channel::ChannelPattern;
use super::choice;
use super::document::{Found, Section};
use super::errors::Place;
use super::history::{History, Replay};
use super::redis::{DEFAULT_INSTANCE, MEMORY, RedisInstance, check_name};
use super::show::Shown;
use super::slow_consumer::SlowConsumer;
use super::source::Source;
use crate::node::namespace::PROTECTED_CHANNELS;
use earshot_redis_link::slot;

/// The name of the namespace that `EARSHOT_OPEN_CHANNELS` makes.
pub(super) const OPEN_CHANNELS: &str = "open-channels";

/// What a namespace is told that wants a log without a Redis.
const NO_LOG: &str = "a log is kept in Redis: name a `redis` instance, or set REDIS_URL";

/// A pattern of channel names with its rules. The first namespace that matches a channel rules it; a channel without a
/// namespace is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// What logs, metrics and errors call it.
    pub name: String,
    /// Its channels.
    pub channels: Vec<ChannelPattern>,
    /// The name of its Redis instance; nothing: this process alone.
    pub redis: Option<String>,
    /// What stands before each key that is kept for it in Redis.
    pub key_prefix: String,
    /// Its Redis is a cluster and `key_prefix` holds no hash tag: the keys of each channel have a slot of their own.
    pub spread: bool,
    /// Its publishers say `SPUBLISH`: a cluster carries a channel where its slot is, and nowhere else.
    pub sharded_pubsub: bool,
    /// Where its publications come from.
    pub source: Source,
    /// What is kept of each channel.
    pub history: History,
    /// What a subscriber is given unasked.
    pub replay: Replay,
    /// Which clients may subscribe.
    pub subscribe: Who,
    /// Which clients may publish.
    pub publish: Who,
    /// Whether globs are subscribed as patterns (`PSUBSCRIBE`) in the place of the exact names that clients ask for.
    pub subscribe_pattern: bool,
    /// What is done while the Redis instance is away.
    pub when_redis_down: WhenRedisDown,
    /// What happens to slow consumers.
    pub slow_consumer: SlowConsumer,
}

/// Which clients may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// No client.
    Nobody,
    /// Clients that are subscribed to the channel.
    Subscribers,
    /// Every client.
    Anyone,
}

impl Who {
    /// As the file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Subscribers => "subscribers",
            Self::Anyone => "anyone",
        }
    }
}

/// What is done for a channel whose Redis instance is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRedisDown {
    /// The clients of this node may subscribe, and hear each other.
    Local,
    /// What Redis is needed for fails.
    Reject,
}

impl WhenRedisDown {
    /// As the file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Reject => "reject",
        }
    }
}

/// What [`super::reachable`] needs to know of the places in the file.
pub(super) struct Placed<'d> {
    pub(super) name: Found<'d, String>,
    pub(super) channels: Vec<Found<'d, ChannelPattern>>,
}

impl<'d> Placed<'d> {
    /// The namespace of `EARSHOT_OPEN_CHANNELS`.
    pub(super) fn open_channels(channels: Vec<Found<'d, ChannelPattern>>) -> Self {
        let place = Place::Variable(super::top::OPEN_CHANNELS);
        Self { name: Found { value: OPEN_CHANNELS.into(), place }, channels }
    }
}

impl Namespace {
    /// Development mode without a namespace in the file: every channel is open for subscribing and publishing.
    pub(super) fn development(redis: Option<String>) -> Self {
        // The pattern is valid. An empty list would refuse every channel.
        let channels = ChannelPattern::parse("*").into_iter().collect();
        Self { publish: Who::Subscribers, ..Self::named("default", channels, redis) }
    }

    /// No namespace in the file and no open channel: the Redis instance is connected and every channel is refused.
    pub(super) fn closed(redis: Option<String>) -> Self {
        Self::named("default", Vec::new(), redis)
    }

    /// The channels of `EARSHOT_OPEN_CHANNELS`: open for subscribing, closed for publishing.
    pub(super) fn open_channels(channels: Vec<ChannelPattern>, redis: Option<String>) -> Self {
        Self::named(OPEN_CHANNELS, channels, redis)
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
            history: Source::PubSub.history(),
            replay: Replay::default(),
            subscribe: Who::Anyone,
            publish: Who::Nobody,
            subscribe_pattern: false,
            when_redis_down: WhenRedisDown::Local,
            slow_consumer: SlowConsumer::default(),
        }
    }

    pub(super) fn read<'d>(mut section: Section<'d>, instances: &[RedisInstance]) -> (Self, Placed<'d>) {
        let name = section.text("name", |text| check_name(text).map(|()| text.to_owned()));
        if name.is_none() && !section.has("name") {
            section.refuse(&section.place(), "has no `name`");
        }
        let channels = read_channels(&mut section);
        let source = section.text("source", Source::parse).map_or(Source::PubSub, |found| found.value);
        let history = History::read(&mut section, source);
        let redis = read_redis(&mut section, instances, source);
        let cluster = is_cluster(redis.as_deref(), instances);
        let key_prefix = section.text("key_prefix", |text| key_prefix(text, cluster));
        let key_prefix = key_prefix.map(|found| found.value).unwrap_or_default();
        let sharded_pubsub = read_sharded_pubsub(&mut section, cluster, source, &key_prefix);
        let namespace = Self {
            name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
            channels: channels.iter().map(|found| found.value.clone()).collect(),
            redis,
            spread: cluster && slot::hash_tag(&key_prefix).is_none(),
            sharded_pubsub,
            key_prefix,
            source,
            replay: Replay::read(&mut section, &history),
            history,
            subscribe: read_who(&mut section, "subscribe", Who::Anyone, &[Who::Nobody, Who::Anyone]),
            publish: read_who(
                &mut section,
                "publish",
                Who::Nobody,
                &[Who::Nobody, Who::Subscribers, Who::Anyone],
            ),
            subscribe_pattern: read_subscribe_pattern(&mut section, source, sharded_pubsub),
            when_redis_down: read_when_redis_down(&mut section, source),
            slow_consumer: SlowConsumer::read(&mut section),
        };
        let name = name.unwrap_or(Found { value: String::new(), place: section.place() });
        section.finish();
        (namespace, Placed { name, channels })
    }

    pub(super) fn show(&self, out: &mut Shown) {
        out.section("[[namespace]]");
        out.text("name", &self.name);
        out.texts("channels", self.channels.iter().map(|pattern| pattern.text.as_str()));
        out.text("redis", self.redis.as_deref().unwrap_or(MEMORY));
        out.text("key_prefix", &self.key_prefix);
        out.line("sharded_pubsub", &self.sharded_pubsub.to_string());
        out.text("source", self.source.as_str());
        out.inline("history", &self.history.settings());
        out.text("replay", self.replay.as_str());
        out.text("subscribe", self.subscribe.as_str());
        out.text("publish", self.publish.as_str());
        out.line("subscribe_pattern", &self.subscribe_pattern.to_string());
        out.text("when_redis_down", self.when_redis_down.as_str());
        self.slow_consumer.show(out);
    }
}

/// Reads a pattern of channels; a glob that can match protected channels only is refused.
pub(super) fn channel_pattern(text: &str) -> Result<ChannelPattern, String> {
    let pattern = ChannelPattern::parse(text)?;
    let covers = |protected: &&&str| ChannelPattern::parse(protected).is_ok_and(|all| all.covers(&pattern));
    match PROTECTED_CHANNELS.iter().find(covers) {
        Some(protected) if !pattern.is_exact() => Err(format!(
            "`{pattern}` matches protected channels only (`{protected}`), which a namespace must name exactly"
        )),
        _ => Ok(pattern),
    }
}

fn read_channels<'d>(section: &mut Section<'d>) -> Vec<Found<'d, ChannelPattern>> {
    let channels = section.texts("channels", channel_pattern);
    if channels.is_none() {
        section.refuse(&section.place(), "has no `channels`, such as channels = [\"web-*\"]");
    } else if section.is_empty_list("channels") {
        section.refuse(&section.place_of_key("channels"), "no channel at all; every channel is \"*\"");
    }
    channels.unwrap_or_default()
}

/// The instance a namespace is on. Without a word about it: the default one, or memory where there is no Redis at all.
fn read_redis(section: &mut Section<'_>, instances: &[RedisInstance], source: Source) -> Option<String> {
    let known = |name: &str| instances.iter().any(|instance| instance.name == name);
    let choices = || {
        let names = instances.iter().map(|instance| instance.name.as_str()).chain([MEMORY]);
        names.map(|name| format!("\"{}\"", name.escape_debug())).collect::<Vec<_>>().join(", ")
    };
    let named = section.text("redis", |name| match name {
        MEMORY if source == Source::Stream => Err(NO_LOG.into()),
        MEMORY => Ok(None),
        name if known(name) => Ok(Some(name.to_owned())),
        name => Err(format!("there is no [redis.{}]; there is: {}", name.escape_debug(), choices())),
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
        section.refuse(&section.place(), format!("does not say which `redis` it is on: {}", choices()));
    } else if source == Source::Stream {
        section.refuse(&section.place_of_key("source"), NO_LOG);
    }
    None
}

fn read_who(section: &mut Section<'_>, key: &'static str, default: Who, choices: &[Who]) -> Who {
    choice::read(section, key, choices, Who::as_str).map_or(default, |found| found.value)
}

fn read_subscribe_pattern(section: &mut Section<'_>, source: Source, sharded_pubsub: bool) -> bool {
    let by_pattern = section.flag("subscribe_pattern", false);
    if by_pattern && source == Source::Stream {
        let what = "a log is read channel by channel: only with source = \"pubsub\"";
        section.refuse(&section.place_of_key("subscribe_pattern"), what);
    } else if by_pattern && sharded_pubsub {
        section.refuse(&section.place_of_key("subscribe_pattern"), "shard channels have no patterns");
    }
    by_pattern
}

/// Where Redis numbers, nothing goes on without it.
fn read_when_redis_down(section: &mut Section<'_>, source: Source) -> WhenRedisDown {
    let choices = [WhenRedisDown::Local, WhenRedisDown::Reject];
    let found = choice::read(section, "when_redis_down", &choices, WhenRedisDown::as_str);
    let can_be_local = source == Source::PubSub;
    match found {
        Some(found) if found.value == WhenRedisDown::Local && !can_be_local => {
            section.refuse(&found.place, "only with source = \"pubsub\": a log is numbered in Redis");
            WhenRedisDown::Reject
        }
        Some(found) => found.value,
        None if can_be_local => WhenRedisDown::Local,
        None => WhenRedisDown::Reject,
    }
}

fn read_sharded_pubsub(section: &mut Section<'_>, cluster: bool, source: Source, key_prefix: &str) -> bool {
    let sharded_pubsub = section.flag("sharded_pubsub", false);
    if !sharded_pubsub {
        return false;
    }
    let place = section.place_of_key("sharded_pubsub");
    if !cluster {
        section.refuse(&place, "requires a cluster: the `redis` of this namespace has no `cluster`");
    } else if source == Source::Stream && slot::hash_tag(key_prefix).is_some() {
        let what =
            "the hash tag in `key_prefix` keeps all logs in one slot, away from their channels: leave it out";
        section.refuse(&place, what);
    }
    sharded_pubsub
}

fn is_cluster(name: Option<&str>, instances: &[RedisInstance]) -> bool {
    instances.iter().any(|instance| Some(instance.name.as_str()) == name && instance.servers.is_cluster())
}

fn key_prefix(text: &str, cluster: bool) -> Result<String, String> {
    if cluster && text.contains('{') && slot::hash_tag(text).is_none() {
        return Err(
            "a `{` without a hash tag, such as \"{express}:\"; without any, each channel is its own".into()
        );
    }
    if text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err("a prefix of keys has at most 128 visible ASCII characters, no spaces, such as \"express:\"".into())
}
