//! Delivery within this node while Redis is unavailable.
//!
//! Owns the activation of the fallback. Must never deliver a publication that Redis may have received, or deliver it
//! before earlier ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use tokio::time::Instant;

use super::status::LinkState;
use crate::broker::{BrokerEventHandler, BrokerMessage};

/// How long Redis must be unavailable: a shorter outage is waited for, so that other nodes miss nothing.
pub(super) const FALLBACK_AFTER: Duration = Duration::from_secs(1);

/// The fallback of a node.
#[derive(Clone)]
pub(super) struct LocalFallback {
    /// The link that publishes.
    pub(super) state: Arc<LinkState>,
    pub(super) handler: Arc<dyn BrokerEventHandler>,
}

impl LocalFallback {
    /// When the fallback becomes active; `None` while the link is up.
    pub(super) fn active_from(&self) -> Option<Instant> {
        self.state.down_since().map(|since| since + FALLBACK_AFTER)
    }

    /// Whether the fallback is active.
    pub(super) fn is_active(&self) -> bool {
        self.active_from().is_some_and(|from| from <= Instant::now())
    }

    /// Delivers a publication to the clients of this node.
    pub(super) fn deliver(&self, channel: &ChannelName, data: Bytes) {
        self.handler.on_local_publish(BrokerMessage { channel: channel.to_string(), data });
    }
}

impl std::fmt::Debug for LocalFallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalFallback").field("state", &self.state).finish_non_exhaustive()
    }
}
