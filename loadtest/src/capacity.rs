//! `capacity`: computes processors, memory, network, nodes and Redis servers for many users, and the first bottleneck,
//! from a result of `bench`.

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

/// Computes the requirements of many users.
#[derive(Args, Clone, Debug)]
pub(crate) struct CapacityArgs {
    /// Result of `bench` (JSON)
    result: PathBuf,
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    machine: NodeSize,
}

/// Transport of the users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UserTransport {
    /// WebSocket
    Ws,
    /// Server-Sent Events
    Sse,
}

/// The workload.
#[derive(Args, Clone, Debug)]
pub(crate) struct Workload {
    /// Concurrently connected users, one connection each
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) users: u64,
    /// Transport, which determines the cost of connecting; all other costs were measured with WebSockets
    #[arg(long, value_enum, default_value_t = UserTransport::Ws)]
    pub(crate) transport: UserTransport,
    /// Subscribers per channel; each user subscribes to one channel
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) subscribers_per_channel: u64,
    /// Publications per minute and channel
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) per_minute: f64,
    /// Size of a publication in bytes, for network and history; CPU costs are those of the measured size
    #[arg(long, default_value_t = 128)]
    pub(crate) size: u64,
    /// Time to keep publications for recovery
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub(crate) history_ttl: Duration,
    /// Publications to keep per channel
    #[arg(long, default_value_t = 64)]
    pub(crate) history_size: u64,
    /// Time within which the users of a failed node must be reconnected
    #[arg(long, default_value = "30s", value_parser = nonzero_duration)]
    pub(crate) reconnect_within: Duration,
    /// How long a user stays connected
    #[arg(long, default_value = "30m", value_parser = nonzero_duration)]
    pub(crate) session_duration: Duration,
    /// The load balancer routes all subscribers of a channel to the same node
    #[arg(long)]
    pub(crate) colocated: bool,
}

/// Size of a node. Half of it is used for planning.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeSize {
    /// Cores of a node
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cores: u32,
    /// Memory of a node in GiB
    #[arg(long, default_value_t = 16.0, value_parser = positive)]
    pub(crate) memory: f64,
    /// Network bandwidth of a node in Gbit/s
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) network: f64,
}

/// Rejects zero: the value is used as a divisor.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("must be greater than 0".to_owned()) }
}

fn nonzero_duration(text: &str) -> Result<Duration, String> {
    duration(text)
        .and_then(|time| if time.is_zero() { Err("must be greater than 0".to_owned()) } else { Ok(time) })
}

/// Computes the requirements and prints them.
pub(crate) fn run(args: &CapacityArgs) -> Result<(), String> {
    let with_path = |error: &dyn std::fmt::Display| format!("cannot use {}: {error}", args.result.display());
    let text = fs::read_to_string(&args.result).map_err(|error| with_path(&error))?;
    let outcome: BenchResult = serde_json::from_str(&text).map_err(|error| with_path(&error))?;
    let constants = Constants::of(&outcome, args.workload.transport).map_err(|error| with_path(&error))?;
    let requirements = Requirements::of(&constants, &args.workload, &args.machine);
    let name = args.result.file_name().unwrap_or_default().to_string_lossy();
    // A closed standard output does not matter.
    let _ = std::io::stdout().write_all(table::table(&name, &constants, &requirements).as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[test]
    fn zero_and_invalid_inputs_are_rejected() {
        let fits = |option: &str| {
            let words = ["loadtest", "capacity", "x.json"].into_iter().chain([option]);
            crate::LoadtestCli::try_parse_from(words).is_ok()
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
