//! Why a request to the store failed.
//!
//! Owns the meaning of error replies. Pure.

use redis::Value;
use thiserror::Error;

use earshot_redis_link::server_message;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Redis is unreachable, does not reply in time, or is in a temporary state. The outcome of a write is unknown.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// Too many requests are waiting. The request was not sent.
    #[error("too many requests to Redis are waiting")]
    Busy,
    /// Redis rejects the command.
    #[error("Redis rejects the command: {0}")]
    Rejected(String),
    /// The key is of another type.
    #[error("the key has another type")]
    WrongType,
}

/// The meaning of an error reply for the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ErrorScope {
    /// Only this command failed.
    Command,
    /// The server does not answer commands at present, or another server has the key: the connection is not usable.
    Server,
}

/// Classifies a reply. Returns the reply itself if it is not an error.
pub(super) fn check(reply: Value) -> Result<Value, (StoreError, ErrorScope)> {
    reply.extract_error().map_err(|error| {
        let text = server_message(&error);
        let (scope, is_temporary) = match text.split(' ').next().unwrap_or_default() {
            "WRONGTYPE" => return (StoreError::WrongType, ErrorScope::Command),
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED" => (ErrorScope::Server, true),
            "NOAUTH" => (ErrorScope::Server, false),
            "READONLY" | "TRYAGAIN" | "ASK" | "BUSY" | "MISCONF" | "OOM" | "NOREPLICAS" => {
                (ErrorScope::Command, true)
            }
            _ => (ErrorScope::Command, false),
        };
        let error = if is_temporary { StoreError::Unavailable(text) } else { StoreError::Rejected(text) };
        (error, scope)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(reply: &str) -> (StoreError, ErrorScope) {
        check(redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap()).unwrap_err()
    }

    #[test]
    fn classifies_errors_by_their_code() {
        assert_eq!(
            checked("WRONGTYPE Operation against a key"),
            (StoreError::WrongType, ErrorScope::Command)
        );
        for (reply, is_temporary, scope) in [
            ("LOADING Redis is loading the dataset in memory", true, ErrorScope::Server),
            ("MASTERDOWN Link with MASTER is down", true, ErrorScope::Server),
            ("MOVED 3999 127.0.0.1:6381", true, ErrorScope::Server),
            ("ASK 3999 127.0.0.1:6381", true, ErrorScope::Command),
            ("NOAUTH Authentication required.", false, ErrorScope::Server),
            ("READONLY You can't write against a read only replica.", true, ErrorScope::Command),
            ("BUSY Redis is busy running a script", true, ErrorScope::Command),
            ("NOPERM this user has no permissions", false, ErrorScope::Command),
            ("ERR unknown command", false, ErrorScope::Command),
        ] {
            let error = checked(reply);
            assert_eq!(matches!(error.0, StoreError::Unavailable(_)), is_temporary, "{reply}: {error:?}");
            assert_eq!(error.1, scope, "{reply}");
        }
        assert_eq!(check(Value::Nil), Ok(Value::Nil));
    }
}
