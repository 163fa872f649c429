//! `earshot migrate`: migrates a keyspace.
//!
//! Owns the flags, the signals and the exit code. Must never show the password of a URL.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::io::{self, print_message};
use crate::config;
use earshot_ops::migrate::{self, Conflict, MigrateError, MigrationPlan};

mod printing;
mod progress;
mod rules;
mod servers;

use progress::MigrationProgress;

/// Long help text.
pub(super) const ABOUT: &str = "\
Copy a keyspace: every key of one Redis instance, of any type and with its TTL, to the instances and prefixes that rules define.

Nothing is deleted from the source without --delete. A run that was stopped or killed resumes from its state file when the
same command is run again. Stop all writers first: keys that change at the source after they were copied are reported by
the comparison at the end, but not copied again.

SERVER is a URL (redis://, rediss://) or, to keep passwords out of the process list,
  env:VARIABLE   a URL in an environment variable,
  file:PATH      a URL in a file,
  NAME           [redis.NAME] in the file given with --config, with its password file, TLS, Sentinels or cluster.";

/// Help text after the flags.
const EXAMPLE: &str = "\
Example:
  earshot migrate --from env:OLD_REDIS_URL \\
    --to express=redis://10.0.0.1:6379 --to nest=redis://10.0.0.1:6380 --to shared=redis://10.0.0.1:6381 \\
    --rule 'express:*=express' --rule 'room:*=express:express:room:' \\
    --rule 'nest:*=nest' --rule 'session:*=nest:nest:session:' --rest shared --dry-run

Exit codes:
  0  every key is at its target (dry run: the keys can be moved)
  1  a key failed, differs or was skipped, or the run was stopped
  2  invalid flags, rules or state file";

/// Flags of `earshot migrate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct MigrateArgs {
    /// Source of the keys
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
    /// Target, and its name in rules; repeatable. NAME without a server refers to [redis.NAME] of --config
    #[arg(long, value_name = "NAME=SERVER")]
    to: Vec<String>,
    /// Target of matching keys; the first rule that matches a key applies. PATTERN is a prefix, or a glob with `*` and
    /// `?`. PREFIX replaces the text before the first wildcard. Repeatable
    #[arg(long, value_name = "PATTERN=NAME[:PREFIX]")]
    rule: Vec<String>,
    /// Target of keys that no rule matches. Without it, a key without a rule is an error and nothing is moved
    #[arg(long, value_name = "NAME[:PREFIX]")]
    rest: Option<String>,
    /// TOML file with `from`, `[to]`, `[[rule]]` (`keys`, `to`, `prefix`) and `rest`; flags take precedence
    #[arg(long, value_name = "PATH")]
    rules: Option<PathBuf>,
    /// How to handle a key that exists at the target with a different value
    #[arg(long, value_enum, default_value_t = OnConflict::Fail)]
    conflict: OnConflict,
    /// Check all keys, print what would be moved, and change nothing
    #[arg(long, conflicts_with_all = ["verify", "no_verify", "delete"])]
    dry_run: bool,
    /// Only compare every key of the source with its target; change nothing
    #[arg(long, conflicts_with_all = ["no_verify", "delete"])]
    verify: bool,
    /// Skip the comparison of source and targets at the end
    #[arg(long)]
    no_verify: bool,
    /// Delete each key from the source after the target is found to have the same value
    #[arg(long)]
    delete: bool,
    /// Maximum number of keys per second
    #[arg(long, value_name = "KEYS")]
    rate: Option<NonZeroU32>,
    /// Copy values of at least this size in chunks
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    chunk_threshold: usize,
    /// State file of the run; removed when the run is complete
    #[arg(long, value_name = "PATH", default_value = "earshot-migrate.state")]
    state: PathBuf,
    /// Configuration file with the [redis.NAME] that can be used as servers
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnConflict {
    /// Keep the target's value and report the key at the end
    Skip,
    /// Overwrite it with the source's value
    Overwrite,
    /// End the run
    Fail,
}

fn size(text: &str) -> Result<usize, String> {
    config::size(text).ok_or_else(|| "expected a size in B, KiB, MiB or GiB, such as 64MiB".to_owned())
}

impl MigrateArgs {
    /// Runs the migration and prints its result.
    pub fn run(&self) -> ExitCode {
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(error) => return io::usage_error(&error),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                print_message(&format!("cannot run: {error}"));
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(self.act(&plan)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                print_message(&error.to_string());
                if matches!(error, MigrateError::State(_)) {
                    ExitCode::from(io::EXIT_USAGE)
                } else {
                    ExitCode::FAILURE
                }
            }
        }
    }

    fn plan(&self) -> Result<MigrationPlan, String> {
        let read = rules::read(self)?;
        let servers = servers::Instances::load(self.config.as_deref())?;
        let from = read.from.as_deref().ok_or("--from is missing: set the source of the keys")?;
        if read.to.is_empty() {
            return Err("--to is missing: set at least one target".to_owned());
        }
        let mut to = Vec::with_capacity(read.to.len());
        for (name, server) in &read.to {
            to.push(servers.settings(name, server).map_err(|what| format!("--to {name}: {what}"))?);
        }
        let names: Vec<String> = to.iter().map(|settings| settings.name.clone()).collect();
        Ok(MigrationPlan {
            from: servers.settings("source", from).map_err(|what| format!("--from: {what}"))?,
            to,
            rules: migrate::Rules::new(&read.rules, &names)?,
            conflict: match self.conflict {
                OnConflict::Skip => Conflict::Skip,
                OnConflict::Overwrite => Conflict::Overwrite,
                OnConflict::Fail => Conflict::Fail,
            },
            delete: self.delete,
            rate: self.rate,
            chunk_threshold: self.chunk_threshold as u64,
            state: self.state.clone(),
            verify: !self.no_verify,
        })
    }

    /// Returns `true` if there is no problem to report.
    async fn act(&self, plan: &MigrationPlan) -> Result<bool, MigrateError> {
        let (progress, stop) = (MigrationProgress::new(), CancellationToken::new());
        let work = async {
            if self.dry_run {
                let preflight = migrate::dry_run(plan, &progress, &stop).await?;
                progress.end();
                return Ok(printing::dry_run(plan, &preflight));
            }
            let report = match self.verify {
                true => migrate::verify(plan, &progress, &stop).await,
                false => migrate::run(plan, &progress, &stop).await,
            };
            progress.end();
            report.map(|report| printing::report(plan, &report, self.verify))
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            ended = &mut work => return ended,
            () = shutdown_signal() => {}
        }
        progress.end();
        print_message("stopping; send the signal again to exit immediately");
        stop.cancel();
        tokio::select! {
            ended = &mut work => ended,
            // The state file is consistent at any time.
            () = shutdown_signal() => std::process::exit(1),
        }
    }
}

