//! Rate limit.
//!
//! Owns the limit of keys per second. Must never compensate for a pause later.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Maximum number of keys per batch.
const BATCH_MAX: u32 = 1000;

/// Limit of keys per second.
#[derive(Debug)]
pub(super) struct WriteRateLimit {
    rate: Option<NonZeroU32>,
    next: Instant,
}

impl WriteRateLimit {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, next: Instant::now() }
    }

    /// Number of keys per batch: at most a quarter of a second's quota.
    pub(super) fn batch(&self) -> usize {
        let most = self.rate.map_or(BATCH_MAX, |rate| (rate.get() / 4).clamp(1, BATCH_MAX));
        most as usize
    }

    /// Waits until the quota allows this many keys, or until cancelled.
    pub(super) async fn wait(&mut self, keys: usize, stop: &CancellationToken) {
        let Some(rate) = self.rate else { return };
        let until = self.next.max(Instant::now());
        self.next = until + Duration::from_secs(keys as u64) / rate.get();
        tokio::select! {
            () = sleep_until(until) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_is_limited() {
        let mut rate_limit = WriteRateLimit::new(NonZeroU32::new(100));
        let (start, stop) = (Instant::now(), CancellationToken::new());
        for _ in 0..5 {
            rate_limit.wait(rate_limit.batch(), &stop).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_means_no_wait() {
        let mut rate_limit = WriteRateLimit::new(None);
        let (start, stop) = (Instant::now(), CancellationToken::new());
        rate_limit.wait(1_000_000, &stop).await;
        assert_eq!((start.elapsed(), rate_limit.batch()), (Duration::ZERO, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_ends_the_wait() {
        let mut rate_limit = WriteRateLimit::new(NonZeroU32::new(1));
        let (start, stop) = (Instant::now(), CancellationToken::new());
        rate_limit.wait(1_000_000, &stop).await;
        stop.cancel();
        rate_limit.wait(1, &stop).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
