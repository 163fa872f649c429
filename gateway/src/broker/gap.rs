//! Gaps: intervals in which a broker may have missed publications.
//!
//! Owns the causes, and their names for clients and metrics. Pure.

use tokio::time::Instant;

use super::Topic;

/// Why publications may have been missed: the label of the gap counter, and the reason that clients receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The link to the broker was down, or its probes did not return.
    LinkDown,
    /// A bounded queue between the link and the subscribers was full.
    QueueFull,
    /// A publication was larger than the configured limit.
    TooLarge,
    /// The position of a client belongs to a sequence that no longer exists.
    UnknownPosition,
    /// A client was away for longer than the history covers.
    HistoryTooShort,
    /// The log in the broker lost entries that were delivered.
    LogLost,
    /// A slow client, in a namespace that drops the oldest publications.
    SlowConsumer,
}

impl GapCause {
    /// The stable name, for clients and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinkDown => "link-down",
            Self::QueueFull => "queue-full",
            Self::TooLarge => "too-large",
            Self::UnknownPosition => "unknown-position",
            Self::HistoryTooShort => "history-too-short",
            Self::LogLost => "log-lost",
            Self::SlowConsumer => "slow-consumer",
        }
    }
}

/// An interval in which a broker may have missed publications.
#[derive(Clone, Debug)]
pub struct TopicGap {
    /// The topics concerned. A pattern stands for every channel that it matches.
    pub topics: AffectedTopics,
    /// The cause.
    pub cause: GapCause,
    /// The first moment that may not have been received.
    pub from: Instant,
}

/// Which topics a [`TopicGap`] concerns.
#[derive(Clone, Debug)]
pub enum AffectedTopics {
    /// Every topic of the broker.
    All,
    /// These topics.
    Some(Vec<Topic>),
}
