//! How long to wait before the next attempt to connect.
//!
//! Owns the waits alone. Must never be the same for two gateways: haste in step is what a server that comes back
//! cannot bear.

use std::time::Duration;

use super::{Failure, InstanceSettings};

/// The wait between two attempts: full jitter, so that a thousand gateways do not come back at one moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    unreachable: (Duration, Duration),
    refused: (Duration, Duration),
    attempts: u32,
}

impl Backoff {
    /// The waits of an instance.
    pub fn new(settings: &InstanceSettings) -> Self {
        Self {
            unreachable: (settings.retry_min, settings.retry_max),
            refused: (settings.refused_retry_min, settings.refused_retry_max),
            attempts: 0,
        }
    }

    /// How long to wait after this failure.
    pub fn next(&mut self, failure: &Failure) -> Duration {
        match failure {
            Failure::Unreachable(_) | Failure::Deaf(_) => {
                let (min, max) = self.unreachable;
                let ceiling = min.saturating_mul(1 << self.attempts.min(20)).min(max);
                self.attempts = self.attempts.saturating_add(1);
                ceiling.mul_f64(fastrand::f64())
            }
            Failure::Refused(_) => {
                let (min, max) = self.refused;
                min + max.saturating_sub(min).mul_f64(fastrand::f64())
            }
        }
    }

    /// A connection proved good: the next failure starts from the shortest wait.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_again_after_success() {
        let mut backoff = Backoff::new(&InstanceSettings::default());
        let down = Failure::Unreachable(String::new());
        assert!(backoff.next(&down) <= Duration::from_millis(50));
        let waits: Vec<_> = (0..200).map(|_| backoff.next(&down)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)), "grows, and is spread");
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(500)), "is spread");
        backoff.reset();
        assert!(backoff.next(&down) <= Duration::from_millis(50));
    }

    #[test]
    fn a_refusal_is_never_hurried() {
        let mut backoff = Backoff::new(&InstanceSettings::default());
        let refused = Failure::Refused(String::new());
        for _ in 0..200 {
            let wait = backoff.next(&refused);
            assert!(wait >= Duration::from_secs(2) && wait <= Duration::from_secs(10), "{wait:?}");
        }
    }
}
