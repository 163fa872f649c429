//! The source of a channel: where its publications come from, and what assigns their positions.
//!
//! Must never know how a broker implements it.

use std::sync::Arc;

use crate::broker::log::LogConfig;

/// The source of the channels of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelSource {
    /// Pub/sub: each node assigns positions itself.
    PubSub,
    /// Sharded pub/sub: each node assigns positions itself.
    ShardedPubSub,
    /// A log of the broker, which assigns positions for all nodes.
    Stream(Arc<LogConfig>),
}

impl ChannelSource {
    /// The log that assigns positions, if there is one.
    pub fn log(&self) -> Option<&Arc<LogConfig>> {
        match self {
            Self::PubSub | Self::ShardedPubSub => None,
            Self::Stream(log) => Some(log),
        }
    }

    /// Whether the publications arrive through sharded pub/sub.
    pub fn is_sharded(&self) -> bool {
        match self {
            Self::PubSub => false,
            Self::ShardedPubSub => true,
            Self::Stream(log) => log.sharded,
        }
    }
}
