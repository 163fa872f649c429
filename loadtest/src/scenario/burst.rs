//! `burst`: publishes several messages at once on a channel, then pauses. Measures the effect of batched writes and
//! whether the server releases the memory of a burst.

use std::time::Duration;

use clap::Args;

use super::run_context::RunContext;
use super::{NO_THIRD_COHORT, RunError, measure};
use crate::options::{Defaults, Options, duration};
use crate::record::Record;
use crate::swarm::ConnectMode;

/// Bursts of messages, then a cooldown.
#[derive(Args, Clone, Debug)]
pub(crate) struct BurstArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Messages per burst
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    burst: u64,
    /// How long to wait before memory is measured again
    #[arg(long, default_value = "3s", value_parser = duration)]
    cooldown: Duration,
}

/// Runs the scenario.
pub(crate) fn run(args: &BurstArgs) -> Result<Record, RunError> {
    let defaults = Defaults { rate: 100.0, ..Defaults::default() };
    let mut config = args.options.resolve("burst", &defaults)?;
    config.burst = args.burst;
    config.scenario_settings.insert("cooldown".to_owned(), format!("{:?}", args.cooldown));
    let mut context = RunContext::new(config, false, NO_THIRD_COHORT, |_, _| {})?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    context.start_publishing()?;
    context.finish_publishing()?;
    context.wait_for_deliveries()?;
    context.sampler.progress.begin("cooldown", 0);
    context.run_for(args.cooldown)?;
    let mut record = context.finish()?;
    for index in 0..record.processes.len() {
        let process = &record.processes[index];
        let before = process.resident_connected as f64;
        let grown = (process.resident_after as f64 - before) / before.max(1.0) * 100.0;
        let (name, label) = (
            format!("retained_percent_{index}"),
            format!("memory of {} after the cooldown, above idle", process.name),
        );
        measure(&mut record, &name, &label, grown, "%");
    }
    Ok(record)
}
