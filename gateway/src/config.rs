//! The configuration: file, environment and flags become one checked [`Config`].
//!
//! Owns every default, every range and every name of a setting. Must never be imported by the modules that it configures.
//!
//! Precedence, lowest first: defaults, `earshot.toml`, environment, flags. All errors are reported together, with file,
//! line and key ([`ConfigErrors`]).
//!
//! - `reader`: the framework: syntax, locations, diagnostics, kinds of settings
//! - `root`, `limits`, `transport`, `process`, `redis`, `namespace`, `login`, `api_key`, `revocation`: the sections of the
//!   file
//! - `hooks`: the backend of the application
//! - `access`, `source`, `history`, `slow_consumer`: parts of a namespace
//! - `listen`, `network`, `channel_pattern`, `redis_url`, `secret`, `secret_source`: checked values
//! - `environment`: the variables
//! - `shadowing`: checks between namespaces; `unusable_grants`: permissions that no login meets
//! - `dump`: the effective configuration as TOML
//! - `build`: the settings of inner modules
//! - `check_plan`: the servers and channels for `earshot check`

use std::fmt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

mod access;
mod api_key;
mod build;
mod channel_pattern;
mod check_plan;
mod dump;
mod environment;
#[cfg(fuzzing)]
pub mod fuzz;
mod history;
mod hooks;
mod limits;
mod listen;
mod login;
mod namespace;
mod network;
mod process;
mod reader;
mod redis;
mod redis_url;
mod revocation;
mod root;
mod secret;
mod secret_source;
mod shadowing;
mod slow_consumer;
mod source;
mod transport;
mod unusable_grants;

#[cfg(test)]
mod tests;

pub use self::redis::{RedisAuth, RedisInstance, RedisTimes, Servers};
pub use access::access_as_text;
pub use api_key::ApiKeyConfig;
pub use history::Replay;
pub use hooks::{HooksConfig, OnHookError};
pub use limits::Limits;
pub use listen::Listen;
pub use login::{DeniedTokensConfig, JwtLoginConfig, LoginMethod, SessionLoginConfig, TicketLoginConfig};
pub use namespace::NamespaceConfig;
pub use process::{DrainConfig, GatewayConfig};
pub use reader::diagnostics::ConfigErrors;
pub use reader::units::{duration, size};
pub use redis_url::RedisUrl;
pub use revocation::{RevocationConfig, RevocationScope, RevocationTimes};
pub use root::LogFormat;
pub use secret::Secret;
pub use secret_source::SecretSource;
pub use source::Source;
pub use transport::{Http, Sse, WebSocket};

use self::redis::DEFAULT_INSTANCE;
use environment::Environment;
use listen::Resolve;
use login::Logins;
use namespace::NamespaceLocations;
use reader::diagnostics::{Diagnostics, Location};
use reader::file::{self, ConfigFile};
use reader::{Document, Section};

/// The complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on; never empty.
    pub listen: Vec<Listen>,
    /// Addresses for the HTTP API, health and metrics; empty: `listen` serves them.
    pub internal_listen: Vec<Listen>,
    /// Development mode (`--dev`): listens on loopback only; every channel is open unless the file has namespaces; the API
    /// needs no key; pages of every local origin are allowed.
    pub development: bool,
    /// Allowed origins of web pages, in addition to the gateway's own host; `*`: all.
    pub allowed_origins: Vec<String>,
    /// Hosts that requests may name in addition to local ones, on every listener; empty: the hosts of
    /// `allowed_origins`, on loopback listeners only.
    pub allowed_hosts: Vec<String>,
    /// Networks of the proxies whose `X-Forwarded-For` is read.
    pub trusted_proxies: Vec<IpNet>,
    /// The log filter.
    pub log: String,
    /// The format of the log.
    pub log_format: LogFormat,
    /// Whether `/` serves the console page.
    pub console: bool,
    /// The key of the HTTP API that permits everything.
    pub api_key: Option<Secret>,
    /// Other keys of the HTTP API. Without any key, the API is available only in development mode.
    pub api_keys: Vec<ApiKeyConfig>,
    /// `[gateway]`.
    pub gateway: GatewayConfig,
    /// `[limits]`.
    pub limits: Limits,
    /// `[websocket]`.
    pub websocket: WebSocket,
    /// `[sse]`.
    pub sse: Sse,
    /// `[http]`.
    pub http: Http,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// The Redis instances that namespaces use.
    pub redis: Vec<RedisInstance>,
    /// `[revocation]`.
    pub revocation: RevocationConfig,
    /// The Redis instances that only logins and revocations use, for keys: no namespace uses them.
    pub login_redis: Vec<RedisInstance>,
    /// Redis instances that no namespace and no login uses: the gateway does not connect to them; tools may.
    pub unused_redis: Vec<RedisInstance>,
    /// The namespaces in order: the first that matches a channel applies.
    pub namespaces: Vec<NamespaceConfig>,
    /// How clients log in, in the order in which it is tried; empty: no client logs in.
    pub logins: Vec<LoginMethod>,
    /// `[hooks]`.
    pub hooks: HooksConfig,
    /// The sources of the configuration.
    pub sources: Sources,
    /// Settings that are valid but probably unintended.
    pub warnings: Vec<String>,
}

