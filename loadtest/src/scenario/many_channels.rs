//! `many-channels`: N channels with one subscriber each. No message is shared, so each costs a full path from Redis to
//! the socket.

use clap::Args;

use super::{RunError, fanout};
use crate::options::{Defaults, Options};
use crate::record::Record;

/// N channels with one subscriber each.
#[derive(Args, Clone, Debug)]
pub(crate) struct ManyChannelsArgs {
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Runs the scenario.
pub(crate) fn run(args: &ManyChannelsArgs) -> Result<Record, RunError> {
    let defaults = Defaults { subscribers: 10_000, channels: 0, rate: 5000.0, ..Defaults::default() };
    fanout::play(args.options.resolve("many-channels", &defaults)?)
}
