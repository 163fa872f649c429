//! `fanout`: N subscribers over M channels, R messages per second over all channels. All subscribers are subscribed
//! before the first message, so each message is expected once and in order at every subscriber of its channel.

use clap::Args;

use super::run_context::RunContext;
use super::{NO_THIRD_COHORT, RunError};
use crate::options::{Defaults, Options};
use crate::record::Record;
use crate::run_config::RunConfig;
use crate::swarm::ConnectMode;

/// N subscribers, R messages per second.
#[derive(Args, Clone, Debug)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Runs the scenario.
pub(crate) fn run(args: &FanoutArgs) -> Result<Record, RunError> {
    play(args.options.resolve("fanout", &Defaults::default())?)
}

/// Connects, publishes, and waits for late messages.
pub(crate) fn play(config: RunConfig) -> Result<Record, RunError> {
    let mut context = RunContext::new(config, false, NO_THIRD_COHORT, |_, _| {})?;
    context.connect_all(ConnectMode::Unpaced)?;
    context.start_measuring();
    context.start_publishing()?;
    context.finish_publishing()?;
    context.wait_for_deliveries()?;
    context.finish()
}
