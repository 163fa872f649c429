//! One subscriber of a worker: its plan, its connection if it has one, and where it stands with the server.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::client::{Connection, Pace, Place, Plan};

/// Where a subscriber stands with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not connected, and nobody asked for it.
    Away,
    /// Not connected, and about to be.
    Waiting,
    /// On the way to its subscription.
    Opening,
    /// Hears.
    Subscribed,
    /// Has asked to hear no more.
    Leaving,
    /// Connected, and hears nothing.
    Out,
    /// Has asked to hear again.
    Rejoining,
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) plan: Plan,
    pub(super) connection: Option<Connection>,
    pub(super) stage: Stage,
    /// When what it waits for was due.
    pub(super) since: Instant,
    /// Where it comes back to.
    pub(super) place: Place,
    /// It was subscribed before: a failure is no reason to give the run up.
    pub(super) proven: bool,
}

impl Seat {
    pub(super) fn new(plan: Plan, now: Instant) -> Self {
        let (connection, stage, place) = (None, Stage::Away, Place::Fresh);
        Self { plan, connection, stage, since: now, place, proven: false }
    }

    /// Whether it does not read as fast as it can once it is told to read at its pace.
    pub(super) fn is_slow(&self) -> bool {
        self.plan.pace != Pace::Full
    }
}

/// How those who wait for a connection get theirs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rhythm {
    /// As fast as it goes; each counts from when its turn has come.
    Turns,
    /// As fast as it goes; everybody counts from one moment.
    Together(Instant),
    /// So many a second from a moment on; each counts from when it was due.
    PerSecond(Instant, f64),
}

/// Those who wait for a connection.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<usize>,
    pub(super) under_way: usize,
    pub(super) rhythm: Rhythm,
    /// How many have been let through in this rhythm.
    passed: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), under_way: 0, rhythm: Rhythm::Turns, passed: 0 }
    }

    /// Begins a rhythm.
    pub(super) fn begin(&mut self, rhythm: Rhythm) {
        (self.rhythm, self.passed) = (rhythm, 0);
    }

    /// Somebody comes back. Once those of the last rhythm have had their turn, it has none any more.
    pub(super) fn join(&mut self, seat: usize) {
        if self.waiting.is_empty() && self.under_way == 0 {
            self.begin(Rhythm::Turns);
        }
        self.waiting.push_back(seat);
    }

    /// The next one whose turn has come, and since when it has.
    pub(super) fn next(&mut self, now: Instant, at_once: usize) -> Option<(usize, Instant)> {
        let due = match self.rhythm {
            Rhythm::Turns => now,
            Rhythm::Together(since) => since,
            Rhythm::PerSecond(..) => self.next_due()?,
        };
        if due > now || self.under_way >= at_once {
            return None;
        }
        let seat = self.waiting.pop_front()?;
        self.under_way += 1;
        self.passed += 1;
        Some((seat, due))
    }

    /// When the next one is due, where that is known beforehand.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match self.rhythm {
            Rhythm::PerSecond(start, rate) if !self.waiting.is_empty() => {
                Some(start + std::time::Duration::from_secs_f64(self.passed as f64 / rate))
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
        let (mut queue, start) = (Queue::new(), Instant::now());
        queue.waiting.extend(0..4);
        queue.begin(Rhythm::PerSecond(start, 10.0));
        assert_eq!(queue.next(start, 9), Some((0, start)));
        assert_eq!(queue.next(start, 9), None);
        let (due, late) = (start + Duration::from_millis(100), start + Duration::from_millis(150));
        assert_eq!(queue.next_due(), Some(due));
        assert_eq!((queue.next(late, 9), queue.next(late, 9)), (Some((1, due)), None));
    }

    #[test]
    fn no_more_than_so_many_are_under_way() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.waiting.extend(0..3);
        assert_eq!(
            (queue.next(now, 2), queue.next(now, 2), queue.next(now, 2)),
            (Some((0, now)), Some((1, now)), None)
        );
        queue.under_way -= 1;
        assert_eq!(queue.next(now, 2), Some((2, now)));
    }
}
