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
    /// A key is there identical and differs, and conflicts were to end the run.
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
pub(super) enum Error {
    /// May be better soon: connect again, and go on.
    Transient(String),
    /// Concerns one key.
    Key(String),
    /// Ends the run.
    Fatal(MigrateError),
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        Self::Fatal(error)
    }
}

impl Error {
    /// What a failed connection means.
    pub(super) fn link(name: &str, failure: &Failure) -> Self {
        match failure {
            Failure::Unreachable(cause) | Failure::Deaf(cause) => Self::Transient(format!("{name}: {cause}")),
            Failure::Refused(cause) => Self::Fatal(MigrateError::Server(format!("{name}: {cause}"))),
        }
    }

    /// What an error means that a server answered with.
    pub(super) fn answer(name: &str, error: &ServerError) -> Self {
        let text = server_message(error);
        match error.code() {
            "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "BUSY" | "MOVED" | "ASK" => {
                Self::Transient(format!("{name}: {text}"))
            }
            "READONLY" => Self::Fatal(MigrateError::Server(format!(
                "{name}: {text}: name the primary in the place of a replica"
            ))),
            "OOM" => Self::Fatal(MigrateError::Server(format!(
                "{name}: {text}: give it more memory (maxmemory), then run the same command again"
            ))),
            "MISCONF" | "NOREPLICAS" => Self::Fatal(MigrateError::Server(format!("{name}: {text}"))),
            _ => Self::Key(format!("{name}: {text}")),
        }
    }
}

/// A server's error in its own words.
pub(super) fn server_message(error: &ServerError) -> String {
    error.details().map_or_else(|| error.code().to_owned(), |details| format!("{} {details}", error.code()))
}

/// The answer, unless it is an error.
pub(super) fn check_reply(name: &str, value: Value) -> Result<Value, Error> {
    match value {
        Value::ServerError(error) => Err(Error::answer(name, &error)),
        value => Ok(value),
    }
}
