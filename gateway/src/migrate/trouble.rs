//! What can go wrong with a move, by what is to be done about it.
//!
//! Owns the wording of servers' errors. Must never hold a value or a URL.

use redis::{ServerError, Value};

use crate::instance::Failure;

/// Why a move did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// It cannot be done as it was asked for; nothing was moved by this run.
    #[error("{0}")]
    Refused(String),
    /// The state file cannot be used; nothing was moved by this run.
    #[error("{0}")]
    State(String),
    /// A key is there already and differs, and conflicts were to end the run.
    #[error("{0}")]
    Conflict(String),
    /// A server was lost for too long, or will not go on. The same command goes on from here.
    #[error("{0}")]
    Server(String),
    /// It was told to stop. The same command goes on from here.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

/// What happened, seen from within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// May be better soon: connect again, and go on.
    Passing(String),
    /// Concerns one key.
    Key(String),
    /// Ends the run.
    Ends(MigrateError),
}

impl From<MigrateError> for Trouble {
    fn from(error: MigrateError) -> Self {
        Self::Ends(error)
    }
}

impl Trouble {
    /// What a failed connection means.
    pub(super) fn link(name: &str, failure: &Failure) -> Self {
        match failure {
            Failure::Unreachable(cause) | Failure::Deaf(cause) => Self::Passing(format!("{name}: {cause}")),
            Failure::Refused(cause) => Self::Ends(MigrateError::Server(format!("{name}: {cause}"))),
        }
    }

    /// What an error means that a server answered with.
    pub(super) fn answer(name: &str, error: &ServerError) -> Self {
        let text = said(error);
        match error.code() {
            "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "BUSY" | "MOVED" | "ASK" => {
                Self::Passing(format!("{name}: {text}"))
            }
            "READONLY" => Self::Ends(MigrateError::Server(format!(
                "{name}: {text}: name the primary in the place of a replica"
            ))),
            "OOM" => Self::Ends(MigrateError::Server(format!(
                "{name}: {text}: give it more memory (maxmemory), then run the same command again"
            ))),
            "MISCONF" | "NOREPLICAS" => Self::Ends(MigrateError::Server(format!("{name}: {text}"))),
            _ => Self::Key(format!("{name}: {text}")),
        }
    }
}

/// A server's error in its own words.
pub(super) fn said(error: &ServerError) -> String {
    error.details().map_or_else(|| error.code().to_owned(), |details| format!("{} {details}", error.code()))
}

/// The answer, unless it is an error.
pub(super) fn checked(name: &str, value: Value) -> Result<Value, Trouble> {
    match value {
        Value::ServerError(error) => Err(Trouble::answer(name, &error)),
        value => Ok(value),
    }
}
