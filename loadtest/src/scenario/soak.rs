//! `soak`: moderate load for a long time, while subscribers are disconnected one by one and resume from their last
//! position. No message may be lost. Measures memory growth.

use std::time::Duration;

use clap::Args;

use super::run_context::{RunContext, THIRD_COHORT};
use super::{RunError, measure};
use crate::options::{Defaults, Options};
use crate::record::{Record, SampleRecord};
use crate::swarm::{ChurnKind, ConnectMode, SwarmCommand};

/// Share of the run that is excluded from the growth measurement.
const WARM_UP: f64 = 0.1;

/// Moderate load for a long time, with reconnects.
#[derive(Args, Clone, Debug)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Reconnects per second; 0 disables them
    #[arg(long, default_value_t = 5.0)]
    reconnects: f64,
}

/// Runs the scenario.
pub(crate) fn run(args: &SoakArgs) -> Result<Record, RunError> {
    let duration = Duration::from_secs(3600);
    let mut config =
        args.options.resolve("soak", &Defaults { duration, rate: 10.0, ..Defaults::default() })?;
    let reconnects = args.reconnects / config.threads as f64;
    if reconnects > 0.0 {
        config.check_can_resume()?;
    }
    config.scenario_settings.insert("reconnects".to_owned(), args.reconnects.to_string());
    let mut context = RunContext::new(config, true, ("reconnecting", true), |_, plan| {
        if reconnects > 0.0 {
            (plan.churns, plan.cohort) = (true, THIRD_COHORT);
        }
    })?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    context.start_publishing()?;
    if reconnects > 0.0 {
        context.swarm.send(SwarmCommand::Churn(ChurnKind::Reconnect, reconnects));
    }
    context.finish_publishing()?;
    context.swarm.send(SwarmCommand::Churn(ChurnKind::Reconnect, 0.0));
    context.wait_until_subscribed()?;
    context.wait_for_deliveries()?;
    let mut record = context.finish()?;
    for index in 0..record.processes.len() {
        let slope = growth(&record.series, index);
        let label = format!("memory growth of {} per hour", record.processes[index].name);
        measure(&mut record, &format!("growth_mib_per_hour_{index}"), &label, slope, "MiB");
    }
    Ok(record)
}

/// Slope of a process's memory in MiB per hour: least squares, without the warm-up.
fn growth(series: &[SampleRecord], process: usize) -> f64 {
    let end = series.last().map_or(0.0, |sample| sample.at);
    let points: Vec<(f64, f64)> = series
        .iter()
        .filter(|sample| sample.at >= end * WARM_UP)
        .filter_map(|sample| Some((sample.at, *sample.resident.get(process)? as f64)))
        .collect();
    let count = (points.len() as f64).max(1.0);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (at, bytes) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - at) * (point.1 - bytes)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - at).powi(2)).sum();
    if below > 0.0 { above / below * 3600.0 / f64::from(1 << 20) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_after_warm_up() {
        let sample = |second: u32| {
            // Grows by 10 MiB in the first tenth, then by 1 MiB per minute.
            let early = f64::from(second.min(60)) / 60.0 * 10.0;
            let bytes = (early + f64::from(second) / 60.0) * f64::from(1 << 20);
            SampleRecord { at: f64::from(second), resident: vec![bytes as u64], ..SampleRecord::default() }
        };
        let series: Vec<SampleRecord> = (0..=600).map(sample).collect();
        assert!((growth(&series, 0) - 60.0).abs() < 0.1, "{}", growth(&series, 0));
        assert_eq!((growth(&series, 1), growth(&[], 0)), (0.0, 0.0));
    }
}
