//! `[redis.NAME]`: the Redis instances.
//!
//! Owns what is known of an instance before it is dialled. Must never dial it.

use std::time::Duration;

use super::document::{Document, Section};
use super::environment::Environment;
use super::errors::Place;
use super::knob::knobs;
use super::servers::Servers;
use super::show::Shown;
use super::url::RedisUrl;

/// The instance that `REDIS_URL` names.
pub(super) const DEFAULT_INSTANCE: &str = "default";

/// What a namespace says that wants no Redis; no instance may be called so.
pub(super) const MEMORY: &str = "memory";

/// One Redis instance.
#[derive(Clone, Debug)]
pub struct RedisInstance {
    /// What namespaces, logs and metrics call it.
    pub name: String,
    /// Where commands go, and where subscriptions are unless `pubsub_url` says otherwise.
    pub url: RedisUrl,
    /// Where subscriptions are, when that is another server.
    pub pubsub_url: Option<RedisUrl>,
    /// What it is made of.
    pub servers: Servers,
    /// Its times.
    pub times: RedisTimes,
}

knobs! {
    /// The times of the links to one Redis instance.
    pub struct RedisTimes {
        /// How long one attempt to connect may take: name, TCP, TLS, password.
        connect_timeout: Duration as Span = Duration::from_secs(10), in Duration::from_millis(50), Duration::from_secs(300);
        /// How long one command may take.
        command_timeout: Duration as Span = Duration::from_secs(5), in Duration::from_millis(50), Duration::from_secs(300);
        /// The longest wait before the second attempt to connect; it doubles from there, each wait is random below it.
        retry_min: Duration as Span = Duration::from_millis(50), in Duration::from_millis(1), Duration::from_secs(60);
        /// The longest wait between two attempts to connect.
        retry_max: Duration as Span = Duration::from_secs(2), in Duration::from_millis(10), Duration::from_secs(300);
        /// How often each link is pinged; an unanswered ping has it dialled anew.
        ping_interval: Duration as Span = Duration::from_secs(1), in Duration::from_millis(100), Duration::from_secs(300);
    }
}

impl RedisTimes {
    fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_knobs(section, Self::default());
        if times.retry_min > times.retry_max {
            // A default gives way, a contradiction in the file does not.
            if section.has("retry_min") && section.has("retry_max") {
                section.refuse(&section.place_of_key("retry_min"), "more than `retry_max`");
            } else if section.has("retry_min") {
                times.retry_max = times.retry_min;
            } else {
                times.retry_min = times.retry_max;
            }
        }
        times
    }
}

impl RedisInstance {
    /// Reads every instance; the environment adds to the one called `default`, or makes it.
    pub(super) fn read_all(document: &Document<'_>, top: &mut Section<'_>, env: &Environment) -> Vec<Self> {
        let mut instances: Vec<Self> =
            top.named("redis").into_iter().map(|(name, section)| Self::read(name, section, env)).collect();
        if instances.iter().any(|instance| instance.name == DEFAULT_INSTANCE) {
            return instances;
        }
        if let Some(url) = env.redis_url.clone() {
            let (name, pubsub_url) = (DEFAULT_INSTANCE.into(), env.redis_pubsub_url.clone());
            let (servers, times) = (Servers::default(), RedisTimes::default());
            instances.push(Self { name, url, pubsub_url, servers, times });
        } else if env.redis_pubsub_url.is_some() {
            let what =
                "there is no instance it could belong to: set REDIS_URL, too, or write [redis.default]";
            document.refuse(&Place::Variable("REDIS_PUBSUB_URL"), what);
        }
        instances
    }

    fn read(name: &str, mut section: Section<'_>, env: &Environment) -> Self {
        if let Err(what) = check_name(name) {
            section.refuse(&section.place(), what);
        } else if name == MEMORY {
            section.refuse(&section.place(), "`memory` means no Redis at all: choose another name");
        }
        let from_env = |url: &Option<RedisUrl>| url.clone().filter(|_| name == DEFAULT_INSTANCE);
        let (own_url, own_pubsub) =
            (section.text("url", RedisUrl::parse), section.text("pubsub_url", RedisUrl::parse));
        let servers = Servers::read(&mut section);
        let url = from_env(&env.redis_url).or(own_url.map(|found| found.value)).or_else(|| servers.first());
        if let Some(url) = &url {
            servers.check(&section, url, env);
        } else if !section.has("url") && !section.has("urls") {
            section.refuse(&section.place(), "has no `url`, such as url = \"redis://127.0.0.1:6379/0\"");
        }
        let instance = Self {
            name: name.into(),
            // Whatever stands here when the file's own URL is bad or missing is never used: the load fails.
            url: url.unwrap_or_else(RedisUrl::local),
            pubsub_url: from_env(&env.redis_pubsub_url).or(own_pubsub.map(|found| found.value)),
            servers,
            times: RedisTimes::read(&mut section),
        };
        section.finish();
        instance
    }

    pub(super) fn show(&self, out: &mut Shown) {
        out.section(&format!("[redis.{}]", self.name));
        self.servers.show(out, &self.url);
        if let Some(url) = &self.pubsub_url {
            out.text("pubsub_url", &url.to_string());
        }
        out.lines(&self.times.settings());
    }
}

/// Names of instances and namespaces: they stand in logs, metrics and section heads.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(well_formed) {
        return Ok(());
    }
    Err("a name has 1 to 64 letters (a-z, A-Z), digits, `-` and `_`".into())
}
