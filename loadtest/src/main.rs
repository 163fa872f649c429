//! `earshot-loadtest`: puts a fan-out gateway under load from outside, and tells what arrived, how often, and how late.
//!
//! A scenario plans subscribers and a schedule. The [`swarm`] connects the subscribers ([`client`]), each of which
//! enters what it hears into a [`tally`] of [`ledger`]s; the [`publisher`] keeps to the schedule and puts a [`stamp`]
//! on each message. From both comes the [`report`]. It shares nothing with the gateway but the wire.
//!
//! Exit codes: 0 all arrived, once and in order · 1 something did not · 2 the test could not be run.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod client;
mod ledger;
mod progress;
mod publisher;
mod report;
mod resources;
mod scenario;
mod stamp;
mod swarm;
mod tally;
mod target;

const UNCLEAN: u8 = 1;
const NOT_RUN: u8 = 2;

/// Puts a fan-out gateway under load
#[derive(Parser, Debug)]
#[command(name = "earshot-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Debug)]
enum Scenario {
    /// N subscribers, R messages a second: what arrives, how often, how late
    Fanout(Box<scenario::fanout::FanoutArgs>),
}

fn main() -> ExitCode {
    let Scenario::Fanout(args) = Cli::parse().scenario;
    let outcome = scenario::fanout::run(&args);
    match outcome {
        Ok(report) => conclude(&report, args.json),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "earshot-loadtest: {error}");
            ExitCode::from(NOT_RUN)
        }
    }
}

fn conclude(report: &report::Report, json: bool) -> ExitCode {
    let text = if json { format!("{:#}\n", report.to_json()) } else { report.to_string() };
    // A reader that went away does not change the verdict.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if report.failure.is_some() {
        return ExitCode::from(NOT_RUN);
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(UNCLEAN) }
}
