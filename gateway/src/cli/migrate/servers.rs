//! Servers by URL, environment variable, file, or name in a configuration.
//!
//! Must never show a URL that may contain a password.

use std::path::Path;

use crate::cli::io::print_message;
use crate::config::{Config, Flags, RedisInstance, RedisUrl, Servers};
use earshot_ops::migrate::COMMAND_TIMEOUT;
use earshot_redis_link::ConnectConfig;

/// Instances of a configuration.
#[derive(Debug)]
pub(super) struct Instances {
    known: Option<Vec<RedisInstance>>,
}

impl Instances {
    /// Reads the configuration, if one is given.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self { known: None }) };
        let flags = Flags { config: Some(path.to_owned()), ..Flags::default() };
        let config = Config::load(&flags).map_err(|errors| errors.to_string())?;
        Ok(Self { known: Some([config.redis, config.login_redis, config.unused_redis].concat()) })
    }

    /// Resolves a server argument to connection settings.
    pub(super) fn settings(&self, name: &str, text: &str) -> Result<ConnectConfig, String> {
        let url = if let Some(variable) = text.strip_prefix("env:") {
            let url =
                std::env::var(variable).map_err(|_| format!("environment variable {variable} is not set"))?;
            parse(&url).map_err(|what| format!("{variable}: {what}"))?
        } else if let Some(path) = text.strip_prefix("file:") {
            let url =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            parse(&url).map_err(|what| format!("{path}: {what}"))?
        } else if text.contains("://") {
            if text.contains('@') {
                print_message(&format!(
                    "{name}: a password on the command line is visible to all users of this machine; use env:VARIABLE \
                     or file:PATH"
                ));
            }
            parse(text)?
        } else {
            return self.named(name, text);
        };
        Ok(settings(name, url))
    }

    fn named(&self, name: &str, instance: &str) -> Result<ConnectConfig, String> {
        let Some(instances) = &self.known else {
            return Err(format!(
                "`{instance}` is not a URL, env:VARIABLE or file:PATH; to use [redis.{instance}] of a configuration, \
                 set --config"
            ));
        };
        let found = instances.iter().find(|known| known.name == instance);
        let found = found.ok_or_else(|| format!("the configuration has no [redis.{instance}]"))?;
        if matches!(found.servers, Servers::ClientSharded(_)) {
            return Err(format!(
                "[redis.{instance}] consists of several servers; use the URL of one of them"
            ));
        }
        let settings = found.settings(name.to_owned(), &found.url);
        Ok(ConnectConfig { command_timeout: COMMAND_TIMEOUT, ..settings })
    }
}

fn parse(url: &str) -> Result<String, String> {
    RedisUrl::parse(url.trim()).map(|url| url.expose().to_owned())
}

fn settings(name: &str, url: String) -> ConnectConfig {
    ConnectConfig { name: name.to_owned(), url, command_timeout: COMMAND_TIMEOUT, ..ConnectConfig::default() }
}
