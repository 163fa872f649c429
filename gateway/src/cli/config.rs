//! `earshot config check` and `earshot config show`.
//!
//! Owns what they print. Must never print a secret: it has only what masks itself.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{print_message, write_stdout};
use crate::config::{Config, Flags, Namespace};

/// What `earshot config` is given when the configuration is wrong.
const WRONG: u8 = 2;

/// The flags of `earshot config`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Say whether the configuration is right, and what is wrong with it (exit code 2)
    Check(Target),
    /// Print the configuration in effect as TOML, with its secrets hidden
    Show(Target),
}

#[derive(Clone, Debug, clap::Args)]
struct Target {
    /// Configuration file [default: EARSHOT_CONFIG, or earshot.toml in the working directory if it is there]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

impl Args {
    /// Does it, and says how it went.
    pub fn run(&self) -> ExitCode {
        let (Command::Check(target) | Command::Show(target)) = &self.command;
        let flags = Flags { config: target.config.clone(), ..Flags::default() };
        let (text, code) = match (Config::load(&flags), &self.command) {
            (Ok(config), Command::Check(_)) => (summary(&config), ExitCode::SUCCESS),
            (Ok(config), Command::Show(_)) => (config.show(), ExitCode::SUCCESS),
            (Err(errors), _) => {
                print_message(&errors.to_string());
                return ExitCode::from(WRONG);
            }
        };
        write_stdout(&text, code)
    }
}

/// The configuration in a few lines, for people.
fn summary(config: &Config) -> String {
    let mut lines = vec![format!("The configuration is right (from {}).", config.origin)];
    for listen in &config.listen {
        let addrs: Vec<_> = listen.addrs.iter().map(ToString::to_string).collect();
        lines.push(format!("listen     {} ({})", listen.text, addrs.join(", ")));
    }
    for instance in &config.redis {
        let pubsub =
            instance.pubsub_url.as_ref().map_or(String::new(), |url| format!(", subscriptions {url}"));
        let place = match &instance.sentinel {
            Some(sentinel) => {
                format!("the primary `{}` of {} Sentinels", sentinel.master_name, sentinel.addresses.len())
            }
            None => instance.url.to_string(),
        };
        lines.push(format!("redis      {}: {place}{pubsub}", instance.name));
    }
    let namespaces = config.namespaces.iter().filter(|namespace| !namespace.channels.is_empty());
    lines.extend(namespaces.map(describe));
    if !config.has_open_channels() {
        lines.push("channels   none is open: write a [[namespace]], or set EARSHOT_OPEN_CHANNELS".to_owned());
    }
    lines.extend(config.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines.join("\n") + "\n"
}

fn describe(namespace: &Namespace) -> String {
    let channels: Vec<_> = namespace.channels.iter().map(|pattern| pattern.text.as_str()).collect();
    format!(
        "namespace  {}: {}; on {}; subscribe: {}, publish: {}",
        namespace.name,
        channels.join(", "),
        namespace.redis.as_deref().map_or_else(|| "memory".into(), |name| format!("redis {name}")),
        namespace.subscribe.as_str(),
        namespace.publish.as_str(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_where_everything_is() {
        assert_eq!(
            summary(&Config::default()),
            "The configuration is right (from defaults).\n\
             listen     localhost:8000 (127.0.0.1:8000, [::1]:8000)\n\
             channels   none is open: write a [[namespace]], or set EARSHOT_OPEN_CHANNELS\n"
        );
    }
}
