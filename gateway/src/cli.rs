//! The command line.
//!
//! Owns the names of commands and flags; one file a command. Must never decide what a command finds out: it calls, and
//! prints.

use clap::Parser;
use clap::error::ErrorKind;

mod access;
pub mod check;
pub mod config;
pub mod drill;
pub mod migrate;
mod output;
pub mod serve;

use crate::redact;

/// Real-time fan-out: a plain Redis PUBLISH reaches every EventSource and WebSocket that may hear it.
#[derive(Debug, Parser)]
#[command(name = "earshot", version, arg_required_else_help = true)]
pub enum Cli {
    /// Run the gateway
    Serve(serve::Args),
    /// Check or show the configuration
    Config(config::Args),
    /// Copy all keys of a Redis, with their TTL, to other instances and prefixes, by rules
    #[command(long_about = migrate::ABOUT)]
    Migrate(migrate::Args),
    /// Diagnose a Redis server, or the path to a gateway
    Check(check::Args),
    /// Run failure drills against Redis and verify recovery
    Drill(Box<drill::Args>),
}

/// Reads the command line. Prints help, the version or an error, and ends the process, where that is due.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| match error_message(&error) {
        Some(message) => {
            output::print_message(&message);
            std::process::exit(error.exit_code())
        }
        None => error.exit(),
    })
}

/// The text of an error about arguments, without the credentials of addresses among them. `None`: help or version, whose
/// text holds no argument.
fn error_message(error: &clap::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => None,
        _ => Some(redact::addresses(error.render().to_string().trim_end()).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        let serve = Cli::try_parse_from([
            "earshot", "serve", "--listen", ":1", "--listen", ":2", "--config", "a.toml",
        ]);
        assert!(matches!(serve, Ok(Cli::Serve(_))));
        for command in ["check", "show"] {
            let config = Cli::try_parse_from(["earshot", "config", command, "--config", "a.toml"]);
            assert!(matches!(config, Ok(Cli::Config(_))), "{command}");
        }
        for wrong in [
            vec!["earshot"],
            vec!["earshot", "config"],
            vec!["earshot", "serve", "a.toml"],
            vec!["earshot", "run"],
        ] {
            assert!(Cli::try_parse_from(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_about_arguments_show_no_credentials() {
        let message =
            |args: &[&str]| error_message(&Cli::try_parse_from([&["earshot"], args].concat()).unwrap_err());
        let url = "redis://user:hunter2@host:6379";
        let option = format!("--{url}");
        for args in [
            &["serve", url][..],
            &["serve", &option],
            &["serve", ":hunter2@host"],
            &[url],
            &["check", "--timeout", url],
            &["drill", "--only", url],
        ] {
            let message = message(args).unwrap();
            assert!(!message.contains("hunter2") && message.contains("***@host"), "{message}");
        }
        assert_eq!(message(&["--help"]), None);
        assert_eq!(message(&["--version"]), None);
        assert_eq!(message(&["config"]), None);
    }
}
