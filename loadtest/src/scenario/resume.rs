//! `resume`: during publishing, all subscribers are disconnected at the same moment and later reconnect at once from
//! their last position. No message may be missing, duplicated or out of order. Measures how long recovery takes.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::run_context::RunContext;
use super::{NO_THIRD_COHORT, RunError, measure};
use crate::options::{Defaults, Options, duration};
use crate::record::Record;
use crate::swarm::{ConnectMode, SwarmCommand};

/// Disconnect all subscribers and reconnect them at once.
#[derive(Args, Clone, Debug)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// How long subscribers stay disconnected
    #[arg(long, default_value = "1s", value_parser = duration)]
    downtime: Duration,
}

/// Runs the scenario.
pub(crate) fn run(args: &ResumeArgs) -> Result<Record, RunError> {
    // No limit on concurrent connections: real clients do not coordinate their reconnects.
    let defaults = Defaults { rate: 10.0, connect_concurrency: 1 << 20, ..Defaults::default() };
    let mut config = args.options.resolve("resume", &defaults)?;
    config.check_can_resume()?;
    config.scenario_settings.insert("downtime".to_owned(), format!("{:?}", args.downtime));
    let (before, after) = (config.duration / 4, config.duration / 4);
    let first = ConnectMode::PerSecond(f64::from(config.subscribers).max(5000.0) / config.threads as f64);
    let mut context = RunContext::new(config, true, NO_THIRD_COHORT, |_, _| {})?;
    context.connect_all(first)?;
    context.start_measuring();
    context.start_publishing()?;
    context.run_for(before)?;
    context.swarm.send(SwarmCommand::Disconnect);
    context.wait_until(|context| context.subscribed() == 0)?;
    context.run_for(args.downtime)?;
    context.sampler.progress.begin("resuming", context.swarm.size());
    let start = Instant::now();
    context.swarm.send(SwarmCommand::Connect(ConnectMode::Simultaneous));
    context.wait_until_subscribed()?;
    let back = start.elapsed();
    context.run_for(after)?;
    context.finish_publishing()?;
    context.wait_for_deliveries()?;
    let mut record = context.finish()?;
    let (recovered, all) = (record.deliveries.recovered as f64, record.connect.subscribers as f64);
    measure(
        &mut record,
        "reconnect_seconds",
        "time until all subscribers had reconnected",
        back.as_secs_f64(),
        "s",
    );
    measure(&mut record, "reconnects_per_second", "reconnects per second", all / back.as_secs_f64(), "/s");
    measure(
        &mut record,
        "recovered_percent",
        "subscribers that recovered all messages",
        recovered / all * 100.0,
        "%",
    );
    Ok(record)
}
