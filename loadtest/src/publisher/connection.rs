//! Connection to publish over: Redis, or the HTTP API of the target. Blocks, preserves the order of messages, and never
//! retries: the first attempt may have succeeded.

use super::Outgoing;
use super::baseline::BaselineConnection;
use super::error::PublisherError;
use super::http::ApiConnection;
use super::redis::RedisConnection;
use crate::target::BenchTarget;

/// Where to publish.
#[derive(Clone, Debug)]
pub(crate) enum PublishTarget {
    /// `POST` to the target, in the format of its kind.
    Http,
    /// `PUBLISH` at this URL, which may contain a password.
    Redis(String),
    /// The server of the `kernel-baseline` scenario.
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
            _ => Err("expected `http`, or a URL that begins with redis:// or rediss://".to_owned()),
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
    Http(ApiConnection),
    /// To Redis.
    Redis(RedisConnection),
    /// To the kernel baseline.
    KernelBaseline(BaselineConnection),
}

impl PublisherConnection {
    /// Connects.
    pub(crate) fn open(
        settings: &PublishTarget,
        target: &BenchTarget,
        api_key: Option<&str>,
    ) -> Result<Self, PublisherError> {
        Ok(match settings {
            PublishTarget::Http => Self::Http(ApiConnection::open(target, api_key)?),
            PublishTarget::Redis(url) => Self::Redis(RedisConnection::open(url)?),
            PublishTarget::KernelBaseline => {
                Self::KernelBaseline(BaselineConnection::open(target.address())?)
            }
        })
    }

    /// Publishes in order; returns when all messages are accepted.
    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> Result<(), PublisherError> {
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
    fn password_is_not_displayed() {
        let settings: PublishTarget = "redis://:secret@host:6379/0".parse().unwrap();
        assert_eq!(settings.to_string(), "Redis");
        assert!("mysql://x".parse::<PublishTarget>().is_err());
    }
}
