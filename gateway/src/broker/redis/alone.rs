//! A node without its Redis: what is published here reaches the clients of this node.
//!
//! Owns the moment from which that is so, and the way there. Must never do so with what Redis may have been given, nor
//! let it overtake what came before.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::outbox::{Request, Told, Waiting};
use super::status::LinkState;
use crate::broker::{BrokerEventHandler, BrokerMessage};

/// How long Redis must have been away: a shorter absence is waited for, and nothing is kept from other nodes.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the node is alone, and who hears it then.
#[derive(Clone)]
pub(super) struct Alone {
    /// The link on which publications go out.
    pub(super) state: Arc<LinkState>,
    pub(super) listener: Arc<dyn BrokerEventHandler>,
}

impl Alone {
    /// From when on the node is alone; `None` while it is not about to be.
    pub(super) fn from(&self) -> Option<Instant> {
        self.state.down_since().map(|since| since + PATIENCE)
    }

    /// Whether it is alone now.
    pub(super) fn is_so(&self) -> bool {
        self.from().is_some_and(|from| from <= Instant::now())
    }

    /// Gives a publication to the clients of this node.
    pub(super) fn hand_on(&self, waiting: Waiting) {
        use Request::{Publish, PublishSharded};
        if let Publish { channel, data, .. } | PublishSharded { channel, data, .. } = &waiting.request {
            self.listener
                .on_local_publish(BrokerMessage { channel: channel.to_string(), data: data.clone() });
        }
        waiting.answer(Ok(Told::ThisNode));
    }
}

impl std::fmt::Debug for Alone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alone").field("state", &self.state).finish_non_exhaustive()
    }
}
