//! `bench`: Earshot, its peers and the bare loop side by side on two cores, the server on one and the load on the other.
//! Each run has a fresh server; the servers take turns in each round, so that a machine that drifts does so for all of
//! them; what counts are medians. Writes the metrics of every run and the table that is made of them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::redis_costs::RedisCosts;
use crate::resources::machine::{Machine, commit, now};

mod goals;
mod growth;
pub(crate) mod markdown;
mod plan;
mod run;
pub(crate) mod server;
mod summary;
pub(crate) use summary::median;

use plan::{Case, Size};
use run::BenchRunner;
pub(crate) use run::RunMetrics;
use server::Programs;

/// What is measured sibling_binary what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// One thread that writes one ready frame to each socket.
    #[serde(alias = "bare-loop")]
    KernelBaseline,
    /// nginx with nchan.
    Nchan,
    /// Centrifugo, where it is.
    Centrifugo,
    /// This gateway, publications through Redis.
    Earshot,
}

/// Earshot, its peers and the bare loop side by side.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    size: Size,
    /// The gateway's binary; the one sibling_binary this unless given
    #[arg(long, value_name = "FILE")]
    earshot: Option<PathBuf>,
    /// nginx
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    nginx: PathBuf,
    /// The module of nchan
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/nginx/modules/ngx_nchan_module.so")]
    nchan: PathBuf,
    /// Centrifugo, which is not measured unless it is given
    #[arg(long, value_name = "FILE")]
    centrifugo: Option<PathBuf>,
    /// Redis, which runs on the load's core
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
    /// The core of the server
    #[arg(long, default_value_t = 0)]
    server_core: u16,
    /// The core of the load
    #[arg(long, default_value_t = 1)]
    load_core: u16,
    /// Only what has this in its name
    #[arg(long, default_value = "")]
    only: String,
    /// Where to write DATE.json and DATE.md
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

/// All that a benchmark came to, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchResult {
    /// The format of this file.
    pub(crate) format: u32,
    /// When it began, in UTC.
    pub(crate) date: String,
    /// The commit of the working directory.
    pub(crate) commit: Option<String>,
    /// Where.
    pub(crate) machine: Machine,
    /// What each program says of itself.
    pub(crate) versions: Vec<String>,
    /// How large it was made.
    pub(crate) size: Size,
    /// Every run, in the order of time.
    pub(crate) runs: Vec<BenchRun>,
    /// What they came to.
    pub(crate) table: Vec<summary::SummaryRow>,
    /// What Redis itself needs, by round.
    #[serde(default)]
    pub(crate) redis: Vec<RedisCosts>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchRun {
    /// What was measured.
    pub(crate) case: String,
    /// Of what.
    pub(crate) subject: Subject,
    /// In which round.
    pub(crate) round: u32,
    /// The command line of the load test.
    pub(crate) line: String,
    /// What it came to.
    #[serde(alias = "numbers")]
    pub(crate) metrics: RunMetrics,
}

/// Runs all of it. The error says what could not be run.
pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    let earshot = args.earshot.clone().map_or_else(sibling_binary, Ok)?;
    let programs = Programs {
        earshot,
        nginx: args.nginx.clone(),
        nchan: args.nchan.clone(),
        centrifugo: args.centrifugo.clone(),
        redis: args.redis.clone(),
    };
    let bench = BenchRunner::new(programs, args.server_core, args.load_core, args.size.files())?;
    let mut outcome = BenchResult {
        format: 1,
        date: now(),
        commit: commit(),
        machine: Machine::here(),
        versions: bench.versions(),
        size: args.size.clone(),
        runs: Vec::new(),
        table: Vec::new(),
        redis: Vec::new(),
    };
    for group in plan::initial_groups(&args.size) {
        run_group(&bench, &group, &args.only, &mut outcome)?;
    }
    // Half of the highest load is known only now.
    let second = plan::half_load_cases(&args.size, &outcome.runs);
    run_group(&bench, &second, &args.only, &mut outcome)?;
    run_redis_costs(&bench, &args.only, &mut outcome)?;
    outcome.table = summary::table(&outcome);
    write(&outcome, &args.out)
}

fn sibling_binary() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(own.with_file_name("earshot"))
}

/// All rounds of some cases, the cases in turn, and in each its subjects in turn.
fn run_group(
    bench: &BenchRunner,
    group: &[Case],
    only: &str,
    outcome: &mut BenchResult,
) -> Result<(), String> {
    let rounds = group.iter().map(|case| case.rounds).max().unwrap_or_default();
    for (round, case) in (0..rounds).flat_map(|round| group.iter().map(move |case| (round, case))) {
        if !case.name.contains(only) || round >= case.rounds {
            continue;
        }
        let here: Vec<_> = case.lines.iter().filter(|(subject, _)| bench.has(*subject)).collect();
        let turn = round as usize % here.len().max(1);
        for (subject, line) in here.iter().cycle().skip(turn).take(here.len()) {
            print_progress(&format!("{} {subject:?}, round {} of {}", case.name, round + 1, case.rounds));
            let metrics = bench.run(*subject, line)?;
            let (case, line) = (case.name.clone(), line.clone());
            outcome.runs.push(BenchRun { case, subject: *subject, round, line, metrics });
        }
    }
    Ok(())
}

fn run_redis_costs(bench: &BenchRunner, only: &str, outcome: &mut BenchResult) -> Result<(), String> {
    if !"redis".contains(only) {
        return Ok(());
    }
    let rounds = outcome.size.rounds.min(plan::LONG_CASE_ROUNDS_MAX);
    for round in 1..=rounds {
        print_progress(&format!("redis, round {round} of {rounds}"));
        outcome.redis.push(bench.redis()?);
    }
    Ok(())
}

fn print_progress(words: &str) {
    // Nobody need read it.
    let _ = writeln!(std::io::stderr(), "bench: {words}");
}

fn write(outcome: &BenchResult, directory: &Path) -> Result<(), String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot write to {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(|error| cannot(&error))?;
    // 2026-11-21T07:30:00Z becomes 2026-11-21-0730.
    let name = outcome.date.replace('T', "-").replace(':', "");
    let name = name.get(..15).unwrap_or(&name);
    let json = serde_json::to_string_pretty(outcome).map_err(|error| cannot(&error))? + "\n";
    let markdown = markdown::page(outcome);
    fs::write(directory.join(format!("{name}.json")), json).map_err(|error| cannot(&error))?;
    fs::write(directory.join(format!("{name}.md")), &markdown).map_err(|error| cannot(&error))?;
    // A reader that went away changes nothing.
    let _ = std::io::stdout().write_all(markdown.as_bytes());
    Ok(())
}
