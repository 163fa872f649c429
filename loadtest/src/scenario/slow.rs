//! `slow`: in the middle of the run a share of the subscribers starts to read slowly or not at all. The others must not
//! lose a message, and their latency must not change.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::run_context::{RunContext, THIRD_COHORT};
use super::{RunError, measure};
use crate::options::{Defaults, Options, share};
use crate::record::Record;
use crate::report::p99;
use crate::run_config::is_selected;
use crate::subscriber_plan::ReadRate;
use crate::swarm::{ConnectMode, SwarmCommand};

/// A share of the subscribers reads slowly or not at all.
#[derive(Args, Clone, Debug)]
pub(crate) struct SlowArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Share of the subscribers that are slow
    #[arg(long, default_value = "10%", value_parser = share)]
    share: f64,
    /// Bytes per second that a slow subscriber reads; 0 reads nothing
    #[arg(long, default_value_t = 0)]
    read_rate: u32,
}

/// Runs the scenario.
pub(crate) fn run(args: &SlowArgs) -> Result<Record, RunError> {
    // 12 MB in the second half: more than a queue of 4 MiB and the socket buffers hold.
    let duration = Duration::from_secs(30);
    let defaults =
        Defaults { subscribers: 200, rate: 50.0, size: 16 * 1024, duration, ..Defaults::default() };
    let mut config = args.options.resolve("slow", &defaults)?;
    config.scenario_settings.insert("share".to_owned(), args.share.to_string());
    config.scenario_settings.insert("read_rate".to_owned(), args.read_rate.to_string());
    let (share, read_rate) = (
        args.share,
        if args.read_rate == 0 { ReadRate::Paused } else { ReadRate::BytesPerSecond(args.read_rate) },
    );
    let half = config.duration / 2;
    let mut context = RunContext::new(config, false, ("slow readers", false), |index, plan| {
        if is_selected(index, share) {
            (plan.read_rate, plan.cohort) = (read_rate, THIRD_COHORT);
        }
    })?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    let start = Instant::now();
    context.start_publishing()?;
    context.wait_until_or_interrupted(|_| start.elapsed() >= half)?;
    let before = context.sampler.take_phase_latencies();
    context.swarm.send(SwarmCommand::ThrottleReads);
    context.finish_publishing()?;
    context.wait_for_deliveries()?;
    let during = context.sampler.take_phase_latencies();
    // The server's close reason follows the data that slow subscribers have not read yet.
    context.swarm.send(SwarmCommand::UnthrottleReads);
    context.wait_until_idle()?;
    let mut record = context.finish()?;
    let slow = record.cohorts.iter().find(|cohort| !cohort.verified);
    let (slow, closed) =
        slow.map_or((0, 0), |cohort| (cohort.subscribers, cohort.closed.values().sum::<u64>()));
    measure(&mut record, "p99_before", "p99 of the others before", p99(&before), "ms");
    measure(&mut record, "p99_during", "p99 of the others with slow readers", p99(&during), "ms");
    measure(&mut record, "slow", "slow readers", slow as f64, "");
    measure(&mut record, "slow_closed", "slow readers closed by the server", closed as f64, "");
    Ok(record)
}
