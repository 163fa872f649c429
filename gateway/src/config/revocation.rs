//! `[revocation]`: where revocations are stored, so that they reach every node.
//!
//! Owns the choice of the Redis instance. Must never store a revocation.

use std::time::Duration;

use super::reader::Section;
use super::reader::setting::settings;
use super::reader::toml_writer::TomlWriter;
use super::redis::{DEFAULT_INSTANCE, MEMORY, RedisInstance, Servers};
use crate::login::RevocationSettings;

/// The default of `key`.
const DEFAULT_KEY: &str = "earshot:revocations";

/// Why revocations are not available without a login.
const NO_LOGIN: &str = "no [[login]] identifies a client: name a Redis instance in [revocation]";

/// Why revocations are not available with several instances.
const NO_INSTANCE: &str = "no Redis instance is chosen: name one in [revocation]";

settings! {
    /// How long revocations are in effect.
    pub struct RevocationTimes {
        /// The default for requests without a duration.
        default_ttl: Duration as DurationKind = Duration::from_secs(24 * 60 * 60), in Duration::from_secs(1), Duration::from_secs(366 * 24 * 60 * 60);
    }
}

/// Which nodes share revocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationScope {
    /// No other node.
    ThisNode,
    /// All nodes that use this Redis instance.
    Redis(String),
    /// Revocations are not available, for this reason.
    Unavailable(&'static str),
}

/// The revocations of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationConfig {
    /// Which nodes share them.
    pub scope: RevocationScope,
    /// The key of the hash that stores them.
    pub key: String,
    /// How long they are in effect.
    pub times: RevocationTimes,
}

impl RevocationConfig {
    /// Reads the section. `instances` are the configured Redis instances; `has_logins`: a login identifies clients.
    pub(super) fn read(section: &mut Section<'_>, instances: &[RedisInstance], has_logins: bool) -> Self {
        let key = section.text("key", |key| match key {
            "" => Err("empty; omit it, or set a key".to_owned()),
            key => Ok(key.to_owned()),
        });
        Self {
            scope: read_scope(section, instances, has_logins),
            key: key.map_or_else(|| DEFAULT_KEY.to_owned(), |found| found.value),
            times: RevocationTimes::read_settings(section, RevocationTimes::default()),
        }
    }

    /// Whether they are stored in a Redis instance.
    pub(super) fn uses(&self, instance: &RedisInstance) -> bool {
        self.redis() == Some(&instance.name)
    }

    /// The name of the Redis instance that stores them.
    pub fn redis(&self) -> Option<&str> {
        match &self.scope {
            RevocationScope::Redis(name) => Some(name),
            RevocationScope::ThisNode | RevocationScope::Unavailable(_) => None,
        }
    }

    /// A warning if clients log in and cannot be revoked.
    pub(super) fn warning(&self) -> Option<String> {
        let is_ambiguous = self.scope == RevocationScope::Unavailable(NO_INSTANCE);
        is_ambiguous.then(|| format!("the API cannot revoke a login: {NO_INSTANCE}"))
    }

    /// The settings of the revocations; `entries_max` is `limits.revocations`.
    pub fn settings(&self, entries_max: usize) -> RevocationSettings {
        RevocationSettings {
            key: self.key.clone(),
            entries_max,
            default_ttl: self.times.default_ttl,
            unavailable: match self.scope {
                RevocationScope::Unavailable(reason) => Some(reason),
                RevocationScope::ThisNode | RevocationScope::Redis(_) => None,
            },
        }
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        out.section("[revocation]");
        match &self.scope {
            RevocationScope::Redis(name) => out.text("redis", name),
            RevocationScope::ThisNode => out.text("redis", MEMORY),
            RevocationScope::Unavailable(reason) => out.comment(reason),
        }
        out.text("key", &self.key);
        out.lines(&self.times.entries());
    }
}

fn read_scope(section: &mut Section<'_>, instances: &[RedisInstance], has_logins: bool) -> RevocationScope {
    let find = |name: &str| instances.iter().find(|instance| instance.name == name);
    let is_sharded = |instance: &RedisInstance| matches!(instance.servers, Servers::ClientSharded(_));
    let named = section.text("redis", |name| match find(name) {
        _ if name == MEMORY => Ok(RevocationScope::ThisNode),
        Some(instance) if is_sharded(instance) => Err(format!(
            "the instance \"{name}\" has several independent servers (`urls`): revocations require one server or a cluster"
        )),
        Some(instance) => Ok(RevocationScope::Redis(instance.name.clone())),
        None => Err(format!("no [redis.{}] is configured", name.escape_debug())),
    });
    if let Some(named) = named {
        return named.value;
    }
    let chosen = match instances {
        [] => return RevocationScope::ThisNode,
        _ if !has_logins => return RevocationScope::Unavailable(NO_LOGIN),
        [only] => Some(only),
        _ => find(DEFAULT_INSTANCE),
    };
    match chosen.filter(|instance| !is_sharded(instance)) {
        Some(instance) => RevocationScope::Redis(instance.name.clone()),
        None => RevocationScope::Unavailable(NO_INSTANCE),
    }
}