/// Resolves on SIGINT or SIGTERM; never resolves if signal handlers cannot be installed.
async fn shutdown_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct TestCli {
        #[command(flatten)]
        args: MigrateArgs,
    }

    fn plan(flags: &[&str]) -> Result<MigrationPlan, String> {
        let flags = ["migrate"].iter().chain(flags);
        TestCli::try_parse_from(flags).map_err(|error| error.to_string())?.args.plan()
    }

    #[test]
    fn flags_become_a_plan() {
        let plan = plan(&[
            "--from",
            "redis://:hunter2@a:1/2",
            "--to",
            "nest=redis://b:2",
            "--rule",
            "session:*=nest:nest:session:",
            "--rest",
            "nest",
            "--conflict",
            "skip",
            "--rate",
            "7",
            "--chunk-threshold",
            "1KiB",
        ])
        .unwrap();
        assert_eq!(
            (plan.conflict, plan.rate.map(NonZeroU32::get), plan.chunk_threshold),
            (Conflict::Skip, Some(7), 1024)
        );
        assert_eq!(
            plan.rules.texts().collect::<Vec<_>>(),
            ["session:* → nest as nest:session:…", "* → nest"]
        );
        assert!(!format!("{plan:?}").contains("hunter2"));
    }

    #[test]
    fn help_describes_password_sources() {
        let help = crate::cli::Cli::try_parse_from(["earshot", "migrate", "--help"]).unwrap_err().to_string();
        assert!(help.contains("env:VARIABLE") && help.contains("Exit codes"), "{help}");
    }

    #[test]
    fn errors_contain_no_secret() {
        let good = ["--from", "redis://a:1", "--to", "nest=redis://b:2", "--rest", "nest"];
        for (flags, message) in [
            (&["--to", "nest=redis://b:2", "--rest", "nest"][..], "--from is missing"),
            (&["--from", "redis://a:1", "--rest", "nest"], "--to is missing"),
            (&["--from", "redis://a:1", "--to", "nest=redis://b:2"], "no rules"),
            (&[&good[..], &["--rule", "a:*"]].concat(), "PATTERN=NAME"),
            (&[&good[..], &["--rule", "a:*=nets"]].concat(), "no target `nets`"),
            (&[&good[..], &["--rule", "a:*=nest:"]].concat(), "prefix"),
            (&[&good[..], &["--to", "nest=redis://c:3"]].concat(), "twice"),
            (&["--from", "redis://:hunter2@", "--to", "nest=redis://b:2", "--rest", "nest"], "--from"),
            (
                &["--from", "env:EARSHOT_TEST_NO_SUCH", "--to", "nest=redis://b:2", "--rest", "nest"],
                "EARSHOT_TEST_NO_SUCH",
            ),
            (&["--from", "file:/no/such", "--to", "nest=redis://b:2", "--rest", "nest"], "/no/such"),
            (&["--from", "old", "--to", "nest=redis://b:2", "--rest", "nest"], "--config"),
        ] {
            let wrong = plan(flags).unwrap_err();
            assert!(wrong.contains(message) && !wrong.contains("hunter2"), "{flags:?}: {wrong}");
        }
    }
}
