//! `source` in a namespace: where publications come from.
//!
//! Owns the sources and the default history of each. Must never know which Redis is used.

use std::time::Duration;

use super::history::History;
use super::reader::units::MIB;

/// Where publications come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A plain `PUBLISH`; each node assigns offsets itself.
    PubSub,
    /// A log in Redis, which assigns offsets for all nodes.
    Stream,
}

impl Source {
    /// The value in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PubSub => "pubsub",
            Self::Stream => "stream",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "pubsub" => Ok(Self::PubSub),
            "stream" => Ok(Self::Stream),
            "bullmq" | "celery" | "amqp" => {
                Err(format!("\"{text}\" is not available in this version: use \"pubsub\" or \"stream\""))
            }
            _ => Err(format!("expected \"pubsub\" or \"stream\", found \"{}\"", text.escape_debug())),
        }
    }

    /// The default history.
    pub(super) fn history(self) -> History {
        match self {
            Self::PubSub => History::default(),
            Self::Stream => History { size: 1000, ttl: Duration::from_secs(3600), bytes: 4 * MIB },
        }
    }

    /// Checks that a history suits the source.
    ///
    /// # Errors
    /// If it does not.
    pub(super) fn check(self, history: &History) -> Result<(), &'static str> {
        match self {
            Self::Stream if history.size == 0 => {
                Err("source = \"stream\" requires a history: set 1 or more, or use source = \"pubsub\"")
            }
            Self::PubSub | Self::Stream => Ok(()),
        }
    }
}
