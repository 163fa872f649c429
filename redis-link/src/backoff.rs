//! The wait before the next attempt to connect.
//!
//! Jittered, so that gateways do not reconnect in step and overload a server that has just restarted.

use std::time::Duration;

use super::{ConnectConfig, LinkError};

/// Exponential backoff with full jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    unreachable: (Duration, Duration),
    rejected: (Duration, Duration),
    attempts: u32,
}

impl Backoff {
    /// The backoff with the bounds of this server.
    pub fn new(config: &ConnectConfig) -> Self {
        Self {
            unreachable: (config.retry_min, config.retry_max),
            rejected: (config.rejected_retry_min, config.rejected_retry_max),
            attempts: 0,
        }
    }

    /// The wait after this error.
    pub fn next(&mut self, error: &LinkError) -> Duration {
        match error {
            LinkError::Unreachable(_) | LinkError::NotReceiving(_) => {
                let (min, max) = self.unreachable;
                let ceiling = min.saturating_mul(1 << self.attempts.min(20)).min(max);
                self.attempts = self.attempts.saturating_add(1);
                ceiling.mul_f64(fastrand::f64())
            }
            LinkError::Rejected(_) => {
                let (min, max) = self.rejected;
                min + max.saturating_sub(min).mul_f64(fastrand::f64())
            }
        }
    }

    /// Starts again from the shortest wait, after a successful connection.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_restart_after_success() {
        let mut backoff = Backoff::new(&ConnectConfig::default());
        let down = LinkError::Unreachable(String::new());
        assert!(backoff.next(&down) <= Duration::from_millis(50));
        let waits: Vec<_> = (0..200).map(|_| backoff.next(&down)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)), "grows");
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(500)), "is jittered");
        backoff.reset();
        assert!(backoff.next(&down) <= Duration::from_millis(50));
    }

    #[test]
    fn a_rejection_is_retried_slowly() {
        let mut backoff = Backoff::new(&ConnectConfig::default());
        let rejected = LinkError::Rejected(String::new());
        for _ in 0..200 {
            let wait = backoff.next(&rejected);
            assert!(wait >= Duration::from_secs(2) && wait <= Duration::from_secs(10), "{wait:?}");
        }
    }
}
