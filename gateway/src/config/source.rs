//! `source` in a namespace: where publications come from.
//!
//! Owns the sources that there are, what each keeps when nobody says otherwise, and what it must keep. Must never know
//! which Redis one is on.

use std::time::Duration;

use super::history::History;
use super::quantity::MIB;

/// Where publications come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A plain `PUBLISH`; each node numbers what it hears.
    PubSub,
    /// A log in Redis, which numbers for all nodes.
    Stream,
}

impl Source {
    /// As the file says it.
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
                Err(format!("\"{text}\" is not available in this version; \"pubsub\" and \"stream\" are"))
            }
            _ => Err(format!("expected \"pubsub\" or \"stream\", found \"{}\"", text.escape_debug())),
        }
    }

    /// What is kept for a channel when nobody says otherwise.
    pub(super) fn history(self) -> History {
        match self {
            Self::PubSub => History::default(),
            Self::Stream => History { size: 1000, ttl: Duration::from_secs(3600), bytes: 4 * MIB },
        }
    }

    /// Whether publications can come from here when this is kept of a channel.
    pub(super) fn check(self, history: &History) -> Result<(), &'static str> {
        match self {
            Self::Stream if history.size == 0 => {
                Err("a log that keeps nothing has nothing to read: set 1 or more, or source = \"pubsub\"")
            }
            Self::PubSub | Self::Stream => Ok(()),
        }
    }
}
