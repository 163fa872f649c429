//! One subscriber of a worker: its plan, its connection and its state; and the queue of subscribers to connect.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::client::{ClientConnection, ResumePoint};
use crate::subscriber_plan::{ReadRate, SubscriberPlan};

/// State of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SwarmSubscriberState {
    /// Not connected, and not scheduled to connect.
    Disconnected,
    /// Not connected, scheduled to connect.
    Queued,
    /// Connecting or subscribing.
    Connecting,
    /// Receives publications.
    Subscribed,
    /// Has sent an unsubscribe command.
    Unsubscribing,
    /// Connected without a subscription.
    Unsubscribed,
    /// Has sent a subscribe command on an existing connection.
    Resubscribing,
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct SwarmSubscriber {
    pub(super) plan: SubscriberPlan,
    pub(super) connection: Option<ClientConnection>,
    pub(super) state: SwarmSubscriberState,
    /// When the awaited event was due.
    pub(super) since: Instant,
    /// Where to resume after a reconnect.
    pub(super) resume_point: ResumePoint,
    /// Has been subscribed before: a failure no longer ends the run.
    pub(super) was_subscribed: bool,
}

impl SwarmSubscriber {
    pub(super) fn new(plan: SubscriberPlan, now: Instant) -> Self {
        let (connection, state, resume_point) = (None, SwarmSubscriberState::Disconnected, ResumePoint::Live);
        Self { plan, connection, state, since: now, resume_point, was_subscribed: false }
    }

    /// Whether the plan limits the read rate.
    pub(super) fn is_slow(&self) -> bool {
        self.plan.read_rate != ReadRate::Unlimited
    }
}

/// Pacing of connection attempts.
#[derive(Clone, Copy, Debug)]
pub(super) enum ConnectPacing {
    /// As concurrency permits; latency counts from the start of each attempt.
    Unpaced,
    /// As concurrency permits; latency counts from one moment for all.
    Simultaneous(Instant),
    /// At a rate from a moment on; latency counts from when each attempt was due.
    PerSecond(Instant, f64),
}

/// Subscribers waiting to connect.
#[derive(Debug)]
pub(super) struct ConnectQueue {
    pub(super) waiting: VecDeque<usize>,
    pub(super) in_progress: usize,
    pub(super) pacing: ConnectPacing,
    /// Connections started with the current pacing.
    started: u64,
}

impl ConnectQueue {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), in_progress: 0, pacing: ConnectPacing::Unpaced, started: 0 }
    }

    /// Sets the pacing of the following connections.
    pub(super) fn begin(&mut self, pacing: ConnectPacing) {
        (self.pacing, self.started) = (pacing, 0);
    }

    /// Queues a reconnect. Resets the pacing when the queue is empty: a pacing applies only to the subscribers it was
    /// set for.
    pub(super) fn enqueue(&mut self, subscriber: usize) {
        if self.waiting.is_empty() && self.in_progress == 0 {
            self.begin(ConnectPacing::Unpaced);
        }
        self.waiting.push_back(subscriber);
    }

    /// Next subscriber to connect, and since when it has been due.
    pub(super) fn next(&mut self, now: Instant, connect_concurrency: usize) -> Option<(usize, Instant)> {
        let due = match self.pacing {
            ConnectPacing::Unpaced => now,
            ConnectPacing::Simultaneous(since) => since,
            ConnectPacing::PerSecond(..) => self.next_due()?,
        };
        if due > now || self.in_progress >= connect_concurrency {
            return None;
        }
        let subscriber = self.waiting.pop_front()?;
        self.in_progress += 1;
        self.started += 1;
        Some((subscriber, due))
    }

    /// When the next connection is due, if the pacing defines it.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match self.pacing {
            ConnectPacing::PerSecond(start, rate) if !self.waiting.is_empty() => {
                Some(start + std::time::Duration::from_secs_f64(self.started as f64 / rate))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn paced_connections_count_from_their_due_time() {
        let (mut queue, start) = (ConnectQueue::new(), Instant::now());
        queue.waiting.extend(0..4);
        queue.begin(ConnectPacing::PerSecond(start, 10.0));
        assert_eq!(queue.next(start, 9), Some((0, start)));
        assert_eq!(queue.next(start, 9), None);
        let (due, late) = (start + Duration::from_millis(100), start + Duration::from_millis(150));
        assert_eq!(queue.next_due(), Some(due));
        assert_eq!((queue.next(late, 9), queue.next(late, 9)), (Some((1, due)), None));
    }

    #[test]
    fn concurrency_is_limited() {
        let (mut queue, now) = (ConnectQueue::new(), Instant::now());
        queue.waiting.extend(0..3);
        assert_eq!(
            (queue.next(now, 2), queue.next(now, 2), queue.next(now, 2)),
            (Some((0, now)), Some((1, now)), None)
        );
        queue.in_progress -= 1;
        assert_eq!(queue.next(now, 2), Some((2, now)));
    }
}
