//! `bench`: compares Earshot, other servers and the kernel baseline on two cores, one for the server and one for the
//! load. Each run gets a fresh server. The servers alternate within each round, so that drift of the machine affects
//! all of them; results are medians. Writes the metrics of every run and a summary table.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::redis_costs::RedisCosts;
use crate::resources::machine::{MachineInfo, commit, now};

mod goals;
mod growth;
pub(crate) mod markdown;
mod plan;
mod row;
mod run;
mod summary;
pub(crate) use row::median;

use crate::local_server::Programs;
use plan::{Case, Size};
use run::BenchRunner;
pub(crate) use run::RunMetrics;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// One thread that writes one prepared frame to each socket.
    #[serde(alias = "bare-loop")]
    KernelBaseline,
    /// nginx with nchan.
    Nchan,
    /// Centrifugo, if available.
    Centrifugo,
    /// Earshot, with publications through Redis.
    Earshot,
}

/// Compares Earshot, other servers and the kernel baseline.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    size: Size,
    /// Gateway binary [default: `earshot` in the directory of this binary]
    #[arg(long, value_name = "FILE")]
    earshot: Option<PathBuf>,
    /// nginx binary
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    nginx: PathBuf,
    /// nchan module
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/nginx/modules/ngx_nchan_module.so")]
    nchan: PathBuf,
    /// Centrifugo binary; Centrifugo is measured only if this is given
    #[arg(long, value_name = "FILE")]
    centrifugo: Option<PathBuf>,
    /// Redis binary; Redis runs on the core of the load
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: u16,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    load_core: u16,
    /// Run only cases whose name contains this text
    #[arg(long, default_value = "")]
    only: String,
    /// Directory for DATE.json and DATE.md
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

/// Result of a benchmark, as saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchResult {
    /// Format of this file.
    pub(crate) format: u32,
    /// When the benchmark started, in UTC.
    pub(crate) date: String,
    /// Commit of the working directory.
    pub(crate) commit: Option<String>,
    /// Machine.
    pub(crate) machine: MachineInfo,
    /// Versions of the programs.
    pub(crate) versions: Vec<String>,
    /// Size of the benchmark.
    pub(crate) size: Size,
    /// All runs in chronological order.
    pub(crate) runs: Vec<BenchRun>,
    /// Summary table.
    pub(crate) table: Vec<row::SummaryRow>,
    /// Costs of Redis, by round.
    #[serde(default)]
    pub(crate) redis: Vec<RedisCosts>,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BenchRun {
    /// Name of the case.
    pub(crate) case: String,
    /// Server under test.
    pub(crate) subject: Subject,
    /// Round.
    pub(crate) round: u32,
    /// Arguments of the load test.
    pub(crate) line: String,
    /// Metrics of the run.
    #[serde(alias = "numbers")]
    pub(crate) metrics: RunMetrics,
}

/// Runs the whole benchmark. The error names the run that failed.
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
        machine: MachineInfo::here(),
        versions: bench.versions(),
        size: args.size.clone(),
        runs: Vec::new(),
        table: Vec::new(),
        redis: Vec::new(),
    };
    for group in plan::initial_groups(&args.size) {
        run_group(&bench, &group, &args.only, &mut outcome)?;
    }
    // The highest rates, of which this case takes half, are known only now.
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

/// Runs all rounds of a group of cases; within a round, the subjects of each case alternate.
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
    // A closed standard error does not matter.
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
    // A closed standard output does not matter.
    let _ = std::io::stdout().write_all(markdown.as_bytes());
    Ok(())
}
