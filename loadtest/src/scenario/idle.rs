//! `idle`: connected subscribers, no publications. Measures the cost of an idle connection. At the end a message must
//! reach every subscriber, to detect connections that no longer receive.

use std::time::Duration;

use clap::Args;

use super::run_context::RunContext;
use super::{NO_THIRD_COHORT, RunError, measure};
use crate::options::{Defaults, Options};
use crate::record::Record;
use crate::swarm::ConnectMode;

/// Connected subscribers without traffic.
#[derive(Args, Clone, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Runs the scenario.
pub(crate) fn run(args: &IdleArgs) -> Result<Record, RunError> {
    // Whole multiples of Earshot's ping interval of 25 s. The first ping comes earlier: a run of 60 s would count two
    // pings per connection instead of 2.4.
    let duration = Duration::from_secs(75);
    let mut config = args.options.resolve("idle", &Defaults { duration, ..Defaults::default() })?;
    config.activity = Some(format!("idle for {:?}", config.duration));
    let (span, subscribers) = (config.duration, f64::from(config.subscribers));
    let mut context = RunContext::new(config, false, NO_THIRD_COHORT, |_, _| {})?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    context.sampler.progress.begin("idle", 0);
    context.run_for(span)?;
    context.stop_measuring();
    context.verify_subscribers()?;
    let mut record = context.finish()?;
    for index in 0..record.processes.len() {
        let process = &record.processes[index];
        let (name, cores) = (process.name.clone(), process.cores * 100_000.0 / subscribers);
        let memory = process.bytes_per_connection.map(|bytes| bytes * 100_000.0 / f64::from(1 << 20));
        let label = format!("cores of {name} for 100,000 connections");
        measure(&mut record, &format!("cores_per_100000_{index}"), &label, cores, "cores");
        if let Some(memory) = memory {
            let label = format!("memory of {name} for 100,000 connections");
            measure(&mut record, &format!("mib_per_100000_{index}"), &label, memory, "MiB");
        }
    }
    Ok(record)
}
