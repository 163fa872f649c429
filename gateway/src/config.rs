//! The configuration: file, environment and flags become one checked [`Config`], once, at the edge.
//!
//! Owns every default, every range and every name that an operator can write. Must never be imported by what it
//! configures: inner modules declare their own settings, and the composition root fills them in from here.
//!
//! What counts, from the least to the most: defaults, `earshot.toml`, environment, flags. All that is wrong is said at
//! once, with file, line and key ([`ConfigErrors`]).
//!
//! - `document`: the file as a tree with lines; `knob`: numbers with default and range; `quantity`: units; `choice`:
//!   words
//! - `top`, `limits`, `transport`, `running`, `redis`, `namespace`: one section of the file each
//! - `source`, `history`: parts of a namespace
//! - `listen`, `channel`, `url`, `secret`: the checked values
//! - `reachable`: what namespaces must not be to each other
//! - `show`: the way back to TOML

use std::fmt;
use std::path::{Path, PathBuf};

mod channel;
mod choice;
mod document;
mod environment;
mod errors;
mod file;
mod history;
mod knob;
mod limits;
mod listen;
mod namespace;
mod nearest;
mod quantity;
mod reachable;
mod redis;
mod running;
mod secret;
mod servers;
mod show;
mod slow_consumer;
mod source;
mod top;
mod transport;
mod url;

#[cfg(test)]
mod tests;

pub use self::redis::{RedisInstance, RedisSignIn, RedisTimes, Servers};
pub use channel::ChannelPattern;
pub use errors::ConfigErrors;
pub use history::{History, Replay};
pub use limits::Limits;
pub use listen::Listen;
pub use namespace::{Namespace, WhenRedisDown, Who};
pub use quantity::{duration, size};
pub use running::{DrainConfig, GatewayConfig};
pub use secret::Secret;
pub use slow_consumer::{SlowConsumer, SlowConsumerPolicy, TerminalStates};
pub use source::Source;
pub use transport::{Http, Sse, WebSocket};
pub use url::RedisUrl;

use self::redis::DEFAULT_INSTANCE;
use document::{Document, Section};
use environment::Environment;
use errors::{Place, Problems};
use listen::Resolve;
use namespace::Placed;

/// Everything that can be set, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; never empty.
    pub listen: Vec<Listen>,
    /// Started with `--dev`: on loopback only, every channel open unless the file has namespaces, the API without a
    /// key, pages of any local origin allowed.
    pub development: bool,
    /// Which browsers may come besides those of the gateway's own host; `*`: all.
    pub allowed_origins: Vec<String>,
    /// The hosts that requests may name besides local ones, on every listener; empty: the hosts of
    /// `allowed_origins`, on loopback listeners only.
    pub allowed_hosts: Vec<String>,
    /// What the log shows, as a filter.
    pub log: String,
    /// The key of the HTTP API; without one, the API answers in development mode only.
    pub api_key: Option<Secret>,
    /// How the process runs.
    pub gateway: GatewayConfig,
    /// How much of everything.
    pub limits: Limits,
    /// The times of WebSocket connections.
    pub websocket: WebSocket,
    /// The times of SSE streams.
    pub sse: Sse,
    /// The times of connections that carry requests.
    pub http: Http,
    /// How the process stops.
    pub drain: DrainConfig,
    /// The Redis instances that some namespace is on.
    pub redis: Vec<RedisInstance>,
    /// Instances that no namespace is on: the gateway does not dial them, but tools may be told to.
    pub unused_redis: Vec<RedisInstance>,
    /// The namespaces, in order: the first that matches a channel rules it.
    pub namespaces: Vec<Namespace>,
    /// Where all this comes from.
    pub origin: Origin,
    /// What is no error, but is hardly meant.
    pub warnings: Vec<String>,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Vec<String>,
    /// `--dev`.
    pub dev: bool,
}

