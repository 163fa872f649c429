//! The circuit breaker of a hook: a pure state machine.
//!
//! After a number of consecutive failures it opens: the hook is not called. After a pause it is half open: one request
//! is sent, and its result closes or opens it again.

use std::time::Duration;

use tokio::time::Instant;

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerState {
    /// Requests are sent.
    Closed,
    /// No request is sent.
    Open,
    /// One request is in flight.
    HalfOpen,
}

/// A circuit breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    /// Consecutive failures.
    failures: usize,
    failures_max: usize,
    pause: Duration,
    /// When the state became open, or half open.
    since: Instant,
}

impl Breaker {
    /// Opens after this number of consecutive failures, for this time.
    pub(super) fn new(failures_max: usize, pause: Duration, now: Instant) -> Self {
        Self { state: BreakerState::Closed, failures: 0, failures_max, pause, since: now }
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a request may be sent now. Its result must follow.
    pub(super) fn permits(&mut self, now: Instant) -> bool {
        match self.state {
            BreakerState::Closed => true,
            // A trial whose result is missing after the pause is replaced by another one.
            BreakerState::Open | BreakerState::HalfOpen => {
                let is_due = now.duration_since(self.since) >= self.pause;
                if is_due {
                    (self.state, self.since) = (BreakerState::HalfOpen, now);
                }
                is_due
            }
        }
    }

    /// A request succeeded. Returns whether the breaker closes.
    pub(super) fn succeeded(&mut self) -> bool {
        self.failures = 0;
        std::mem::replace(&mut self.state, BreakerState::Closed) != BreakerState::Closed
    }

    /// A request failed. Returns whether the breaker opens for the first time.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures += 1;
        match self.state {
            BreakerState::Closed if self.failures < self.failures_max => false,
            // A request that was sent before the breaker opened does not prolong the pause.
            BreakerState::Open => false,
            state => {
                (self.state, self.since) = (BreakerState::Open, now);
                state == BreakerState::Closed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, PAUSE, now);
        let opens: Vec<bool> = (0..3).map(|_| breaker.permits(now) && breaker.failed(now)).collect();
        assert_eq!((opens, breaker.state()), (vec![false, false, true], BreakerState::Open));
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_succession() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, PAUSE, now);
        for _ in 0..10 {
            assert!(!breaker.failed(now) && !breaker.failed(now) && !breaker.succeeded());
        }
        let mut breaker = opened(now);
        assert!(!breaker.permits(now) && !breaker.permits(now + PAUSE - Duration::from_millis(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_trial_after_the_pause_closes_it_or_opens_it_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PAUSE;
        assert!(breaker.permits(later) && !breaker.permits(later));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(!breaker.failed(later) && !breaker.permits(later + PAUSE / 2));
        let later = later + PAUSE;
        assert!(breaker.permits(later) && breaker.succeeded());
        assert_eq!((breaker.state(), breaker.permits(later)), (BreakerState::Closed, true));
        assert!(!breaker.failed(later));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_without_a_result_is_replaced() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(breaker.permits(now + PAUSE) && !breaker.permits(now + PAUSE));
        assert!(breaker.permits(now + PAUSE * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn late_failures_do_not_prolong_the_pause() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.failed(now + PAUSE / 2) && breaker.permits(now + PAUSE));
    }
}
