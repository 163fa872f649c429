//! `churn`: a share of the subscribers unsubscribes and resubscribes continuously. The others must not miss a message;
//! those that resubscribe must not miss a message after the subscription is confirmed.

use clap::Args;

use super::run_context::{RunContext, THIRD_COHORT};
use super::{RunError, measure};
use crate::options::{Defaults, Options, share};
use crate::record::{Record, per_second};
use crate::run_config::is_selected;
use crate::swarm::{ChurnKind, ConnectMode, SwarmCommand};

/// A share of the subscribers unsubscribes and resubscribes continuously.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Share of the subscribers that churn
    #[arg(long, default_value = "50%", value_parser = share)]
    share: f64,
    /// Subscribe and unsubscribe operations per second
    #[arg(long, default_value_t = 500.0)]
    churn_rate: f64,
}

/// Runs the scenario.
pub(crate) fn run(args: &ChurnArgs) -> Result<Record, RunError> {
    let mut config = args.options.resolve("churn", &Defaults::default())?;
    config.scenario_settings.insert("share".to_owned(), args.share.to_string());
    config.scenario_settings.insert("churn_rate".to_owned(), args.churn_rate.to_string());
    let (share, churn_rate) = (args.share, args.churn_rate / config.threads as f64);
    if churn_rate.is_nan() || churn_rate <= 0.0 {
        return Err(RunError::InvalidOptions("--churn-rate: must be greater than 0".to_owned()));
    }
    let mut context = RunContext::new(config, false, ("churning", true), |index, plan| {
        if is_selected(index, share) {
            (plan.churns, plan.cohort) = (true, THIRD_COHORT);
        }
    })?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    context.start_publishing()?;
    context.swarm.send(SwarmCommand::Churn(ChurnKind::Resubscribe, churn_rate));
    context.finish_publishing()?;
    context.stop_measuring();
    context.swarm.send(SwarmCommand::Churn(ChurnKind::Resubscribe, 0.0));
    context.wait_until_subscribed()?;
    // A subscriber that has received nothing since it resubscribed proves nothing. One message on each channel verifies
    // all.
    context.wait_until_idle()?;
    context.verify_subscribers()?;
    let mut record = context.finish()?;
    let returns = record.reconnecting.as_ref().map_or(0, |reconnecting| reconnecting.count);
    let rate = per_second(returns, record.published.seconds);
    measure(&mut record, "resubscribed", "resubscriptions", returns as f64, "");
    measure(&mut record, "resubscribed_per_second", "resubscriptions per second", rate, "/s");
    Ok(record)
}
