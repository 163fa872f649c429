//! Where messages are published: Redis, or the target's own HTTP API. A connection blocks, keeps the order of its messages,
//! and never tries one again: whether it arrived the first time is not known.

use std::time::Duration;

use super::Outgoing;
use super::baseline::BaselineConnection;
use super::http::HttpConnection;
use super::redis::RedisConnection;
use crate::client::http::HttpError;
use crate::target::Target;

/// How long connecting, and each answer, may take.
pub(super) const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Why messages could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// Redis could not be reached, or refused.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The gateway's API could not be reached.
    #[error("HTTP API: {0}")]
    Io(#[from] std::io::Error),
    /// The answer is not HTTP.
    #[error("HTTP API: {0}")]
    Http(#[from] HttpError),
    /// The API refused; the text is its answer.
    #[error("HTTP API: status {status}: {answer}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        answer: String,
    },
}

/// Where to publish, as the command line has it.
#[derive(Clone, Debug)]
pub(crate) enum PublishTarget {
    /// `POST` to the target, as its kind wants it.
    Http,
    /// `PUBLISH` at this URL, which may hold a password.
    Redis(String),
    /// The target is the bare loop of `limit`.
    KernelBaseline,
}

impl std::str::FromStr for PublishTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http" => Ok(Self::Http),
            url if url.starts_with("redis://") || url.starts_with("rediss://") => {
                Ok(Self::Redis(url.to_owned()))
            }
            _ => Err("is neither `http` nor a URL that begins with redis:// or rediss://".to_owned()),
        }
    }
}

impl std::fmt::Display for PublishTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http => f.write_str("the HTTP API"),
            Self::Redis(_) => f.write_str("Redis"),
            Self::KernelBaseline => f.write_str("a plain socket"),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) enum PublisherConnection {
    /// To the HTTP API.
    Http(HttpConnection),
    /// To Redis.
    Redis(RedisConnection),
    /// To the bare loop.
    KernelBaseline(BaselineConnection),
}

impl PublisherConnection {
    /// Connects.
    pub(crate) fn open(
        settings: &PublishTarget,
        target: &Target,
        api_key: Option<&str>,
    ) -> Result<Self, PublishError> {
        Ok(match settings {
            PublishTarget::Http => Self::Http(HttpConnection::open(target, api_key)?),
            PublishTarget::Redis(url) => Self::Redis(RedisConnection::open(url)?),
            PublishTarget::KernelBaseline => {
                Self::KernelBaseline(BaselineConnection::open(target.address())?)
            }
        })
    }

    /// Publishes in order, and returns when all are accepted.
    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> Result<(), PublishError> {
        match self {
            Self::Http(connection) => connection.publish(batch),
            Self::Redis(connection) => connection.publish(batch),
            Self::KernelBaseline(connection) => Ok(connection.publish(batch)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let settings: PublishTarget = "redis://:secret@host:6379/0".parse().unwrap();
        assert_eq!(settings.to_string(), "Redis");
        assert!("mysql://x".parse::<PublishTarget>().is_err());
    }
}
