//! The scenarios, one file each: what happens when, and which numbers it is about. How it is done is in [`context`].

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

pub(crate) use run_context::PublishTotals;

use std::io;

use crate::client::ClientError;
use crate::publisher::PublishError;
use crate::record::{Measure, Record};

/// Nobody is apart.
const NO_THIRD_COHORT: (&str, bool) = ("nobody", true);

/// Why a scenario could not be run; what it found is in its record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The options contradict each other or this machine.
    #[error("{0}")]
    InvalidOptions(String),
    /// A subscriber could not be had.
    #[error("subscriber: {0}")]
    Subscriber(#[from] ClientError),
    /// Subscribers do not get on.
    #[error("subscribers: {subscribed} of {of} are subscribed, and nobody has joined them for a minute")]
    Stuck {
        /// Those who are.
        subscribed: u64,
        /// All.
        of: u64,
    },
    /// The operator ended it before there was anything to tell.
    #[error("interrupted before everybody was subscribed")]
    Interrupted,
    /// The publisher has no connection.
    #[error("publisher: {0}")]
    Publisher(#[from] PublishError),
    /// A thread could not be started, or ended by a panic.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// A number that this scenario is about.
fn measure(record: &mut Record, name: &str, label: &str, value: f64, unit: &str) {
    let (name, label, unit) = (name.to_owned(), label.to_owned(), unit.to_owned());
    record.measures.push(Measure { name, label, value, unit });
}
