//! One subscriber of a worker: its plan, its connection if it has one, and where it stands with the server.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::client::{Connection, ReadRate, ResumePoint, SubscriberPlan};

/// Where a subscriber stands with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriberState {
    /// Not connected, and nobody asked for it.
    Disconnected,
    /// Not connected, and about to be.
    Queued,
    /// On the way to its subscription.
    Connecting,
    /// Hears.
    Subscribed,
    /// Has asked to hear no more.
    Unsubscribing,
    /// Connected, and hears nothing.
    Unsubscribed,
    /// Has asked to hear again.
    Resubscribing,
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) plan: SubscriberPlan,
    pub(super) connection: Option<Connection>,
    pub(super) state: SubscriberState,
    /// When what it waits for was due.
    pub(super) since: Instant,
    /// Where it comes back to.
    pub(super) resume_point: ResumePoint,
    /// It was subscribed before: a failure is no reason to give the run up.
    pub(super) was_subscribed: bool,
}

impl Subscriber {
    pub(super) fn new(plan: SubscriberPlan, now: Instant) -> Self {
        let (connection, state, resume_point) = (None, SubscriberState::Disconnected, ResumePoint::Live);
        Self { plan, connection, state, since: now, resume_point, was_subscribed: false }
    }

    /// Whether it does not read as fast as it can once it is told to read at its pace.
    pub(super) fn is_slow(&self) -> bool {
        self.plan.read_rate != ReadRate::Unlimited
    }
}

/// How those who wait for a connection get theirs.
#[derive(Clone, Copy, Debug)]
pub(super) enum ConnectPacing {
    /// As fast as it goes; each counts from when its turn has come.
    Unpaced,
    /// As fast as it goes; everybody counts from one moment.
    Simultaneous(Instant),
    /// So many a second from a moment on; each counts from when it was due.
    PerSecond(Instant, f64),
}

/// Those who wait for a connection.
#[derive(Debug)]
pub(super) struct ConnectQueue {
    pub(super) waiting: VecDeque<usize>,
    pub(super) in_progress: usize,
    pub(super) pacing: ConnectPacing,
    /// How many have been let through in this pacing.
    started: u64,
}

impl ConnectQueue {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), in_progress: 0, pacing: ConnectPacing::Unpaced, started: 0 }
    }

    /// Begins a pacing.
    pub(super) fn begin(&mut self, pacing: ConnectPacing) {
        (self.pacing, self.started) = (pacing, 0);
    }

    /// Somebody comes back. Once those of the last pacing have had their turn, it has none any more.
    pub(super) fn enqueue(&mut self, subscriber: usize) {
        if self.waiting.is_empty() && self.in_progress == 0 {
            self.begin(ConnectPacing::Unpaced);
        }
        self.waiting.push_back(subscriber);
    }

    /// The next one whose turn has come, and since when it has.
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

    /// When the next one is due, where that is known beforehand.
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
    fn a_rhythm_is_kept_and_counts_from_when_each_was_due() {
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
    fn no_more_than_so_many_are_under_way() {
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
