//! `[redis.NAME]`: the Redis instances.
//!
//! Owns the settings of an instance. Must never connect to it.
//!
//! - `url_sources`: URLs from the file and the environment; `sentinel`: Sentinels instead of a URL
//! - `auth`: user, password file, TLS
//! - `servers`: several servers as one instance

use std::time::Duration;

use earshot_protocol::ChannelName;

use super::environment::Environment;
use super::reader::setting::settings;
use super::reader::toml_writer::TomlWriter;
use super::reader::{Document, Section};
use super::redis_url::RedisUrl;
use earshot_redis_link::{ConnectConfig, SentinelConfig, TlsConfig};

mod auth;
mod sentinel;
mod servers;
mod url_sources;

pub use auth::RedisAuth;
pub use servers::Servers;

/// The instance that `REDIS_URL` configures.
pub(super) const DEFAULT_INSTANCE: &str = "default";

/// The default prefix of probe channels.
const DEFAULT_PROBE_PREFIX: &str = "earshot:probe:";

/// The value of `redis` in a namespace without Redis; reserved, so no instance has this name.
pub(super) const MEMORY: &str = "memory";

/// One Redis instance.
#[derive(Clone, Debug)]
pub struct RedisInstance {
    /// The name in namespaces, logs and metrics.
    pub name: String,
    /// The server for commands, and for pub/sub unless `pubsub_url` is set.
    pub url: RedisUrl,
    /// The server for pub/sub, if it is a different one.
    pub pubsub_url: Option<RedisUrl>,
    /// User and password, if the URL has none.
    pub auth: RedisAuth,
    /// TLS settings; the URL determines whether TLS is used.
    pub tls: TlsConfig,
    /// Sentinels that know the address of the server. The host in `url` is then the name of the primary.
    pub sentinel: Option<SentinelConfig>,
    /// Its servers.
    pub servers: Servers,
    /// Its timeouts and intervals.
    pub times: RedisTimes,
    /// The prefix of probe channels.
    pub probe_prefix: String,
    /// Whether `/ready` depends on this instance.
    pub affects_readiness: bool,
}

settings! {
    /// Timeouts and intervals of the links to one Redis instance.
    pub struct RedisTimes {
        /// Maximum time for one connection attempt: name resolution, TCP, TLS, authentication.
        connect_timeout: Duration as DurationKind = Duration::from_secs(10), in Duration::from_millis(50), Duration::from_secs(300);
        /// Maximum time for one command.
        command_timeout: Duration as DurationKind = Duration::from_secs(5), in Duration::from_millis(50), Duration::from_secs(300);
        /// Upper bound of the delay before the second connection attempt; it doubles with each attempt, and each delay is
        /// random below it.
        retry_min: Duration as DurationKind = Duration::from_millis(50), in Duration::from_millis(1), Duration::from_secs(60);
        /// Maximum delay between two connection attempts.
        retry_max: Duration as DurationKind = Duration::from_secs(2), in Duration::from_millis(10), Duration::from_secs(300);
        /// How often each link is pinged; an unanswered ping makes it reconnect.
        ping_interval: Duration as DurationKind = Duration::from_secs(1), in Duration::from_millis(100), Duration::from_secs(300);
        /// How often the subscriber link is probed; `None`: never.
        probe_interval: Option<Duration> as OptionalDurationKind = Some(Duration::from_secs(1)), in Duration::from_millis(100), Duration::from_secs(300);
        /// How often the gateway checks whether a connected server is still the primary, and queries each Sentinel.
        primary_check_interval: Duration as DurationKind = Duration::from_secs(5), in Duration::from_millis(100), Duration::from_secs(300);
    }
}

