//! Errors that prevent a run.

use std::io;

use crate::client::ClientError;
use crate::publisher::PublisherError;

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
    Publisher(#[from] PublisherError),
    /// A thread could not start, or panicked.
    #[error(transparent)]
    Thread(#[from] io::Error),
}
