//! The command line.
//!
//! Owns the names of commands and flags, one file per command, and all printing. Must never contain the logic of a
//! command.

use clap::Parser;
use clap::error::ErrorKind;

mod access_log;
pub mod check;
pub mod config;
pub mod drill;
pub mod generate;
mod io;
pub mod migrate;
pub mod serve;
pub mod why;

use crate::redact;

/// Delivers Redis PUBLISH messages to browsers and apps over Server-Sent Events and WebSocket.
#[derive(Debug, Parser)]
#[command(name = "earshot", version, arg_required_else_help = true)]
pub enum Cli {
    /// Run the gateway
    Serve(serve::ServeArgs),
    /// Check or show the configuration
    Config(config::ConfigArgs),
    /// Copy all keys of a Redis server, with their TTLs, to other instances and prefixes according to rules
    #[command(long_about = migrate::ABOUT)]
    Migrate(migrate::MigrateArgs),
    /// Diagnose a Redis server, or the path to a gateway
    Check(check::CheckArgs),
    /// Explain whether a client may use a channel, and which rules decide
    Why(why::WhyArgs),
    /// Inject Redis faults and verify that the gateway detects, reports and recovers from each
    Drill(Box<drill::DrillArgs>),
    /// Print the completion script of a shell
    Completions(generate::CompletionsArgs),
    /// Write the manual pages to a directory
    Man(generate::ManArgs),
}

/// Parses the command line. Prints help, the version or an error, and exits, if required.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| match error_message(&error) {
        Some(message) => {
            io::print_message(&message);
            std::process::exit(error.exit_code())
        }
        None => error.exit(),
    })
}

/// The message of an error about arguments, with the credentials of addresses redacted. `None` for help and version, which
/// contain no arguments.
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
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_parsed() {
        let serve = Cli::try_parse_from([
            "earshot", "serve", "--listen", ":1", "--listen", ":2", "--config", "a.toml",
        ]);
        assert!(matches!(serve, Ok(Cli::Serve(_))));
        for command in ["check", "show"] {
            let config = Cli::try_parse_from(["earshot", "config", command, "--config", "a.toml"]);
            assert!(matches!(config, Ok(Cli::Config(_))), "{command}");
        }
        for invalid in [
            vec!["earshot"],
            vec!["earshot", "config"],
            vec!["earshot", "serve", "a.toml"],
            vec!["earshot", "run"],
        ] {
            assert!(Cli::try_parse_from(&invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn errors_about_arguments_contain_no_credentials() {
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