/// Flags that override settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--listen`.
    pub listen: Vec<String>,
    /// `--allowed-origin`.
    pub allowed_origins: Vec<String>,
    /// `--redis`.
    pub redis: Option<String>,
    /// `--log`.
    pub log: Option<String>,
    /// `--dev`.
    pub dev: bool,
}

/// The sources of a configuration. Displayed as a list; `defaults` if empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file.
    pub file: Option<PathBuf>,
    /// The environment variables and flags that are set.
    pub overrides: Vec<String>,
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_ref().map(|path| path.display().to_string());
        let parts: Vec<String> = file.into_iter().chain(self.overrides.iter().cloned()).collect();
        f.write_str(if parts.is_empty() { "defaults" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

impl Config {
    /// Reads flags, environment and file.
    ///
    /// # Errors
    /// All errors in them.
    pub fn load(flags: &Flags) -> Result<Self, ConfigErrors> {
        let mut diagnostics = Diagnostics::default();
        let env = Environment::read(|name| std::env::var_os(name), &mut diagnostics)
            .with_settings(std::env::vars_os(), &mut diagnostics)
            .with_redis_flag(flags.redis.as_deref(), &mut diagnostics);
        let file = file::read(flags.config.as_deref().or(env.config.as_deref()))?;
        let resolve: Resolve =
            |host, port| Ok(std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?.collect());
        let mut config = Self::assemble(file.as_ref(), &env, flags, resolve, diagnostics)?;
        config.warnings.extend(env.unknown(std::env::vars_os().map(|(name, _)| name)));
        Ok(config)
    }

    fn assemble(
        file: Option<&ConfigFile>,
        env: &Environment,
        flags: &Flags,
        resolve: Resolve,
        diagnostics: Diagnostics,
    ) -> Result<Self, ConfigErrors> {
        let (path, text) = file.map_or((Path::new(""), ""), |file| (&file.path, &file.text));
        let (document, is_whole) = Document::parse(path, text, diagnostics);
        if !is_whole {
            // Invalid TOML is parsed only in part: further errors would be misleading.
            return document.abandon();
        }
        let document = document.with_variables(&env.settings);
        let mut config = Self::read(&document, env, flags, resolve);
        config.sources.file = file.map(|file| file.path.clone());
        document.finish().into_result(config)
    }

    fn read(document: &Document<'_>, env: &Environment, flags: &Flags, resolve: Resolve) -> Self {
        let mut top = document.root();
        let mut redis = RedisInstance::read_all(document, &mut top, env);
        let logins = login::read_all(&mut top, &redis);
        let revocation = read_section(&mut top, "revocation", |section| {
            RevocationConfig::read(section, &redis, logins.identify_clients())
        });
        let mut namespaces = read_namespaces(document, &mut top, &redis, &logins, env, flags);
        let hooks = read_section(&mut top, "hooks", |section| {
            let hooks = HooksConfig::read(section);
            hooks.apply(&mut namespaces, section);
            hooks.check_login(&logins.methods, section);
            hooks
        });
        let (login_redis, unused_redis): (Vec<_>, Vec<_>) = take_unused(&mut redis, &namespaces)
            .into_iter()
            .partition(|instance| logins.uses(instance) || revocation.uses(instance));
        let warning = |unused: &RedisInstance| {
            format!("redis `{}` is unused: no namespace and no login uses it", unused.name)
        };
        let mut warnings: Vec<String> = unused_redis.iter().map(warning).collect();
        let trusted_proxies = root::read_trusted_proxies(&mut top);
        warnings.extend(trusted_proxies.iter().filter_map(network::warning));
        warnings.extend(redis.iter().chain(&login_redis).filter_map(RedisInstance::warnings));
        warnings.extend(revocation.warning());
        warnings.extend(unusable_grants::warnings(&namespaces, &logins.methods));
        let api_keys = api_key::read_all(&mut top);
        warnings.extend(api_key::warnings(&api_keys, &namespaces));
        let config = Self {
            internal_listen: root::read_internal_listen(document, &mut top, flags, resolve),
            listen: root::read_listen(document, &mut top, env, flags, resolve),
            development: flags.dev,
            allowed_origins: root::read_origins(document, &mut top, env, flags),
            allowed_hosts: root::read_allowed_hosts(&mut top),
            trusted_proxies,
            log: root::read_log(document, &mut top, env, flags),
            log_format: root::read_log_format(&mut top),
            console: root::read_console(&mut top, flags),
            api_key: root::read_api_key(&mut top, env),
            api_keys,
            gateway: read_section(&mut top, "gateway", GatewayConfig::read),
            limits: read_section(&mut top, "limits", Limits::read),
            websocket: read_section(&mut top, "websocket", WebSocket::read),
            sse: read_section(&mut top, "sse", Sse::read),
            http: read_section(&mut top, "http", Http::read),
            drain: read_section(&mut top, "drain", DrainConfig::read),
            revocation,
            redis,
            login_redis,
            unused_redis,
            namespaces,
            logins: logins.methods,
            hooks,
            sources: Sources { file: None, overrides: overrides(env, flags) },
            warnings,
        };
        top.finish();
        config
    }

    /// The instances that the gateway connects to: for namespaces, then for logins only.
    pub fn connected_redis(&self) -> impl Iterator<Item = &RedisInstance> {
        self.redis.iter().chain(&self.login_redis)
    }

    /// The prefixes of the gateway's own channels.
    pub fn probe_prefixes(&self) -> Vec<String> {
        self.redis.iter().map(|redis| redis.probe_prefix.clone()).collect()
    }

    /// The instance of this name, if a namespace or a login uses it.
    pub fn redis_instance(&self, name: &str) -> Option<&RedisInstance> {
        self.connected_redis().find(|instance| instance.name == name)
    }

    /// Whether the HTTP API has a key.
    pub fn has_api_key(&self) -> bool {
        self.api_key.is_some() || !self.api_keys.is_empty()
    }

    /// Whether any channel is open.
    pub fn has_open_channels(&self) -> bool {
        self.namespaces.iter().any(|namespace| !namespace.channels.is_empty())
    }

    /// Whether the gateway listens only on loopback addresses.
    pub fn is_loopback_only(&self) -> bool {
        self.listen.iter().all(Listen::is_loopback)
    }
}

impl Default for Config {
    /// The configuration without file, environment and flags: no Redis, loopback only, no open channel.
    fn default() -> Self {
        let (document, _) = Document::parse(Path::new(""), "", Diagnostics::default());
        let no_addresses: Resolve = |_, _| Ok(Vec::new());
        Self::read(&document, &Environment::default(), &Flags::default(), no_addresses)
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
    logins: &Logins,
    env: &Environment,
    flags: &Flags,
) -> Vec<NamespaceConfig> {
    let default = redis.iter().map(|instance| &instance.name).find(|name| *name == DEFAULT_INSTANCE).cloned();
    let has_default = default.is_some() || redis.is_empty();
    let sections = top.list("namespace");
    let is_without_use =
        sections.is_none() && !has_default && !redis.iter().all(|instance| logins.uses(instance));
    if is_without_use {
        let what = "no namespace uses it: add a [[namespace]], or name the instance `default`";
        document.error(&top.location_of_key("redis"), what);
    }
    if top.is_empty_list("namespace") {
        top.error(&top.location_of_key("namespace"), "empty list: every channel would be rejected");
    }
    if sections.is_none() && flags.dev {
        return vec![NamespaceConfig::development(default)];
    }
    let placeholders: Vec<&str> = logins.placeholders.iter().map(String::as_str).collect();
    let (mut namespaces, mut placed): (Vec<NamespaceConfig>, Vec<NamespaceLocations<'_>>) = sections
        .into_iter()
        .flatten()
        .map(|section| NamespaceConfig::read(section, redis, &placeholders))
        .unzip();
    let open = root::read_open_channels(document, env);
    if !open.is_empty() {
        if !has_default && !is_without_use {
            let what =
                "its channels use the redis `default`, which is not configured: add a [[namespace]] instead";
            document.error(&Location::Variable(root::OPEN_CHANNELS), what);
        }
        let channels = open.iter().map(|found| found.value.clone()).collect();
        namespaces.push(NamespaceConfig::open_channels(channels, default));
        placed.push(NamespaceLocations::open_channels(open));
    } else if namespaces.is_empty() {
        namespaces.push(NamespaceConfig::closed(default));
    }
    shadowing::check(document, &placed);
    namespaces
}

/// Removes and returns the instances that no namespace uses.
fn take_unused(redis: &mut Vec<RedisInstance>, namespaces: &[NamespaceConfig]) -> Vec<RedisInstance> {
    let is_used = |instance: &RedisInstance| {
        namespaces.iter().any(|space| space.redis.as_ref() == Some(&instance.name))
    };
    redis.extract_if(.., |instance| !is_used(instance)).collect()
}

fn overrides(env: &Environment, flags: &Flags) -> Vec<String> {
    let settings = env.settings.iter().map(|variable| variable.name.clone());
    let mut overrides: Vec<String> = env.set.iter().map(ToString::to_string).chain(settings).collect();
    let given = [
        (!flags.listen.is_empty(), "--listen"),
        (!flags.allowed_origins.is_empty(), "--allowed-origin"),
        (flags.redis.is_some(), "--redis"),
        (flags.log.is_some(), "--log"),
        (flags.dev, "--dev"),
    ];
    overrides.extend(given.into_iter().filter(|(is_given, _)| *is_given).map(|(_, name)| name.to_owned()));
    overrides
}
