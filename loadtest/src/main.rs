//! `earshot-loadtest`: puts a fan-out gateway, or one of its peers, under load from outside, and tells what arrived,
//! how often, how late, and what it cost.
//!
//! A scenario plans subscribers and a schedule. The [`swarm`] connects the subscribers ([`client`]), whose accounts are
//! kept in a [`tally`] of [`ledger`]s; the [`publisher`] keeps to the schedule and puts a [`stamp`] on each message;
//! the [`watch`] looks at both while they are at it. From all three comes the [`record`], and from that alone the
//! table, the page and the comparison ([`report`]). It shares nothing with the gateway but the wire.
//!
//! Exit codes: 0 all arrived, once and in order · 1 something did not · 2 the test could not be run.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use options::Options;
use record::Record;
use scenario::{RunError, burst, churn, connect, fanout, idle, many_channels, resume, slow, soak};

mod bench;
mod capacity;
mod client;
mod interrupt;
mod kernel_baseline;
mod ledger;
mod median;
mod options;
mod progress;
mod publisher;
mod record;
mod redis_costs;
mod report;
mod resources;
mod run;
mod sampler;
mod scenario;
mod stamp;
mod swarm;
mod tally;
mod target;

const EXIT_UNCLEAN: u8 = 1;
const EXIT_FAILED: u8 = 2;

/// Puts a fan-out gateway under load
#[derive(Parser, Debug)]
#[command(name = "earshot-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// N subscribers, R messages a second: what arrives, how often, how late
    ///
    /// Unless given: 1000 subscribers on 1 channel, 20 messages of 128 bytes a second for 10 s.
    Fanout(Box<fanout::FanoutArgs>),
    /// N channels, one subscriber each: nothing is shared
    ///
    /// Unless given: 10000 channels, 5000 messages of 128 bytes a second for 10 s.
    ManyChannels(Box<many_channels::ManyChannelsArgs>),
    /// Several messages at once, then a rest: what sharing a write saves, and whether memory comes back
    ///
    /// Unless given: 1000 subscribers on 1 channel, 100 messages of 128 bytes a second, ten at once, for 10 s.
    Burst(Box<burst::BurstArgs>),
    /// Everybody is connected and nothing is published: what a connection costs by being there
    ///
    /// Unless given: 1000 subscribers for 60 s.
    Idle(Box<idle::IdleArgs>),
    /// Everybody connects and subscribes: how many a second, and how long each waits
    ///
    /// Unless given: 1000 subscribers, once.
    Connect(Box<connect::ConnectArgs>),
    /// Everybody loses the connection and comes back at once, and must get what was published meanwhile
    ///
    /// Unless given: 1000 subscribers on 1 channel, 10 messages of 128 bytes a second for 10 s.
    Resume(Box<resume::ResumeArgs>),
    /// A share reads slowly or not at all; the others must not notice
    ///
    /// Unless given: 200 subscribers on 1 channel, 50 messages of 16 KiB a second for 10 s; a tenth is slow.
    Slow(Box<slow::SlowArgs>),
    /// A share subscribes and unsubscribes all the time
    ///
    /// Unless given: 1000 subscribers on 1 channel, 20 messages of 128 bytes a second for 10 s; half are in motion.
    Churn(Box<churn::ChurnArgs>),
    /// A moderate load for a long time, with reconnections: does anything get lost, does memory grow
    ///
    /// Unless given: 1000 subscribers on 1 channel, 10 messages of 128 bytes a second for an hour.
    Soak(Box<soak::SoakArgs>),
    /// What the kernel takes in any case: one thread that writes one ready frame to each socket
    ///
    /// Takes the options of `fanout`, but for those that say where the target is.
    KernelBaseline(Box<kernel_baseline::KernelBaselineArgs>),
    /// Puts results that were kept as JSON beside each other
    Compare(CompareArgs),
    /// Earshot, nchan and the bare loop side by side on two cores, with the goals
    ///
    /// `loadtest/bench/run` builds everything and calls it.
    Bench(Box<bench::BenchArgs>),
    /// What a publication and a subscription cost Redis itself, for the model of many nodes
    ///
    /// Starts a Redis of its own. Run it by `taskset` on another core than --server-core.
    Redis(Box<redis_costs::RedisArgs>),
    /// What many users need, by what was measured: nodes, Redis servers, and what runs out first
    Capacity(Box<capacity::CapacityArgs>),
    #[command(hide = true)]
    BaselineServer(kernel_baseline::BaselineServerArgs),
}

/// Puts results beside each other.
#[derive(Args, Debug)]
struct CompareArgs {
    /// Files that were written with --json; changes are against the first
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write a page with charts, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Fanout(args) => finish(fanout::run(&args), &args.options),
        Command::ManyChannels(args) => finish(many_channels::run(&args), &args.options),
        Command::Burst(args) => finish(burst::run(&args), &args.options),
        Command::Idle(args) => finish(idle::run(&args), &args.options),
        Command::Connect(args) => finish(connect::run(&args), &args.options),
        Command::Resume(args) => finish(resume::run(&args), &args.options),
        Command::Slow(args) => finish(slow::run(&args), &args.options),
        Command::Churn(args) => finish(churn::run(&args), &args.options),
        Command::Soak(args) => finish(soak::run(&args), &args.options),
        Command::KernelBaseline(args) => finish(kernel_baseline::run(&args), &args.options),
        Command::Compare(args) => done(report::compare(&args.files, args.html.as_deref())),
        Command::Bench(args) => done(bench::run(&args)),
        Command::Redis(args) => done(redis_costs::run(&args)),
        Command::Capacity(args) => done(capacity::run(&args)),
        Command::BaselineServer(args) => {
            done(kernel_baseline::serve(&args).map_err(|error| format!("the bare loop: {error}")))
        }
    }
}

/// Tells the result in every way that was asked for.
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
