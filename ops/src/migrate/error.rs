//! Errors of a migration, by how they are handled.
//!
//! Owns the wording of server errors. Must never hold a value or a URL.

use redis::{ServerError, Value};

use earshot_redis_link::LinkError;

/// Why a migration ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// The migration is not possible as configured; this run has copied nothing.
    #[error("{0}")]
    Refused(String),
    /// The state file cannot be used; this run has copied nothing.
    #[error("{0}")]
    State(String),
    /// A key exists at the target with a different value, and the run was to end in this case.
    #[error("{0}")]
    Conflict(String),
    /// A server was unavailable for too long, or rejected a command. The same command resumes the run.
    #[error("{0}")]
    Server(String),
    /// The run was cancelled. The same command resumes it.
    #[error("stopped; run the same command again to resume")]
    Stopped,
}

/// Internal error, by scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// May succeed later: reconnect and continue.
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
    /// Classifies a connection failure.
    pub(super) fn link(name: &str, failure: &LinkError) -> Self {
        match failure {
            LinkError::Unreachable(cause) | LinkError::NotReceiving(cause) => {
                Self::Transient(format!("{name}: {cause}"))
            }
            LinkError::Rejected(cause) => Self::Fatal(MigrateError::Server(format!("{name}: {cause}"))),
        }
    }

    /// Classifies an error reply.
    pub(super) fn answer(name: &str, error: &ServerError) -> Self {
        let text = server_message(error);
        match error.code() {
            "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "BUSY" | "MOVED" | "ASK" => {
                Self::Transient(format!("{name}: {text}"))
            }
            "READONLY" => Self::Fatal(MigrateError::Server(format!(
                "{name}: {text}; use the primary instead of a replica"
            ))),
            "OOM" => Self::Fatal(MigrateError::Server(format!(
                "{name}: {text}; increase its maxmemory, then run the same command again"
            ))),
            "MISCONF" | "NOREPLICAS" => Self::Fatal(MigrateError::Server(format!("{name}: {text}"))),
            _ => Self::Key(format!("{name}: {text}")),
        }
    }
}

/// Error message of a server.
pub(super) fn server_message(error: &ServerError) -> String {
    error.details().map_or_else(|| error.code().to_owned(), |details| format!("{} {details}", error.code()))
}

/// Returns the reply unless it is an error.
pub(super) fn check_reply(name: &str, value: Value) -> Result<Value, Error> {
    match value {
        Value::ServerError(error) => Err(Error::answer(name, &error)),
        value => Ok(value),
    }
}
