//! The subscriptions of one link, which the link shares with its callers.
//!
//! Owns the table of desired and active topics, and when a caller no longer waits for the broker. Must never connect:
//! [`super::subscriber_task`] does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::local_fallback::FALLBACK_AFTER;
use super::receive_queue::ReceiveQueue;
use super::status::LinkState;
use super::subscription_table::{Confirmation, SubscriptionTable};
use crate::broker::{LinkStatus, Topic};

/// How often a pending subscription is checked for the fallback.
const PENDING_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The subscriptions that the link shares with callers.
#[derive(Debug)]
pub(super) struct DesiredSubscriptions {
    table: Mutex<SubscriptionTable>,
    changed: Notify,
    state: LinkState,
    /// The queue of the present connection.
    receive_queue: Mutex<Weak<ReceiveQueue>>,
    /// Cancelled when the link is no longer needed.
    closed: CancellationToken,
}

impl DesiredSubscriptions {
    pub(super) fn new(state: LinkState) -> Self {
        let (changed, closed) = (Notify::new(), CancellationToken::new());
        Self { table: Mutex::default(), changed, state, receive_queue: Mutex::default(), closed }
    }

    /// Subscribes to a topic. Returns `None` when it is active already.
    pub(super) fn subscribe(&self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        let confirmation = self.table().subscribe(topic);
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        confirmation
    }

    /// Resolves when the link has been down for so long that the topic is not waited for: it counts as active, with a
    /// gap from now on, which is reported when it is subscribed.
    pub(super) async fn wait_for_fallback(&self, topic: &Topic) {
        loop {
            let now = Instant::now();
            match self.state.down_since().map(|since| since + FALLBACK_AFTER) {
                Some(from) if from <= now => {
                    if self.table().accept_offline(topic, now) {
                        return;
                    }
                    // The command in flight completes, or the link ends, within its timeout.
                    tokio::time::sleep(PENDING_POLL_INTERVAL).await;
                }
                Some(from) => tokio::time::sleep_until(from).await,
                None => tokio::time::sleep(FALLBACK_AFTER).await,
            }
        }
    }

    /// Unsubscribes from a topic.
    pub(super) fn unsubscribe(&self, topic: &Topic) {
        self.table().unsubscribe(topic);
        self.changed.notify_one();
    }

    /// The status of the link.
    pub(super) fn status(&self) -> LinkStatus {
        let counts = self.table().counts();
        let mut status = self.state.status();
        status.desired = counts.desired;
        status.active = counts.active;
        let receive_queue = self.receive_queue.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        status.receive_queue_bytes = receive_queue.map_or(0, |receive_queue| receive_queue.bytes());
        if status.up && counts.misplaced > 0 {
            status.up = false;
            status.error =
                Some(format!("{} topics wait for the node that owns their slot", counts.misplaced));
        }
        if status.up && counts.rejected > 0 {
            status.up = false;
            status.error =
                Some(format!("{} topics that were active before are rejected now", counts.rejected));
        }
        status
    }

    /// Wakes the link after a change of the table.
    pub(super) fn notify(&self) {
        self.changed.notify_one();
    }

    /// Closes the link.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Resolves when the link is no longer needed.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Sets the queue of the present connection, for the status.
    pub(super) fn set_receive_queue(&self, receive_queue: &Arc<ReceiveQueue>) {
        *self.receive_queue.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(receive_queue);
    }

    /// Resolves after a change of the table.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The table. The lock must not be held across an await.
    pub(super) fn table(&self) -> MutexGuard<'_, SubscriptionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link's state.
    pub(super) fn state(&self) -> &LinkState {
        &self.state
    }
}
