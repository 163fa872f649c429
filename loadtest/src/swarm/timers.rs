//! What a worker does at a time, the earliest first. Never reads a clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Latencies are handed finished, slow readers read.
    Tick,
    /// The worker looks at itself.
    SelfCheck,
    /// The next one is set in motion.
    Churn,
    /// A subscriber comes back.
    Reconnect(usize),
}

/// Everything that is due at a time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// The next one that is due by now, with the moment it was due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let Reverse((at, _)) = self.heap.peek()?;
        (*at <= now).then(|| self.heap.pop().map(|Reverse(entry)| entry))?
    }

    /// How long nothing is due.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_nothing_comes_early() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let later = |ms| now + Duration::from_millis(ms);
        timers.set(later(20), Timer::SelfCheck);
        timers.set(later(10), Timer::Reconnect(3));
        assert_eq!(timers.wait(now), Some(Duration::from_millis(10)));
        assert_eq!(timers.due(later(9)), None);
        assert_eq!(timers.due(later(30)), Some((later(10), Timer::Reconnect(3))));
        assert_eq!(timers.due(later(30)), Some((later(20), Timer::SelfCheck)));
        assert_eq!((timers.due(later(30)), timers.wait(now)), (None, None));
    }
}
