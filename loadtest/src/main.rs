//! `earshot-loadtest`: generates load against Earshot or a comparable server and reports deliveries, losses, latency
//! and cost.
//!
//! A scenario defines the subscribers and the publish schedule. The [`swarm`] connects the subscribers ([`client`])
//! and records what each receives in a [`tally`] of ledgers. The [`publisher`] follows the schedule and puts a
//! [`stamp`] into each message. The [`sampler`] samples both during the run. The [`record`] is built from all three,
//! and the table, the HTML page and the comparison are built from the record alone ([`report`]). The crate shares only
//! the protocol crate with the gateway.
//!
//! Exit codes: 0 every message arrived once and in order · 1 at least one did not · 2 the test could not run.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use error::RunError;
use options::Options;
use record::Record;
use scenario::{burst, churn, connect, fanout, idle, many_channels, resume, slow, soak};

mod bench;
mod capacity;
mod client;
mod error;
mod format;
mod interrupt;
mod kernel_baseline;
mod local_server;
mod median;
mod options;
mod progress;
mod publisher;
mod record;
mod redis_costs;
mod report;
mod resources;
mod run;
mod run_config;
mod sampler;
mod scenario;
mod stamp;
mod subscriber_plan;
mod swarm;
mod tally;
mod target;

const EXIT_UNCLEAN: u8 = 1;
const EXIT_FAILED: u8 = 2;

/// Load test for fan-out servers
#[derive(Parser, Debug)]
#[command(name = "earshot-loadtest", version)]
struct LoadtestCli {
    #[command(subcommand)]
    command: LoadtestCommand,
}

#[derive(Subcommand, Debug)]
enum LoadtestCommand {
    /// N subscribers, R messages per second: deliveries, losses, latency
    ///
    /// Defaults: 1000 subscribers on 1 channel, 20 messages of 128 bytes per second for 10 s.
    Fanout(Box<fanout::FanoutArgs>),
    /// N channels with one subscriber each; no message is shared
    ///
    /// Defaults: 10000 channels, 5000 messages of 128 bytes per second for 10 s.
    ManyChannels(Box<many_channels::ManyChannelsArgs>),
    /// Bursts of messages, then a cooldown: cost with batched writes, and memory that is not released
    ///
    /// Defaults: 1000 subscribers on 1 channel, 100 messages of 128 bytes per second in bursts of ten, for 10 s.
    Burst(Box<burst::BurstArgs>),
    /// Connected subscribers without traffic: the cost of an idle connection
    ///
    /// Defaults: 1000 subscribers for 75 s.
    Idle(Box<idle::IdleArgs>),
    /// Connect and subscribe: connections per second and time to subscribe
    ///
    /// Defaults: 1000 subscribers, one round.
    Connect(Box<connect::ConnectArgs>),
    /// Disconnect all subscribers, reconnect them at once and verify that each recovers the messages it missed
    ///
    /// Defaults: 1000 subscribers on 1 channel, 10 messages of 128 bytes per second for 10 s.
    Resume(Box<resume::ResumeArgs>),
    /// A share of the subscribers reads slowly or not at all; the others must not be affected
    ///
    /// Defaults: 200 subscribers on 1 channel, 50 messages of 16 KiB per second for 10 s; 10 % are slow.
    Slow(Box<slow::SlowArgs>),
    /// A share of the subscribers unsubscribes and resubscribes continuously
    ///
    /// Defaults: 1000 subscribers on 1 channel, 20 messages of 128 bytes per second for 10 s; 50 % churn.
    Churn(Box<churn::ChurnArgs>),
    /// Moderate load for a long time, with reconnects: losses and memory growth
    ///
    /// Defaults: 1000 subscribers on 1 channel, 10 messages of 128 bytes per second for an hour.
    Soak(Box<soak::SoakArgs>),
    /// Kernel baseline: one thread that writes one prepared frame to each socket
    ///
    /// Takes the options of `fanout`, except those that locate the target.
    KernelBaseline(Box<kernel_baseline::KernelBaselineArgs>),
    /// Compare results that were written with --json
    Compare(CompareArgs),
    /// Compare Earshot, nchan and the kernel baseline on two cores, and check the goals
    ///
    /// `loadtest/bench/run` builds all binaries and calls this command.
    Bench(Box<bench::BenchArgs>),
    /// Measure what a publication and a subscription cost Redis, for the capacity model
    ///
    /// Starts its own Redis. Run this command with `taskset` on a core other than --server-core.
    Redis(Box<redis_costs::RedisArgs>),
    /// Compute nodes, Redis servers and the first bottleneck for many users from a benchmark result
    Capacity(Box<capacity::CapacityArgs>),
    #[command(hide = true)]
    BaselineServer(kernel_baseline::BaselineServerArgs),
}

/// Compares results.
#[derive(Args, Debug)]
struct CompareArgs {
    /// Files written with --json; changes are relative to the first
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write an HTML page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    match LoadtestCli::parse().command {
        LoadtestCommand::Fanout(args) => finish(fanout::run(&args), &args.options),
        LoadtestCommand::ManyChannels(args) => finish(many_channels::run(&args), &args.options),
        LoadtestCommand::Burst(args) => finish(burst::run(&args), &args.options),
        LoadtestCommand::Idle(args) => finish(idle::run(&args), &args.options),
        LoadtestCommand::Connect(args) => finish(connect::run(&args), &args.options),
        LoadtestCommand::Resume(args) => finish(resume::run(&args), &args.options),
        LoadtestCommand::Slow(args) => finish(slow::run(&args), &args.options),
        LoadtestCommand::Churn(args) => finish(churn::run(&args), &args.options),
        LoadtestCommand::Soak(args) => finish(soak::run(&args), &args.options),
        LoadtestCommand::KernelBaseline(args) => finish(kernel_baseline::run(&args), &args.options),
        LoadtestCommand::Compare(args) => done(report::compare(&args.files, args.html.as_deref())),
        LoadtestCommand::Bench(args) => done(bench::run(&args)),
        LoadtestCommand::Redis(args) => done(redis_costs::run(&args)),
        LoadtestCommand::Capacity(args) => done(capacity::run(&args)),
        LoadtestCommand::BaselineServer(args) => {
            done(kernel_baseline::serve(&args).map_err(|error| format!("baseline server: {error}")))
        }
    }
}

/// Writes the result in every requested format.
fn finish(outcome: Result<Record, RunError>, options: &Options) -> ExitCode {
    let record = match outcome {
        Ok(record) => record,
        Err(error) => return fail(&error.to_string()),
    };
    if let Err(error) = report::publish(&record, options) {
        return fail(&error);
    }
    if record.failure.is_some() {
        return ExitCode::from(EXIT_FAILED);
    }
    if record.clean { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNCLEAN) }
}

fn done(outcome: Result<(), String>) -> ExitCode {
    outcome.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn fail(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "earshot-loadtest: {error}");
    ExitCode::from(EXIT_FAILED)
}
