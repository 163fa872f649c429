//! `capacity`: what many users requirements, by what was measured: processors, memory, network, nodes and Redis servers, and
//! which of them runs out first. Takes its constants from a result of `bench`. Never measures anything itself.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bench::BenchResult;
use crate::options::duration;

mod constants;
mod model;
mod table;

use constants::Constants;
use model::Requirements;

/// What many users requirements, by what was measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct CapacityArgs {
    /// A result of `bench`, as JSON
    result: PathBuf,
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    machine: NodeSize,
}

/// How users are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UserTransport {
    /// By WebSocket
    Ws,
    /// By Server-Sent Events
    Sse,
}

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Workload {
    /// Users who are connected at a time, one connection each
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) users: u64,
    /// How they are connected, which decides what connecting costs; all else was measured with WebSockets
    #[arg(long, value_enum, default_value_t = UserTransport::Ws)]
    pub(crate) transport: UserTransport,
    /// Subscribers of a channel; each user hears one channel
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) subscribers_per_channel: u64,
    /// Publications a minute on each channel
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) per_minute: f64,
    /// Bytes of a publication: for network and history; processor time is that of the size that was measured
    #[arg(long, default_value_t = 128)]
    pub(crate) size: u64,
    /// How long publications are kept for those who come back, and how many of a channel
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub(crate) history_ttl: Duration,
    /// See above
    #[arg(long, default_value_t = 64)]
    pub(crate) history_size: u64,
    /// Within how long those of a lost node are to be back
    #[arg(long, default_value = "30s", value_parser = nonzero_duration)]
    pub(crate) reconnect_within: Duration,
    /// How long a user stays connected
    #[arg(long, default_value = "30m", value_parser = nonzero_duration)]
    pub(crate) session_duration: Duration,
    /// All of a channel's subscribers are brought to the same node, by the balancer in front
    #[arg(long)]
    pub(crate) colocated: bool,
}

/// One node, of which no more than half is planned with.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeSize {
    /// Cores of a node
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cores: u32,
    /// Memory of a node, in GiB
    #[arg(long, default_value_t = 16.0, value_parser = positive)]
    pub(crate) memory: f64,
    /// What a node can send, in Gbit/s
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) network: f64,
}

/// What is divided by must not be nothing.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("wants a number above 0".to_owned()) }
}

fn nonzero_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("wants some time".to_owned()) } else { Ok(time) })
}

/// Computes, and tells it.
pub(crate) fn run(args: &CapacityArgs) -> Result<(), String> {
    let with_path = |error: &dyn std::fmt::Display| format!("cannot use {}: {error}", args.result.display());
    let text = fs::read_to_string(&args.result).map_err(|error| with_path(&error))?;
    let outcome: BenchResult = serde_json::from_str(&text).map_err(|error| with_path(&error))?;
    let constants = Constants::of(&outcome, args.workload.transport).map_err(|error| with_path(&error))?;
    let requirements = Requirements::of(&constants, &args.workload, &args.machine);
    let name = args.result.file_name().unwrap_or_default().to_string_lossy();
    // A reader that went away changes nothing.
    let _ = std::io::stdout().write_all(table::table(&name, &constants, &requirements).as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[test]
    fn what_nothing_can_be_computed_of_is_refused() {
        let fits = |option: &str| {
            let words = ["loadtest", "capacity", "x.json"].into_iter().chain([option]);
            crate::Cli::try_parse_from(words).is_ok()
        };
        assert!(fits("--per-minute=0.1") && fits("--session-duration=5m") && fits("--memory=1"));
        for option in [
            "--per-minute=0",
            "--per-minute=-1",
            "--per-minute=inf",
            "--memory=0",
            "--network=NaN",
            "--session-duration=0s",
        ] {
            assert!(!fits(option), "{option}");
        }
    }
}
