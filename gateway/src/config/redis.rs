//! `[redis.NAME]`: the Redis instances.
//!
//! Owns what is known of an instance before it is dialled. Must never dial it.
//!
//! - `place`: the URLs of the file and of the environment; `sentinel`: who is asked in their place
//! - `security`: user, password file, TLS

use std::time::Duration;

use earshot_protocol::ChannelName;

use super::document::{Document, Section};
use super::environment::Environment;
use super::knob::knobs;
use super::show::Shown;
use super::url::RedisUrl;
use earshot_redis_link::{ConnectConfig, SentinelConfig, TlsConfig};

mod place;
mod security;
mod sentinel;
mod servers;

pub use security::RedisSignIn;
pub use servers::Servers;

/// The instance that `REDIS_URL` names.
pub(super) const DEFAULT_INSTANCE: &str = "default";

/// What channels of probes begin with, where the file says nothing else.
const PROBE_PREFIX: &str = "earshot:probe:";

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
    /// User and password, where the URL has none.
    pub sign_in: RedisSignIn,
    /// What TLS needs beside the URL, which says whether there is TLS.
    pub tls: TlsConfig,
    /// Who knows the server's address. Then the host in `url` is the primary's name.
    pub sentinel: Option<SentinelConfig>,
    /// What it is made of.
    pub servers: Servers,
    /// Its times.
    pub times: RedisTimes,
    /// What the names of the channels begin with by which hearing is proven.
    pub probe_prefix: String,
    /// Whether the gateway is ready only while this instance is heard.
    pub affects_readiness: bool,
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
        /// How often a link for subscriptions proves that it hears; nothing: never.
        probe_interval: Option<Duration> as OptionalSpan = Some(Duration::from_secs(1)), in Duration::from_millis(100), Duration::from_secs(300);
        /// How often a connected server is asked whether it is still the primary, and each Sentinel which one is.
        primary_check_interval: Duration as Span = Duration::from_secs(5), in Duration::from_millis(100), Duration::from_secs(300);
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
        if env.names_redis() {
            let section = document.nothing(&format!("redis.{DEFAULT_INSTANCE}"), "redis.NAME");
            instances.push(Self::read(DEFAULT_INSTANCE, section, env));
        } else {
            place::refuse_orphans(document, env);
        }
        instances
    }

    fn read(name: &str, mut section: Section<'_>, env: &Environment) -> Self {
        if let Err(what) = check_name(name) {
            section.refuse(&section.place(), what);
        } else if name == MEMORY {
            section.refuse(&section.place(), "`memory` means no Redis at all: choose another name");
        }
        let env = (name == DEFAULT_INSTANCE).then_some(env);
        let (sentinel, primary) = sentinel::read(&mut section).unzip();
        let several = servers::Several::read(&mut section);
        let mut urls = place::Urls::read(&mut section, env, primary, &several.urls);
        several.check(&section, &urls, env);
        let tls = security::read_tls(&mut section, env, &mut urls);
        security::refuse_unused(&section, &mut urls, sentinel.as_ref());
        let sign_in = RedisSignIn::read(&mut section, &mut urls);
        let times = RedisTimes::read(&mut section);
        let probe_prefix = section.text("probe_prefix", probe_prefix).map(|found| found.value);
        let probe_prefix = probe_prefix.unwrap_or_else(|| PROBE_PREFIX.into());
        let affects_readiness = section.flag("affects_readiness", true);
        section.finish();
        let servers = several.servers(&urls.spread);
        let pubsub_url = urls.pubsub.map(|found| found.value);
        Self {
            name: name.into(),
            url: urls.url.value,
            pubsub_url,
            sign_in,
            tls,
            sentinel,
            servers,
            times,
            probe_prefix,
            affects_readiness,
        }
    }

    /// How one of its servers is dialled, by the name that logs are to call it.
    pub fn settings(&self, name: String, url: &RedisUrl) -> ConnectConfig {
        ConnectConfig {
            name,
            url: url.expose().to_owned(),
            cluster: match &self.servers {
                Servers::Cluster(seeds) => Some(seeds.clone()),
                Servers::One | Servers::Spread(_) => None,
            },
            connect_timeout: self.times.connect_timeout,
            command_timeout: self.times.command_timeout,
            retry_min: self.times.retry_min,
            retry_max: self.times.retry_max,
            username: self.sign_in.username.clone(),
            password_file: self.sign_in.password_file.clone(),
            tls: self.tls.clone(),
            sentinel: self.sentinel.clone(),
            primary_check_interval: self.times.primary_check_interval,
            ..ConnectConfig::default()
        }
    }

    /// What is no error, but is hardly meant.
    pub(super) fn warnings(&self) -> Option<String> {
        self.tls.insecure_skip_verify.then(|| {
            format!(
                "redis `{}`: no certificate is verified (insecure_skip_verify): whoever is on the way to it can read \
                 and change everything, the password included",
                self.name
            )
        })
    }

    pub(super) fn show(&self, out: &mut Shown) {
        out.section(&format!("[redis.{}]", self.name));
        match &self.sentinel {
            Some(sentinel) => sentinel::show(sentinel, &self.url, out),
            None => self.servers.show(out, &self.url),
        }
        if let Some(url) = &self.pubsub_url {
            out.text("pubsub_url", &url.to_string());
        }
        self.sign_in.show(out);
        security::show_tls(&self.tls, &self.url, out);
        out.lines(&self.times.settings());
        out.text("probe_prefix", &self.probe_prefix);
        out.line("affects_readiness", &self.affects_readiness.to_string());
    }
}

/// The beginning of a channel's name, with room behind it for what makes it one of its kind.
fn probe_prefix(text: &str) -> Result<String, String> {
    const LONGEST: usize = 200;
    match ChannelName::parse(text) {
        Ok(_) if text.len() <= LONGEST => Ok(text.to_owned()),
        Ok(_) => Err(format!("a prefix of channels has at most {LONGEST} bytes")),
        Err(error) => Err(error.to_string()),
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
