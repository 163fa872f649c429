//! Logins by a ticket.
//!
//! Owns the keys of these logins. Must never make or accept a ticket.

use super::super::redis::RedisInstance;
use super::instance;
use crate::auth::MacKeys;
use crate::auth::ticket::TicketKeys;
use crate::config::reader::Section;
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::secret_source::{SecretKeys, SecretSource};

/// The keys of the secrets for the codes in event ids.
const SECRET_KEYS: SecretKeys = SecretKeys { inline: "secret", file: "secret_file" };

/// The prefix of the keys in Redis.
const DEFAULT_KEY_PREFIX: &str = "earshot:";

/// A login by a ticket.
#[derive(Clone, Debug)]
pub struct TicketLoginConfig {
    /// The secrets for the codes in event ids.
    pub secrets: SecretSource,
    /// The name of the Redis instance that holds the tickets; `None`: the memory of the node.
    pub redis: Option<String>,
    /// The prefix of their keys.
    pub key_prefix: String,
}

impl TicketLoginConfig {
    pub(super) fn read(section: &mut Section<'_>, instances: &[RedisInstance]) -> Self {
        let redis = if section.has("redis") { instance::read(section, instances, "tickets") } else { None };
        let prefix = section.text("key_prefix", |prefix| Ok(prefix.to_owned()));
        if let Some(prefix) = &prefix
            && !section.has("redis")
        {
            section.error(
                &prefix.location,
                "requires `redis`: without it, tickets are in the memory of the node",
            );
        }
        let login = Self {
            secrets: SecretSource::read(section, SECRET_KEYS),
            redis,
            key_prefix: prefix.map_or_else(|| DEFAULT_KEY_PREFIX.to_owned(), |found| found.value),
        };
        if !SECRET_KEYS.are_set(section) {
            let what = "missing `secret_file`: the event ids of streams contain codes that are made with it";
            section.error(&section.location(), what);
        } else if let Err(what) = login.load_keys() {
            section.error(&section.location_of_key(SECRET_KEYS.found(section)), what);
        }
        login
    }

    /// The secrets: those in the configuration, or those that the file contains now.
    ///
    /// # Errors
    /// See [`SecretSource::load`]; or a secret is too short. The message contains no secret.
    pub fn load_keys(&self) -> Result<TicketKeys, String> {
        let secrets = self.secrets.load()?;
        let keys = MacKeys::new(secrets.iter().map(|secret| secret.expose()));
        keys.map(TicketKeys::new).map_err(|error| self.secrets.explain(error))
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        self.secrets.show(SECRET_KEYS, out);
        if let Some(redis) = &self.redis {
            out.text("redis", redis);
            out.text("key_prefix", &self.key_prefix);
        }
    }
}
