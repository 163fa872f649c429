//! `source` in a namespace: where publications come from.
//!
//! Owns the names of the sources. Must never know which Redis is used.

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
}
