//! The subscriber link: one connection that carries only subscriptions and PING.
//!
//! Owns the lifecycle of the connection (connect, resubscribe, receive, fail, reconnect) and every call to the
//! handler, which keeps their order: messages of the old connection, then the gap, then messages of the new one. Must
//! never take an open socket for proof that it receives: see [`super::probe`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command_queue::CommandSender;
use super::link_target::LinkTarget;
use super::local_fallback::FALLBACK_AFTER;
use super::receive_queue::ReceiveQueue;
use super::settings::RedisSettings;
use super::status::LinkState;
use super::subscriber_connection::SubscriberConnection;
use super::subscription_table::{Confirmation, SubscriptionTable};
use crate::broker::{AffectedTopics, BrokerEventHandler, LinkStatus, Topic, TopicGap};
use crate::drain::Drain;
use earshot_redis_link::{Backoff, LinkError};

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

/// The task of the link.
pub(super) struct SubscriberLink {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) target: LinkTarget,
    pub(super) subscriptions: Arc<DesiredSubscriptions>,
    pub(super) handler: Arc<dyn BrokerEventHandler>,
    /// Publishes probes; and the state of that link.
    pub(super) command_sender: CommandSender,
    pub(super) commands: Arc<LinkState>,
    /// The handler also receives from other links: a gap of this one does not concern all topics.
    pub(super) is_partial: bool,
}

impl SubscriberLink {
    /// Reports a gap of this link to the handler.
    pub(super) fn report_gap(&self, mut gap: TopicGap) {
        if self.is_partial && matches!(gap.topics, AffectedTopics::All) {
            gap.topics = AffectedTopics::Some(self.subscriptions.table().topics());
        }
        self.handler.on_gap(gap);
    }

    /// Maintains the link until the gateway stops.
    pub(super) async fn run(self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.subscriptions.closed.cancelled() => return,
            () = self.maintain() => {}
        }
        self.subscriptions.state.stopped();
        self.subscriptions.table().clear();
    }

    async fn maintain(&self) {
        let mut backoff = Backoff::new(&self.settings.instance);
        loop {
            let failure = Box::pin(self.run_connection(&mut backoff)).await;
            self.subscriptions.state.down(&failure);
            self.target.invalidate_topology();
            self.target.pause(backoff.next(&failure)).await;
        }
    }

    /// One connection, from the attempt to its end.
    async fn run_connection(&self, backoff: &mut Backoff) -> LinkError {
        let socket = match self.target.dial(&self.settings).await {
            Ok(socket) => socket,
            Err(failure) => return failure,
        };
        *self.subscriptions.receive_queue.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::downgrade(&socket.receive_queue);
        let since = Instant::now();
        let mut connection = SubscriberConnection::new(self, socket);
        let failure = connection.run().await;
        // A connection that is closed soon after it was accepted must not reset the backoff.
        if since.elapsed() > self.settings.instance.retry_max {
            backoff.reset();
        }
        failure
    }
}
