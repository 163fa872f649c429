//! The numbered probes of one subscriber connection, and what their order proves.
//!
//! Pure: no socket, no lock, no clock. Each probe is in one of four states: sent, acknowledged (the server answered
//! the `PUBLISH` without an error), received on the subscription, or both. Only an acknowledged probe can be missing:
//! one without an acknowledgement may never have been published. A probe is discarded when its loss is reported, or
//! when its connection or channel has changed: then it proves nothing. Must never report a probe that may still
//! arrive: see [`ProbeTracker::take_skipped`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// The maximum number of probes: at five probes per second, many times more than [`ARRIVAL_GRACE`].
const PROBES_MAX: usize = 128;

/// How long after its acknowledgement a probe may arrive out of order, where publications take several ways.
const ARRIVAL_GRACE: Duration = Duration::from_secs(2);

/// The connection that published a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeOrigin {
    /// The command link, as all publications of this node.
    CommandLink,
    /// The subscriber connection itself: this proves the subscription, but not that publishers reach the server.
    Subscription,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSent {
    /// The number that is published. Each probe has a higher number than the one before it.
    pub(super) number: u64,
    pub(super) at: Instant,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    sent: Instant,
    acknowledged: Option<Instant>,
    /// The server that executed it delivered it to a subscriber.
    counted: bool,
    received: bool,
    origin: ProbeOrigin,
}

impl Probe {
    fn is_missing(&self) -> bool {
        !self.received && self.acknowledged.is_some()
    }
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
    /// When the newest probe was sent that arrived over the command link without a missing one before it.
    verified: Instant,
    /// Probes below this number that are no longer here were discarded.
    discarded_below: u64,
    /// The server has confirmed the subscription.
    subscribed: bool,
    /// A probe has arrived that the server of the command link counted as delivered: it is, or was, the server of the
    /// subscription.
    local: bool,
    /// A probe has arrived that the server of the command link did not count: publications travel between servers.
    forwarded: bool,
    /// Consecutive error replies of the command link.
    rejections: u32,
}

