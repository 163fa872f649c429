//! One topic of the table: its state on the wire, its outage, and its waiters.
//!
//! Pure. Only the table may change it, because the table keeps the counts up to date.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Confirmation;
use crate::broker::BrokerError;

/// The number of topics in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker::redis) struct SubscriptionCounts {
    pub(in crate::broker::redis) desired: usize,
    pub(in crate::broker::redis) active: usize,
    /// Desired, active before, and rejected now.
    pub(in crate::broker::redis) rejected: usize,
    /// Desired, and no longer on this node.
    pub(in crate::broker::redis) misplaced: usize,
}

/// One topic of the table.
#[derive(Debug)]
pub(super) struct TopicSubscription {
    pub(super) desired: bool,
    pub(super) wire: WireState,
    /// Listed in `changed`.
    pub(super) changed: bool,
    /// The server unsubscribed the topic while a command for it was in flight.
    pub(super) unsubscribed_at: Option<Instant>,
    pub(super) outage: Option<Outage>,
    /// It was active before; otherwise it was at most accepted while the server was unavailable.
    pub(super) was_active: bool,
    pub(super) waiters: Vec<oneshot::Sender<Confirmation>>,
}

/// The state of a topic on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireState {
    Unsubscribed,
    /// A command of the present batch is in flight.
    Pending,
    Subscribed,
    Rejected,
    /// The server no longer carries it: it waits for a placement.
    Misplaced,
}

/// A topic that is no longer active.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) since: Instant,
    /// The gap was reported, and the outage continues.
    pub(super) reported: bool,
}

impl TopicSubscription {
    pub(super) fn new() -> Self {
        Self {
            desired: false,
            wire: WireState::Unsubscribed,
            changed: false,
            unsubscribed_at: None,
            outage: None,
            was_active: false,
            waiters: Vec::new(),
        }
    }

    pub(super) fn subscribe(&mut self) -> Option<oneshot::Receiver<Confirmation>> {
        self.desired = true;
        if self.wire == WireState::Subscribed {
            return None;
        }
        // Before it grows, waiters that gave up are removed.
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiters| !waiters.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        self.waiters.push(sender);
        Some(receiver)
    }

    /// Marks the topic as unsubscribed by the server. It is subscribed again immediately: the reply contains its new
    /// location.
    pub(super) fn mark_lost(&mut self, since: Instant) {
        self.wire = WireState::Unsubscribed;
        if self.desired {
            self.outage.get_or_insert(Outage { since, reported: false });
        }
    }

    pub(super) fn reject(&mut self, reason: String) {
        if self.desired && self.outage.is_some() {
            // A topic that was active stays desired until the ACL is changed, so that a retry can succeed. One that
            // was accepted while the server was unavailable was never active.
            let answer = if self.was_active { BrokerError::Unavailable } else { BrokerError::Rejected };
            self.notify(&Err(answer(reason)));
            self.wire = WireState::Rejected;
        } else {
            // Never active: the waiters get the error, and nothing else depends on it.
            self.notify(&Err(BrokerError::Rejected(reason)));
            self.desired = false;
            self.wire = WireState::Unsubscribed;
        }
    }

    pub(super) fn notify(&mut self, confirmation: &Confirmation) {
        for waiters in std::mem::take(&mut self.waiters) {
            // The waiter may have been dropped.
            let _ = waiters.send(confirmation.clone());
        }
    }

    pub(super) fn needs_sync(&self) -> bool {
        matches!((self.desired, self.wire), (true, WireState::Unsubscribed) | (false, WireState::Subscribed))
    }

    pub(super) fn counts(&self) -> SubscriptionCounts {
        let count = |wire| usize::from(self.desired && self.wire == wire);
        SubscriptionCounts {
            desired: usize::from(self.desired),
            active: count(WireState::Subscribed),
            // A denied topic that was never active must not make the link count as down.
            rejected: if self.was_active { count(WireState::Rejected) } else { 0 },
            misplaced: count(WireState::Misplaced),
        }
    }
}

impl SubscriptionCounts {
    pub(super) fn adjust(&mut self, before: Self, after: Self) {
        self.desired = self.desired + after.desired - before.desired;
        self.active = self.active + after.active - before.active;
        self.rejected = self.rejected + after.rejected - before.rejected;
        self.misplaced = self.misplaced + after.misplaced - before.misplaced;
    }
}