impl RedisTimes {
    fn read(section: &mut Section<'_>) -> Self {
        let mut times = Self::read_settings(section, Self::default());
        if times.retry_min > times.retry_max {
            // A default adapts; a conflict in the file is an error.
            if section.has("retry_min") && section.has("retry_max") {
                section.error(&section.location_of_key("retry_min"), "must not be greater than `retry_max`");
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
    /// Reads all instances. The environment modifies the instance `default`, or adds it.
    pub(super) fn read_all(document: &Document<'_>, top: &mut Section<'_>, env: &Environment) -> Vec<Self> {
        let mut instances: Vec<Self> =
            top.named("redis").into_iter().map(|(name, section)| Self::read(name, section, env)).collect();
        if instances.iter().any(|instance| instance.name == DEFAULT_INSTANCE) {
            return instances;
        }
        if env.names_redis() {
            let section = document.empty_section(&format!("redis.{DEFAULT_INSTANCE}"), "redis.NAME");
            instances.push(Self::read(DEFAULT_INSTANCE, section, env));
        } else {
            url_sources::reject_without_instance(document, env);
        }
        instances
    }

    fn read(name: &str, mut section: Section<'_>, env: &Environment) -> Self {
        if let Err(what) = check_name(name) {
            section.error(&section.location(), what);
        } else if name == MEMORY {
            section.error(&section.location(), "`memory` is reserved: choose another name");
        }
        let env = (name == DEFAULT_INSTANCE).then_some(env);
        let (sentinel, primary) = sentinel::read(&mut section).unzip();
        let servers = servers::MultiServer::read(&mut section);
        let mut urls = url_sources::UrlSources::read(&mut section, env, primary, &servers.urls);
        servers.check(&section, &urls, env);
        let tls = auth::read_tls(&mut section, env, &mut urls);
        auth::reject_unused(&section, &mut urls, sentinel.as_ref());
        let auth = RedisAuth::read(&mut section, &mut urls);
        let times = RedisTimes::read(&mut section);
        let probe_prefix = section.text("probe_prefix", probe_prefix).map(|found| found.value);
        let probe_prefix = probe_prefix.unwrap_or_else(|| DEFAULT_PROBE_PREFIX.into());
        let affects_readiness = section.flag("affects_readiness", true);
        section.finish();
        let servers = servers.servers(&urls.sharded);
        let pubsub_url = urls.pubsub.map(|found| found.value);
        Self {
            name: name.into(),
            url: urls.url.value,
            pubsub_url,
            auth,
            tls,
            sentinel,
            servers,
            times,
            probe_prefix,
            affects_readiness,
        }
    }

    /// The connection settings of one of its servers; `name` is used in logs.
    pub fn settings(&self, name: String, url: &RedisUrl) -> ConnectConfig {
        ConnectConfig {
            name,
            url: url.expose().to_owned(),
            cluster: match &self.servers {
                Servers::Cluster(seeds) => Some(seeds.clone()),
                Servers::One | Servers::ClientSharded(_) => None,
            },
            connect_timeout: self.times.connect_timeout,
            command_timeout: self.times.command_timeout,
            retry_min: self.times.retry_min,
            retry_max: self.times.retry_max,
            username: self.auth.username.clone(),
            password_file: self.auth.password_file.clone(),
            tls: self.tls.clone(),
            sentinel: self.sentinel.clone(),
            primary_check_interval: self.times.primary_check_interval,
            ..ConnectConfig::default()
        }
    }

    /// A warning about settings that are valid but unsafe.
    pub(super) fn warnings(&self) -> Option<String> {
        self.tls.insecure_skip_verify.then(|| {
            format!(
                "redis `{}`: certificates are not verified (insecure_skip_verify): an attacker on the network can read \
                 and modify all data, including the password",
                self.name
            )
        })
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        out.section(&format!("[redis.{}]", self.name));
        match &self.sentinel {
            Some(sentinel) => sentinel::show(sentinel, &self.url, out),
            None => self.servers.show(out, &self.url),
        }
        if let Some(url) = &self.pubsub_url {
            out.text("pubsub_url", &url.to_string());
        }
        self.auth.show(out);
        auth::show_tls(&self.tls, &self.url, out);
        out.lines(&self.times.entries());
        out.text("probe_prefix", &self.probe_prefix);
        out.line("affects_readiness", &self.affects_readiness.to_string());
    }
}

/// Parses a prefix of probe channels, which leaves room for a suffix.
fn probe_prefix(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 200;
    match ChannelName::parse(text) {
        Ok(_) if text.len() <= LENGTH_MAX => Ok(text.to_owned()),
        Ok(_) => Err(format!("expected at most {LENGTH_MAX} bytes")),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks the name of an instance or a namespace, which is used in logs, metrics and section headers.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(well_formed) {
        return Ok(());
    }
    Err("expected a name of 1 to 64 characters: letters (a-z, A-Z), digits, `-` and `_`".into())
}