impl ProbeTracker {
    pub(super) fn new(now: Instant) -> Self {
        // Unpredictable, and leaves room for more probes than any connection sends.
        let next = (random::u64() >> 2).max(1);
        Self {
            probes: VecDeque::new(),
            next,
            verified: now,
            discarded_below: next,
            subscribed: false,
            local: false,
            forwarded: false,
            rejections: 0,
        }
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
            origin: ProbeOrigin::CommandLink,
        });
        if self.probes.len() > PROBES_MAX {
            self.probes.pop_front();
        }
        ProbeSent { number, at: now }
    }

    /// Records that the probe is also published over the subscriber connection, because the command link does not
    /// answer.
    pub(super) fn publish_on_subscription(&mut self, number: u64) {
        if let Some(probe) = self.find(number) {
            probe.origin = ProbeOrigin::Subscription;
        }
    }

    /// Records that the `PUBLISH` was executed, and delivered to a subscriber if `counted`.
    pub(super) fn acknowledge(&mut self, number: u64, counted: bool, now: Instant) {
        self.rejections = 0;
        let Some(probe) = self.find(number) else { return };
        probe.acknowledged.get_or_insert(now);
        probe.counted = counted;
        self.locate(number);
    }

    /// Records that the `PUBLISH` got an error reply.
    pub(super) fn reject(&mut self) {
        self.rejections += 1;
    }

    /// Consecutive error replies of the command link.
    pub(super) fn rejections(&self) -> u32 {
        self.rejections
    }

    /// Records that the server has confirmed the subscription.
    pub(super) fn confirm(&mut self) {
        self.subscribed = true;
    }

    /// Records a number that arrived on the subscription. Returns `false` when it is not a probe.
    pub(super) fn receive(&mut self, number: u64) -> bool {
        let Some(probe) = self.find(number) else { return false };
        probe.received = true;
        self.locate(number);
        self.advance();
        true
    }

    /// Derives from a probe that was acknowledged and has arrived which server the command link is connected to. One
    /// that was also published on the subscriber connection may have arrived from there.
    fn locate(&mut self, number: u64) {
        let Some(probe) = self.find(number) else { return };
        if probe.received && probe.acknowledged.is_some() && probe.origin == ProbeOrigin::CommandLink {
            let counted = probe.counted;
            self.local |= counted;
            self.forwarded |= !counted;
        }
    }

    /// Whether the server of the command link is known to be, or to have been, that of the subscription.
    pub(super) fn is_local(&self) -> bool {
        self.local && !self.forwarded
    }

    /// Whether a probe that the server of the command link did not count cannot arrive.
    pub(super) fn needs_count(&self) -> bool {
        self.subscribed && !self.forwarded
    }

    /// Whether a probe was acknowledged and has not arrived. A probe that was discarded or dropped is not missing.
    pub(super) fn is_missing(&self, number: u64) -> bool {
        self.probes.iter().any(|probe| probe.number == number && probe.is_missing())
    }

    /// Whether any probe was acknowledged and has not arrived.
    pub(super) fn has_missing(&self) -> bool {
        self.probes.iter().any(Probe::is_missing)
    }

    /// Whether a probe was discarded: it no longer proves anything. One that was dropped because there are too many was
    /// not discarded: its round still ends in time.
    pub(super) fn is_discarded(&self, number: u64) -> bool {
        number < self.discarded_below && self.probes.iter().all(|probe| probe.number != number)
    }

    pub(super) fn is_received(&self, number: u64) -> bool {
        self.probes.iter().any(|probe| probe.number == number && probe.received)
    }

    /// The newest probe that has arrived.
    pub(super) fn newest_received(&self) -> Option<ProbeSent> {
        let newest = self.probes.iter().rev().find(|probe| probe.received)?;
        Some(ProbeSent { number: newest.number, at: newest.sent })
    }

    /// Everything published on the command link until this moment was received.
    pub(super) fn verified(&self) -> Instant {
        self.verified
    }

    /// Takes the probes that are lost for certain: acknowledged before a probe was sent that has arrived since.
    ///
    /// A server writes probes in the order in which it executed them, so the missing one can no longer arrive. The
    /// exception: publications reach the server of the subscription from other servers (`is_replicated`, or not known
    /// to be local). Then two probes may have taken different ways, the missing one has until [`ARRIVAL_GRACE`] after
    /// its acknowledgement, and a probe that was published on the subscriber connection is no evidence.
    pub(super) fn take_skipped(&mut self, now: Instant, is_replicated: bool) -> Option<Skipped> {
        let local = self.is_local() && !is_replicated;
        let arrived = self
            .probes
            .iter()
            .rev()
            .find(|probe| probe.received && (local || probe.origin == ProbeOrigin::CommandLink))?;
        let (arrived, sent) = (arrived.number, arrived.sent);
        let lost = |probe: &Probe| {
            let due = probe.acknowledged.filter(|at| *at <= sent);
            !probe.received && due.is_some_and(|at| local || at + ARRIVAL_GRACE <= now)
        };
        let count = self.probes.iter().filter(|probe| probe.number < arrived && lost(probe)).count();
        if count == 0 {
            return None;
        }
        let from = self.verified;
        // The probes before the newest arrival are resolved.
        self.probes.retain(|probe| probe.number >= arrived);
        self.discarded_below = arrived;
        self.advance();
        Some(Skipped { count, from })
    }

    /// Discards every probe: those in flight belong to a connection or channel that is no longer used, or to a
    /// reported loss.
    pub(super) fn clear(&mut self) {
        self.probes.clear();
        self.discarded_below = self.next;
    }

    /// Moves `verified` over the probes that have arrived without an acknowledged one missing before them.
    fn advance(&mut self) {
        for probe in &self.probes {
            if probe.received && probe.origin == ProbeOrigin::CommandLink {
                self.verified = self.verified.max(probe.sent);
            } else if probe.is_missing() {
                return;
            }
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut Probe> {
        self.probes.iter_mut().find(|probe| probe.number == number)
    }
}

#[cfg(test)]
mod tests;
