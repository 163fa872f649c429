//! The numbered probes of one subscriber connection, and what their order proves.
//!
//! Pure: no socket, no lock, no clock. Each probe is in one of four states: sent, acknowledged (the server answered the
//! `PUBLISH` without an error), received on the subscription, or neither. Only an acknowledged probe can be missing: one
//! without an acknowledgement may never have been published. Must never report a probe that may still arrive: see
//! [`ProbeTracker::take_skipped`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// Probes that are remembered. At five probes a second this is more than any answer is waited for.
const PROBES_MAX: usize = 128;

/// Which connection published a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publisher {
    /// The command link, as all publications of this node.
    Commands,
    /// The subscriber connection itself: it proves the subscription, but not that publishers reach this server.
    Subscription,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSent {
    /// What is published. Each probe has a higher number than the one before it.
    pub(super) number: u64,
    pub(super) at: Instant,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    sent: Instant,
    acknowledged: Option<Instant>,
    /// The server that executed it delivered it to somebody.
    counted: bool,
    received: bool,
    publisher: Publisher,
}

/// Probes that were acknowledged and never arrived, although a later one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) count: usize,
    /// When the last probe before them was sent: everything published until then was received.
    pub(super) from: Instant,
}

/// The probes of one connection, oldest first.
#[derive(Debug)]
pub(super) struct ProbeTracker {
    probes: VecDeque<Probe>,
    next: u64,
    /// When the newest probe was sent that arrived over the command link without a hole before it.
    verified: Instant,
    /// A probe has arrived that the server of the command link counted as delivered: it is, or was, the server of the
    /// subscription.
    local: bool,
}

impl ProbeTracker {
    pub(super) fn new(now: Instant) -> Self {
        // Nobody can guess it, and above it is room for more probes than there will be.
        let next = (random::u64() >> 2).max(1);
        Self { probes: VecDeque::new(), next, verified: now, local: false }
    }

    /// Takes the next number.
    pub(super) fn send(&mut self, now: Instant) -> ProbeSent {
        let number = self.next;
        self.next += 1;
        self.probes.push_back(Probe {
            number,
            sent: now,
            acknowledged: None,
            counted: false,
            received: false,
            publisher: Publisher::Commands,
        });
        if self.probes.len() > PROBES_MAX {
            self.probes.pop_front();
        }
        ProbeSent { number, at: now }
    }

    /// The probe is published over the subscriber connection, too, because the command link does not answer.
    pub(super) fn publish_on_subscription(&mut self, number: u64) {
        if let Some(probe) = self.find(number) {
            probe.publisher = Publisher::Subscription;
        }
    }

    /// The server of the command link has executed the `PUBLISH`, and delivered it to somebody if `counted`.
    pub(super) fn acknowledge(&mut self, number: u64, counted: bool, now: Instant) {
        let Some(probe) = self.find(number) else { return };
        probe.acknowledged.get_or_insert(now);
        probe.counted = counted;
        let local = counted && probe.received;
        self.local |= local;
    }

    /// A number arrived on the subscription; `false` when it is not one of ours.
    pub(super) fn receive(&mut self, number: u64) -> bool {
        let Some(probe) = self.find(number) else { return false };
        probe.received = true;
        let local = probe.counted;
        self.local |= local;
        self.advance();
        true
    }

    /// Whether the server of the command link is known to be, or to have been, that of the subscription.
    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    pub(super) fn is_received(&self, number: u64) -> bool {
        self.probes.iter().any(|probe| probe.number == number && probe.received)
    }

    /// The newest probe that has arrived.
    pub(super) fn newest_received(&self) -> Option<ProbeSent> {
        let newest = self.probes.iter().rev().find(|probe| probe.received)?;
        Some(ProbeSent { number: newest.number, at: newest.sent })
    }

    /// Everything published until this moment, where the command link publishes, was received.
    pub(super) fn verified(&self) -> Instant {
        self.verified
    }

    /// Takes out the probes that are lost for certain: acknowledged before a probe was sent that has arrived since.
    ///
    /// A server writes probes in the order in which it executed them, so the missing one cannot arrive any more. Unless
    /// publications reach the server of the subscription from other servers (`is_replicated`, or not known to be local):
    /// then two probes may have travelled by different ways, the missing one has until `grace` after its
    /// acknowledgement, and a probe that was published on the subscriber connection is no evidence.
    pub(super) fn take_skipped(
        &mut self,
        now: Instant,
        is_replicated: bool,
        grace: Duration,
    ) -> Option<Skipped> {
        let local = self.local && !is_replicated;
        let arrived = self
            .probes
            .iter()
            .rev()
            .find(|probe| probe.received && (local || probe.publisher == Publisher::Commands))?;
        let (arrived, sent) = (arrived.number, arrived.sent);
        let lost = |probe: &Probe| {
            let due = probe.acknowledged.filter(|at| *at <= sent);
            !probe.received && due.is_some_and(|at| local || at + grace <= now)
        };
        let count = self.probes.iter().filter(|probe| probe.number < arrived && lost(probe)).count();
        if count == 0 {
            return None;
        }
        let from = self.verified;
        // What stands before the newest arrival is settled.
        self.probes.retain(|probe| probe.number >= arrived);
        self.advance();
        Some(Skipped { count, from })
    }

