//! The meaning of an error reply for the command and its connection.
//!
//! Owns the list of temporary errors. Pure.

use redis::{ErrorKind, RedisError};

use earshot_redis_link::server_message;

/// The kinds of error replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorReply {
    /// The ACL denies the command; the connection is usable.
    Forbidden,
    /// The server does not know the command. Some servers disable commands; all know PING.
    UnknownCommand,
    /// A temporary state of the server: loading, busy, or without a primary.
    Passing,
    /// Any other error.
    Rejected,
}

impl ErrorReply {
    /// Parses the text of a reply, which begins with its code.
    pub(super) fn of(text: &str) -> Self {
        match text.split(' ').next().unwrap_or_default() {
            "NOPERM" => Self::Forbidden,
            "ERR" if text.contains("unknown command") => Self::UnknownCommand,
            "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "BUSY" | "MISCONF"
            | "OOM" | "NOREPLICAS" => Self::Passing,
            _ => Self::Rejected,
        }
    }

    /// The text of an error reply; `None` for an error of the connection.
    pub(super) fn text(error: &RedisError) -> Option<String> {
        matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension).then(|| server_message(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_errors_by_their_code() {
        for (reply, meaning) in [
            ("-NOPERM User web has no permissions to access one of the channels", ErrorReply::Forbidden),
            ("-ERR unknown command 'PUBLISH', with args beginning with: ", ErrorReply::UnknownCommand),
            ("-LOADING Redis is loading the dataset in memory", ErrorReply::Passing),
            ("-BUSY Redis is busy running a script", ErrorReply::Passing),
            ("-ERR", ErrorReply::Rejected),
            ("-ERR no", ErrorReply::Rejected),
            ("-MOVED 1 127.0.0.1:1", ErrorReply::Rejected),
            ("-NOAUTH Authentication required.", ErrorReply::Rejected),
            ("-DENIED NOPERM", ErrorReply::Rejected),
        ] {
            let value = redis::parse_redis_value(format!("{reply}\r\n").as_bytes()).unwrap();
            let error = value.extract_error().unwrap_err();
            let text = ErrorReply::text(&error).unwrap();
            assert_eq!(ErrorReply::of(&text), meaning, "{reply}: {text}");
        }
        let lost = RedisError::from(std::io::Error::other("gone"));
        assert_eq!(ErrorReply::text(&lost), None);
    }
}
