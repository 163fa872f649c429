//! `earshot migrate`: moves a keyspace.
//!
//! Owns the flags, the signals and the exit code. Must never know how anything is moved, and never show a URL's
//! password.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::migrate::{self, Conflict, MigrateError, Plan};

mod printing;
mod progress;
mod rules;
mod servers;

use progress::Progress;

/// The exit code of flags, rules or a state file that cannot be used.
const EXIT_USAGE: u8 = 2;

/// The help that does not fit a line.
pub(super) const ABOUT: &str = "\
Move a keyspace: every key of one Redis, of any type and with its TTL, to the instances and prefixes that rules name.

Nothing is deleted from the source without --delete. A run that was stopped, or killed, goes on from its state file when
the same command is run again. Stop what writes to the keys first: what changes at the source after it was moved is
found by the comparison at the end, but not moved.

SERVER is a URL (redis://, rediss://), or, since a password on a command line is seen by everybody on the machine,
  env:VARIABLE   a URL in an environment variable,
  file:PATH      a URL in a file,
  NAME           [redis.NAME] in the file given with --config, with its password file, TLS, Sentinels or cluster.";

/// The help behind the flags.
const EXAMPLE: &str = "\
Example:
  earshot migrate --from env:OLD_REDIS_URL \\
    --to express=redis://10.0.0.1:6379 --to nest=redis://10.0.0.1:6380 --to shared=redis://10.0.0.1:6381 \\
    --rule 'express:*=express' --rule 'room:*=express:express:room:' \\
    --rule 'nest:*=nest' --rule 'session:*=nest:nest:session:' --rest shared --dry-run

Exit codes:
  0  everything is at its target (a dry run: may be moved)
  1  something is not, differs, or was left; or the run was stopped
  2  flags, rules or state file cannot be used";

/// The flags of `earshot migrate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Where the keys are
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
    /// A target, and what rules call it; may be repeated. NAME alone is [redis.NAME] of --config
    #[arg(long, value_name = "NAME=SERVER")]
    to: Vec<String>,
    /// Which keys go to which target: the first rule that matches a key decides. PATTERN is a prefix, or a glob with `*`
    /// and `?`. With :PREFIX, that takes the place of what stands before the first wildcard. May be repeated
    #[arg(long, value_name = "PATTERN=NAME[:PREFIX]")]
    rule: Vec<String>,
    /// Where keys go that no rule matches. Without it, there must be none, or nothing is moved
    #[arg(long, value_name = "NAME[:PREFIX]")]
    rest: Option<String>,
    /// A TOML file with `from`, `[to]`, `[[rule]]` (`keys`, `to`, `prefix`) and `rest`; flags come before it
    #[arg(long, value_name = "PATH")]
    rules: Option<PathBuf>,
    /// What to do with a key that is at the target identical and differs
    #[arg(long, value_enum, default_value_t = OnConflict::Fail)]
    conflict: OnConflict,
    /// Look at everything, say what would be moved, and change nothing
    #[arg(long, conflicts_with_all = ["verify", "no_verify", "delete"])]
    dry_run: bool,
    /// Only compare every key of the source with its target, and change nothing
    #[arg(long, conflicts_with_all = ["no_verify", "delete"])]
    verify: bool,
    /// Do not compare source and targets at the end
    #[arg(long)]
    no_verify: bool,
    /// Delete each key from the source, once it was found at its target and has not changed meanwhile
    #[arg(long)]
    delete: bool,
    /// The most keys a second
    #[arg(long, value_name = "KEYS")]
    rate: Option<NonZeroU32>,
    /// Values of this size and above are moved in pieces, not as a whole
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    chunk_threshold: usize,
    /// Where the run keeps its place; removed when it is over
    #[arg(long, value_name = "PATH", default_value = "earshot-migrate.state")]
    state: PathBuf,
    /// Configuration file whose [redis.NAME] may be named as servers
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnConflict {
    /// Leave it, and say so at the end
    Skip,
    /// Let the source's take its place
    Overwrite,
    /// Stop there
    Fail,
}

fn size(text: &str) -> Result<usize, String> {
    config::size(text).ok_or_else(|| "a size is a number with B, KiB, MiB or GiB, such as 64MiB".to_owned())
}

impl Args {
    /// Moves, and says what became of it.
    pub fn run(&self) -> ExitCode {
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(wrong) => {
                tell(&wrong);
                return ExitCode::from(EXIT_USAGE);
            }
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tell(&format!("cannot run: {error}"));
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(self.act(&plan)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                tell(&error.to_string());
                if matches!(error, MigrateError::State(_)) {
                    ExitCode::from(EXIT_USAGE)
                } else {
                    ExitCode::FAILURE
                }
            }
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let read = rules::read(self)?;
        let servers = servers::Instances::load(self.config.as_deref())?;
        let from = read.from.as_deref().ok_or("--from is missing: where are the keys?")?;
        if read.to.is_empty() {
            return Err("--to is missing: where do the keys go?".to_owned());
        }
        let mut to = Vec::with_capacity(read.to.len());
        for (name, server) in &read.to {
            to.push(servers.settings(name, server).map_err(|what| format!("--to {name}: {what}"))?);
        }
        let names: Vec<String> = to.iter().map(|settings| settings.name.clone()).collect();
        Ok(Plan {
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

    /// `true` when everything is as it should be.
    async fn act(&self, plan: &Plan) -> Result<bool, MigrateError> {
        let (progress, stop) = (Progress::new(), CancellationToken::new());
        let work = async {
            if self.dry_run {
                let survey = migrate::dry_run(plan, &progress, &stop).await?;
                progress.end();
                return Ok(printing::dry_run(plan, &survey));
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
            () = told_to_stop() => {}
        }
        progress.end();
        tell("stopping; a second signal ends at once");
        stop.cancel();
        tokio::select! {
            ended = &mut work => ended,
            // The state on disk is good at any moment.
            () = told_to_stop() => std::process::exit(1),
        }
    }
}

/// Resolves at SIGINT or SIGTERM; never, where signals cannot be had.
async fn told_to_stop() {
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

/// Says something on standard error; nobody is left to tell when even that fails.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        let flags = ["migrate"].iter().chain(flags);
        Alone::try_parse_from(flags).map_err(|error| error.to_string())?.args.plan()
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
    fn the_help_says_where_passwords_belong() {
        let help = crate::cli::Cli::try_parse_from(["earshot", "migrate", "--help"]).unwrap_err().to_string();
        assert!(help.contains("env:VARIABLE") && help.contains("Exit codes"), "{help}");
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        let good = ["--from", "redis://a:1", "--to", "nest=redis://b:2", "--rest", "nest"];
        for (flags, told) in [
            (&["--to", "nest=redis://b:2", "--rest", "nest"][..], "--from is missing"),
            (&["--from", "redis://a:1", "--rest", "nest"], "--to is missing"),
            (&["--from", "redis://a:1", "--to", "nest=redis://b:2"], "no rule"),
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
            assert!(wrong.contains(told) && !wrong.contains("hunter2"), "{flags:?}: {wrong}");
        }
    }
}
