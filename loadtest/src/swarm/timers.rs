//! Timers of a worker, ordered by due time. Never reads a clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

/// What happens when a timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Latencies are published; throttled subscribers read.
    Tick,
    /// The worker checks its own load and connect timeouts.
    SelfCheck,
    /// The next subscriber churns.
    Churn,
    /// A subscriber reconnects.
    Reconnect(usize),
}

/// All pending timers.
#[derive(Debug, Default)]
pub(super) struct SwarmTimers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl SwarmTimers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// Next timer that is due at `now`, with its due time.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let Reverse((at, _)) = self.heap.peek()?;
        (*at <= now).then(|| self.heap.pop().map(|Reverse(entry)| entry))?
    }

    /// Time until the next timer.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_never_early() {
        let (mut timers, now) = (SwarmTimers::default(), Instant::now());
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
