//! `connect`: all subscribers connect and subscribe, in one or more rounds. Measures connections per second, time to
//! subscribe and cost per connection. At the end of each round a message must reach every subscriber.

use clap::Args;

use super::run_context::RunContext;
use super::{NO_THIRD_COHORT, RunError, measure};
use crate::options::{Defaults, Options};
use crate::record::{Record, per_second};
use crate::swarm::{ConnectMode, SwarmCommand};

/// Connect and subscribe: connections per second and time to subscribe.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Connections per second [default: as many as the server accepts]. Waiting time is fully counted only with a rate
    #[arg(long)]
    connect_rate: Option<f64>,
    /// Number of rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Runs the scenario.
pub(crate) fn run(args: &ConnectArgs) -> Result<Record, RunError> {
    let mut config = args.options.resolve("connect", &Defaults::default())?;
    let opening = match args.connect_rate {
        Some(rate) if rate.is_finite() && rate > 0.0 => ConnectMode::PerSecond(rate / config.threads as f64),
        Some(_) => return Err(RunError::InvalidOptions("--connect-rate: must be greater than 0".to_owned())),
        None => ConnectMode::Unpaced,
    };
    let rate = args.connect_rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    config.activity = Some(format!("{rate} connections/s, rounds: {}", args.rounds));
    config.scenario_settings.insert("connect_rate".to_owned(), rate);
    config.scenario_settings.insert("rounds".to_owned(), args.rounds.to_string());
    let all = u64::from(config.subscribers) * u64::from(args.rounds);
    let mut context = RunContext::new(config, false, NO_THIRD_COHORT, |_, _| {})?;
    for round in 1..=args.rounds {
        context.start_measuring();
        context.connect_all(opening)?;
        context.verify_subscribers()?;
        if round < args.rounds && !context.is_interrupted() {
            context.swarm.send(SwarmCommand::Reset);
            context.wait_until(|context| context.subscribed() == 0)?;
        }
    }
    let mut record = context.finish()?;
    // In this scenario only connecting is measured.
    record.connect.latency = record.reconnecting.take().unwrap_or_default();
    record.connect.per_second = per_second(all, record.connect.seconds);
    for index in 0..record.processes.len() {
        let process = &mut record.processes[index];
        let micros = (process.user_seconds + process.system_seconds) * 1e6 / all as f64;
        (process.user_micros_per_delivery, process.system_micros_per_delivery) = (None, None);
        let label = format!("CPU time of {} per connection", process.name);
        measure(&mut record, &format!("micros_per_connection_{index}"), &label, micros, "µs");
    }
    let rate = record.connect.per_second;
    measure(&mut record, "connections_per_second", "connections per second", rate, "/s");
    Ok(record)
}
