//! How fast a run may go.
//!
//! Owns the limit of keys a second. Must never let a pause be made up for later.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The most keys that are asked for at once.
const BATCH_MAX: u32 = 1000;

/// A limit of keys a second.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Option<NonZeroU32>,
    next: Instant,
}

impl RateLimit {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        Self { rate, next: Instant::now() }
    }

    /// How many keys to query for at once: at most a quarter of a second's.
    pub(super) fn batch(&self) -> usize {
        let most = self.rate.map_or(BATCH_MAX, |rate| (rate.get() / 4).clamp(1, BATCH_MAX));
        most as usize
    }

    /// Waits until so many more keys may be handled, or it is time to stop.
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
    async fn keys_take_their_time() {
        let mut pace = RateLimit::new(NonZeroU32::new(100));
        let (start, stop) = (Instant::now(), CancellationToken::new());
        for _ in 0..5 {
            pace.wait(pace.batch(), &stop).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let mut pace = RateLimit::new(None);
        let (start, stop) = (Instant::now(), CancellationToken::new());
        pace.wait(1_000_000, &stop).await;
        assert_eq!((start.elapsed(), pace.batch()), (Duration::ZERO, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let mut pace = RateLimit::new(NonZeroU32::new(1));
        let (start, stop) = (Instant::now(), CancellationToken::new());
        pace.wait(1_000_000, &stop).await;
        stop.cancel();
        pace.wait(1, &stop).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