    /// Forgets every probe: those on their way belong to a channel that is no longer subscribed.
    pub(super) fn clear(&mut self) {
        self.probes.clear();
    }

    /// Moves `verified` over the probes that have arrived without an acknowledged one missing before them.
    fn advance(&mut self) {
        for probe in &self.probes {
            if probe.received && probe.publisher == Publisher::Commands {
                self.verified = self.verified.max(probe.sent);
            } else if !probe.received && probe.acknowledged.is_some() {
                return;
            }
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|probe| probe.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(200);
    const GRACE: Duration = Duration::from_secs(1);
    const LOCAL: bool = false;
    const REPLICATED: bool = true;

    /// A tracker that has received a first probe, and the moment of that.
    fn tracker() -> (ProbeTracker, Instant) {
        let now = Instant::now();
        let mut tracker = ProbeTracker::new(now);
        let first = acknowledged(&mut tracker, now);
        assert!(tracker.receive(first) && tracker.is_local());
        (tracker, now)
    }

    /// Sends a probe that is acknowledged at once.
    fn acknowledged(tracker: &mut ProbeTracker, now: Instant) -> u64 {
        let number = tracker.send(now).number;
        tracker.acknowledge(number, true, now);
        number
    }

    #[tokio::test(start_paused = true)]
    async fn a_skipped_number_is_a_loss_since_the_last_good_one() {
        let (mut tracker, start) = tracker();
        for step in 1..=3 {
            acknowledged(&mut tracker, start + STEP * step);
        }
        assert_eq!(
            tracker.take_skipped(start + STEP * 3, LOCAL, GRACE),
            None,
            "they may still be on their way"
        );
        let later = acknowledged(&mut tracker, start + STEP * 4);
        assert!(tracker.receive(later));
        let skipped = tracker.take_skipped(start + STEP * 4, LOCAL, GRACE);
        assert_eq!(skipped, Some(Skipped { count: 3, from: start }));
        assert_eq!(tracker.take_skipped(start + STEP * 4, LOCAL, GRACE), None, "once");
        assert_eq!(tracker.verified(), start + STEP * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_without_an_acknowledgement_is_not_missed() {
        let (mut tracker, start) = tracker();
        tracker.send(start);
        let later = acknowledged(&mut tracker, start + STEP);
        assert!(tracker.receive(later));
        assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL, GRACE), None);
        assert_eq!(tracker.verified(), start + STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_are_on_their_way_together_may_be_executed_in_any_order() {
        let (mut tracker, start) = tracker();
        let older = tracker.send(start).number;
        // Published over the subscriber connection before the command link answered for the older one.
        let newer = tracker.send(start + STEP).number;
        tracker.publish_on_subscription(newer);
        assert!(tracker.receive(newer));
        tracker.acknowledge(older, true, start + STEP * 2);
        assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL, GRACE), None);
        assert!(tracker.receive(older));
        assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL, GRACE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn where_probes_travel_by_several_ways_one_may_be_late() {
        let (mut tracker, start) = tracker();
        let late = acknowledged(&mut tracker, start);
        let first = acknowledged(&mut tracker, start + STEP);
        assert!(tracker.receive(first));
        assert_eq!(tracker.take_skipped(start + STEP * 2, REPLICATED, GRACE), None);
        assert!(tracker.receive(late));
        assert_eq!(tracker.take_skipped(start + GRACE, REPLICATED, GRACE), None);
        let lost = acknowledged(&mut tracker, start + STEP * 2);
        let next = acknowledged(&mut tracker, start + STEP * 3);
        assert!(tracker.receive(next) && !tracker.is_received(lost));
        let skipped = tracker.take_skipped(start + STEP * 2 + GRACE, REPLICATED, GRACE);
        assert_eq!(skipped, Some(Skipped { count: 1, from: start + STEP }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_over_the_subscription_proves_nothing_about_other_servers() {
        let (mut tracker, start) = tracker();
        acknowledged(&mut tracker, start);
        let own = tracker.send(start + STEP).number;
        tracker.publish_on_subscription(own);
        assert!(tracker.receive(own));
        assert_eq!(tracker.take_skipped(start + GRACE * 2, REPLICATED, GRACE), None);
        let skipped = tracker.take_skipped(start + GRACE * 2, LOCAL, GRACE);
        assert_eq!(skipped, Some(Skipped { count: 1, from: start }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_foreign_numbers_are_none() {
        let (mut tracker, start) = tracker();
        let first = tracker.send(start).number;
        for _ in 0..PROBES_MAX {
            tracker.send(start);
        }
        assert_eq!(tracker.probes.len(), PROBES_MAX);
        assert!(!tracker.receive(first) && !tracker.receive(0));
    }
}
