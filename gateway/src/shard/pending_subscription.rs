//! A subscription until its first reply or event.

use std::collections::VecDeque;
use std::sync::Arc;

use super::channels::ChannelId;
use crate::auth::UnixSeconds;
use crate::node::messages::{RecoverFrom, Recovery};
use crate::node::publication::Publication;

/// A subscription that waits for its first reply or event.
#[derive(Debug)]
pub(super) struct PendingSubscription {
    pub(super) channel: ChannelId,
    /// The position from which the client recovers.
    pub(super) since: Option<RecoverFrom>,
    /// When the subscription expires, if its token says so.
    pub(super) expires_at: Option<UnixSeconds>,
    /// Replay the newest publication.
    pub(super) last: bool,
    /// The number of the recovery request to the node.
    pub(super) request: Option<u32>,
    /// The first page of the recovery, written with the reply or event.
    pub(super) recovery: Option<Recovery>,
    /// The recovered publications that follow.
    pub(super) rest: VecDeque<Arc<Publication>>,
}

impl PendingSubscription {
    pub(super) fn new(channel: ChannelId, since: Option<RecoverFrom>, last: bool) -> Self {
        Self { channel, since, expires_at: None, last, request: None, recovery: None, rest: VecDeque::new() }
    }

    /// Whether it waits for a recovery.
    pub(super) fn lacks_recovery(&self) -> bool {
        (self.since.is_some() || self.last) && self.recovery.is_none()
    }
}
