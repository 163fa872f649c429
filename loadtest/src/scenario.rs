//! The scenarios, one file each. A scenario defines the sequence of events and its specific measures; [`run_context`]
//! executes it.

pub(crate) mod burst;
pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod many_channels;
pub(crate) mod resume;
mod run_context;
pub(crate) mod slow;
pub(crate) mod soak;

use std::io;

use crate::client::ClientError;
use crate::publisher::PublishError;
use crate::record::{Measure, Record};

/// For scenarios that have no cohort besides the two transports.
const NO_THIRD_COHORT: (&str, bool) = ("none", true);

/// Why a scenario could not run. Problems found during a run are in its record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The options contradict each other or exceed a limit of this machine.
    #[error("{0}")]
    InvalidOptions(String),
    /// A subscriber could not connect.
    #[error("subscriber: {0}")]
    Subscriber(#[from] ClientError),
    /// No further subscriber has subscribed for too long.
    #[error(
        "only {subscribed} of {of} subscribers are subscribed, and no other has subscribed for 60 s: check the server's log and limits"
    )]
    Stuck {
        /// Subscribers that are subscribed.
        subscribed: u64,
        /// All subscribers.
        of: u64,
    },
    /// The operator interrupted the run before there was anything to report.
    #[error("interrupted before all subscribers were subscribed")]
    Interrupted,
    /// The publisher could not connect.
    #[error("publisher: {0}")]
    Publisher(#[from] PublishError),
    /// A thread could not start, or panicked.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// Adds a measure that is specific to a scenario.
fn measure(record: &mut Record, name: &str, label: &str, value: f64, unit: &str) {
    let (name, label, unit) = (name.to_owned(), label.to_owned(), unit.to_owned());
    record.measures.push(Measure { name, label, value, unit });
}
