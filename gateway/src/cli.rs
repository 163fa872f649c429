//! The command line.
//!
//! Owns the names of commands and flags; one file a command. Must never decide what a command finds out: it calls, and
//! prints.

use clap::Parser;

mod access;
pub mod check;
pub mod config;
pub mod drill;
pub mod migrate;
mod output;
pub mod serve;

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

/// Reads the command line; prints help, version or what is wrong with it, and ends the process, where that is due.
pub fn parse() -> Cli {
    Cli::parse()
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
}
