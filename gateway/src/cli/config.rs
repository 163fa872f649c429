//! `earshot config check` and `earshot config show`.
//!
//! Owns their output. Must never print a secret.

use std::path::PathBuf;
use std::process::ExitCode;

use super::io::{usage_error, write_stdout};
use crate::config::{ApiKeyConfig, Config, Flags, LoginMethod, NamespaceConfig, access_as_text};

/// Flags of `earshot config`.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Check the configuration and print all errors (exit code 2)
    Check(ConfigPath),
    /// Print the effective configuration as TOML, with secrets redacted
    Show(ConfigPath),
}

#[derive(Clone, Debug, clap::Args)]
struct ConfigPath {
    /// Configuration file [default: EARSHOT_CONFIG, or earshot.toml in the working directory if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> ExitCode {
        let (ConfigCommand::Check(path) | ConfigCommand::Show(path)) = &self.command;
        let flags = Flags { config: path.config.clone(), ..Flags::default() };
        let (text, code) = match (Config::load(&flags), &self.command) {
            (Ok(config), ConfigCommand::Check(_)) => (summary(&config), ExitCode::SUCCESS),
            (Ok(config), ConfigCommand::Show(_)) => (config.to_toml(), ExitCode::SUCCESS),
            (Err(errors), _) => return usage_error(&errors.to_string()),
        };
        write_stdout(&text, code)
    }
}

/// A summary of the configuration in a few lines.
fn summary(config: &Config) -> String {
    let mut lines = vec![format!("Configuration OK ({})", config.sources)];
    for listen in &config.listen {
        let addrs: Vec<_> = listen.addrs.iter().map(ToString::to_string).collect();
        lines.push(format!("listen     {} ({})", listen.text, addrs.join(", ")));
    }
    for instance in config.connected_redis() {
        let pubsub = instance.pubsub_url.as_ref().map_or(String::new(), |url| format!(", pub/sub {url}"));
        let server = match &instance.sentinel {
            Some(sentinel) => {
                format!("primary `{}` of {} Sentinels", sentinel.master_name, sentinel.addresses.len())
            }
            None => instance.url.to_string(),
        };
        lines.push(format!("redis      {}: {server}{pubsub}", instance.name));
    }
    lines.extend(config.logins.iter().map(describe_login));
    lines.extend(config.api_keys.iter().map(describe_api_key));
    let namespaces = config.namespaces.iter().filter(|namespace| !namespace.channels.is_empty());
    lines.extend(namespaces.map(describe));
    if !config.has_open_channels() {
        lines.push("channels   none open: add a [[namespace]], or set EARSHOT_OPEN_CHANNELS".to_owned());
    }
    lines.extend(config.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines.join("\n") + "\n"
}

fn describe(namespace: &NamespaceConfig) -> String {
    let channels: Vec<_> = namespace.channels.iter().map(|pattern| pattern.text.as_str()).collect();
    format!(
        "namespace  {}: {}; {}; subscribe: {}, publish: {}",
        namespace.name,
        channels.join(", "),
        namespace.redis.as_deref().map_or_else(|| "memory".into(), |name| format!("redis {name}")),
        access_as_text(namespace.access.subscribe),
        access_as_text(namespace.access.publish),
    )
}

fn describe_login(login: &LoginMethod) -> String {
    let place = match (login, login.redis()) {
        (LoginMethod::Ticket(_), Some(name)) => format!(": tickets in redis {name}"),
        (LoginMethod::Ticket(_), None) => ": tickets in the memory of the node that made them".to_owned(),
        (LoginMethod::Jwt(_), Some(name)) => format!(": denied tokens in redis {name}"),
        (_, Some(name)) => format!(": sessions in redis {name}"),
        (_, None) => String::new(),
    };
    format!("login      {}{place}", login.kind())
}

fn describe_api_key(key: &ApiKeyConfig) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let namespaces = key.namespaces.as_ref().map_or_else(|| "all".to_owned(), |globs| globs.join(", "));
    format!("api key    {}: scopes: {}; namespaces: {namespaces}", key.name, scopes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_lists_addresses_and_channels() {
        assert_eq!(
            summary(&Config::default()),
            "Configuration OK (defaults)\n\
             listen     localhost:8000 (127.0.0.1:8000, [::1]:8000)\n\
             channels   none open: add a [[namespace]], or set EARSHOT_OPEN_CHANNELS\n"
        );
    }
}