/// What a configuration was put together from. Displayed as a list, `defaults` when there was nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Option<PathBuf>,
    /// The environment variables and flags that were set.
    pub overrides: Vec<&'static str>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_ref().map(|path| path.display().to_string());
        let parts: Vec<String> =
            file.into_iter().chain(self.overrides.iter().map(ToString::to_string)).collect();
        f.write_str(if parts.is_empty() { "defaults" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

impl Config {
    /// Reads flags, environment and file.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(flags: &Flags) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let env = Environment::read(|name| std::env::var_os(name), &mut problems);
        let file = file::read(flags.config.as_deref().or(env.config.as_deref()))?;
        let resolve: Resolve =
            |host, port| Ok(std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?.collect());
        let mut config = Self::assemble(file.as_ref(), &env, flags, resolve, problems)?;
        config.warnings.extend(env.unknown(std::env::vars_os().map(|(name, _)| name)));
        Ok(config)
    }

    fn assemble(
        file: Option<&file::Read>,
        env: &Environment,
        flags: &Flags,
        resolve: Resolve,
        problems: Problems,
    ) -> Result<Self, ConfigErrors> {
        let (path, text) = file.map_or((Path::new(""), ""), |file| (&file.path, &file.text));
        let (document, is_whole) = Document::parse(path, text, problems);
        if !is_whole {
            // What is not TOML has been read in part only: more complaints would mislead.
            return document.abandon();
        }
        let mut config = Self::read(&document, env, flags, resolve);
        config.origin.file = file.map(|file| file.path.clone());
        document.finish().into_result(config)
    }

    fn read(document: &Document<'_>, env: &Environment, flags: &Flags, resolve: Resolve) -> Self {
        let mut top = document.top();
        let mut redis = RedisInstance::read_all(document, &mut top, env);
        let namespaces = read_namespaces(document, &mut top, &redis, env, flags);
        let unused_redis = take_unused(&mut redis, &namespaces);
        let warning =
            |unused: &RedisInstance| format!("no namespace is on redis `{}`: it is not used", unused.name);
        let mut warnings: Vec<String> = unused_redis.iter().map(warning).collect();
        warnings.extend(redis.iter().filter_map(RedisInstance::warnings));
        let config = Self {
            listen: top::read_listen(document, &mut top, env, flags, resolve),
            development: flags.dev,
            allowed_origins: top::read_origins(document, &mut top, env),
            allowed_hosts: top::read_allowed_hosts(&mut top),
            log: top::read_log(document, &mut top, env),
            api_key: top::read_api_key(&mut top, env),
            gateway: read_section(&mut top, "gateway", GatewayConfig::read),
            limits: read_section(&mut top, "limits", Limits::read),
            websocket: read_section(&mut top, "websocket", WebSocket::read),
            sse: read_section(&mut top, "sse", Sse::read),
            http: read_section(&mut top, "http", Http::read),
            drain: read_section(&mut top, "drain", DrainConfig::read),
            redis,
            unused_redis,
            namespaces,
            origin: Origin { file: None, overrides: overrides(env, flags) },
            warnings,
        };
        top.finish();
        config
    }

    /// Whether clients can reach any channel.
    pub fn has_open_channels(&self) -> bool {
        self.namespaces.iter().any(|namespace| !namespace.channels.is_empty())
    }

    /// Whether only this machine can reach the gateway.
    pub fn is_loopback_only(&self) -> bool {
        self.listen.iter().all(Listen::is_loopback)
    }
}

impl Default for Config {
    /// The configuration without file, environment and flags: the memory broker on loopback, no channel open.
    fn default() -> Self {
        let (document, _) = Document::parse(Path::new(""), "", Problems::default());
        let nowhere: Resolve = |_, _| Ok(Vec::new());
        Self::read(&document, &Environment::default(), &Flags::default(), nowhere)
    }
}

fn read_section<'d, T>(
    top: &mut Section<'d>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'d>) -> T,
) -> T {
    let mut section = top.section(key);
    let value = read(&mut section);
    section.finish();
    value
}

fn read_namespaces(
    document: &Document<'_>,
    top: &mut Section<'_>,
    redis: &[RedisInstance],
    env: &Environment,
    flags: &Flags,
) -> Vec<Namespace> {
    let default = redis.iter().map(|instance| &instance.name).find(|name| *name == DEFAULT_INSTANCE).cloned();
    let has_default = default.is_some() || redis.is_empty();
    let sections = top.list("namespace");
    if sections.is_none() && !has_default {
        let what = "no [[namespace]] is on it: write one, or call the instance `default`";
        document.refuse(&top.place_of_key("redis"), what);
    }
    if top.is_empty_list("namespace") {
        top.refuse(&top.place_of_key("namespace"), "no namespace at all: every channel would be refused");
    }
    if sections.is_none() && flags.dev {
        return vec![Namespace::development(default)];
    }
    let (mut namespaces, mut placed): (Vec<Namespace>, Vec<Placed<'_>>) =
        sections.into_iter().flatten().map(|section| Namespace::read(section, redis)).unzip();
    let open = top::read_open_channels(document, env);
    if !open.is_empty() {
        if !has_default && !namespaces.is_empty() {
            let what = "its channels are on the redis `default`, and there is none: write a [[namespace]]";
            document.refuse(&Place::Variable(top::OPEN_CHANNELS), what);
        }
        let channels = open.iter().map(|found| found.value.clone()).collect();
        namespaces.push(Namespace::open_channels(channels, default));
        placed.push(Placed::open_channels(open));
    } else if namespaces.is_empty() {
        namespaces.push(Namespace::closed(default));
    }
    reachable::check(document, &placed);
    namespaces
}

/// Takes out the instances that no namespace is on, so that nobody dials them unasked.
fn take_unused(redis: &mut Vec<RedisInstance>, namespaces: &[Namespace]) -> Vec<RedisInstance> {
    let is_used = |instance: &RedisInstance| {
        namespaces.iter().any(|space| space.redis.as_ref() == Some(&instance.name))
    };
    redis.extract_if(.., |instance| !is_used(instance)).collect()
}

fn overrides(env: &Environment, flags: &Flags) -> Vec<&'static str> {
    let mut overrides = env.set.clone();
    if !flags.listen.is_empty() {
        overrides.push("--listen");
    }
    if flags.dev {
        overrides.push("--dev");
    }
    overrides
}
