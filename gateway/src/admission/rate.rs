//! Rates: token buckets, alone or one for each key.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Keys with a bucket of their own; more keys share one bucket.
const KEYS_MAX: usize = 65_536;

/// How often something may happen: on average, and at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    tokens_per_second: f64,
    burst: f64,
}

/// A token bucket. It starts full.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f64,
    at: Instant,
}

/// A rate for each key, in bounded memory.
pub struct KeyedRate<K> {
    /// `None`: unlimited.
    rate: Option<Rate>,
    buckets: Mutex<Buckets<K>>,
    rejected: AtomicU64,
}

struct Buckets<K> {
    by_key: HashMap<K, TokenBucket>,
    /// The bucket of the keys beyond [`KEYS_MAX`].
    shared: Option<TokenBucket>,
}

impl Rate {
    /// `count` in each `period`, all of them at once if nothing happened in the period before.
    pub fn new(count: usize, period: Duration) -> Self {
        let burst = count as f64;
        Self { tokens_per_second: burst / period.as_secs_f64(), burst }
    }
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        let has_token = self.tokens >= 1.0;
        if has_token {
            self.tokens -= 1.0;
        }
        has_token
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = elapsed.mul_add(rate.tokens_per_second, self.tokens).min(rate.burst);
        self.at = self.at.max(now);
    }

    fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.tokens >= rate.burst
    }
}

impl<K: Eq + Hash + Clone> KeyedRate<K> {
    /// A rate for each key; `None`: unlimited.
    pub fn new(rate: Option<Rate>) -> Self {
        let buckets = Mutex::new(Buckets { by_key: HashMap::new(), shared: None });
        Self { rate, buckets, rejected: AtomicU64::new(0) }
    }

    /// Takes a token of a key, if there is one. Without one, the call is counted as rejected.
    pub fn take(&self, key: &K, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        let is_permitted = self.buckets().bucket(key, rate, now).take(rate, now);
        self.count(is_permitted)
    }

    /// Whether a key has a token. Without one, the call is counted as rejected.
    pub fn has_token(&self, key: &K, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        let buckets = self.buckets();
        // A key that was never seen has all its tokens, and needs no bucket.
        let bucket =
            buckets.by_key.get(key).copied().or_else(|| buckets.shared.filter(|_| buckets.is_full()));
        drop(buckets);
        self.count(bucket.is_none_or(|mut bucket| bucket.take(rate, now)))
    }

    /// The calls that were rejected.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    fn count(&self, is_permitted: bool) -> bool {
        self.rejected.fetch_add(u64::from(!is_permitted), Ordering::Relaxed);
        is_permitted
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn is_full(&self) -> bool {
        self.by_key.len() >= KEYS_MAX
    }

    fn bucket(&mut self, key: &K, rate: Rate, now: Instant) -> &mut TokenBucket {
        if self.is_full() && !self.by_key.contains_key(key) {
            // Full buckets are as good as none.
            self.by_key.retain(|_, bucket| !bucket.is_full(rate, now));
            if self.is_full() {
                return self.shared.get_or_insert(TokenBucket::new(rate, now));
            }
        }
        self.by_key.entry(key.clone()).or_insert(TokenBucket::new(rate, now))
    }
}

impl<K> fmt::Debug for KeyedRate<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRate").field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In no window are there more calls than the burst and the rate permit.
        #[test]
        fn no_window_exceeds_the_rate(
            count in 1usize..20,
            waits in prop::collection::vec(0u64..400, 1..80),
        ) {
            let (rate, start) = (Rate::new(count, Duration::from_secs(1)), Instant::now());
            let (mut bucket, mut now) = (TokenBucket::new(rate, start), start);
            let mut permitted: Vec<Instant> = Vec::new();
            for wait in waits {
                now += Duration::from_millis(wait);
                if bucket.take(rate, now) {
                    permitted.push(now);
                }
            }
            for (index, from) in permitted.iter().enumerate() {
                for (to_index, to) in permitted.iter().enumerate().skip(index) {
                    let limit = count as f64 * (1.0 + (*to - *from).as_secs_f64());
                    prop_assert!((to_index - index + 1) as f64 <= limit + 1e-6);
                }
            }
        }
    }

    #[test]
    fn keys_are_independent_and_refill() {
        let (keyed, now) = (KeyedRate::new(Some(Rate::new(2, Duration::from_secs(60)))), Instant::now());
        assert!(keyed.has_token(&"a", now) && keyed.take(&"a", now) && keyed.take(&"a", now));
        assert!(!keyed.has_token(&"a", now) && !keyed.take(&"a", now));
        assert!(keyed.take(&"b", now));
        assert!(keyed.take(&"a", now + Duration::from_secs(31)));
        assert_eq!(keyed.rejected(), 2);
        let unlimited = KeyedRate::new(None);
        assert!((0..100).all(|_| unlimited.take(&"a", now)));
    }

    #[test]
    fn memory_is_bounded() {
        let (keyed, now) = (KeyedRate::new(Some(Rate::new(2, Duration::from_secs(60)))), Instant::now());
        for key in 0..KEYS_MAX {
            assert!(keyed.take(&key, now));
        }
        // These share one bucket.
        assert!(
            keyed.has_token(&KEYS_MAX, now) && keyed.take(&KEYS_MAX, now) && keyed.take(&(KEYS_MAX + 1), now)
        );
        assert!(!keyed.take(&(KEYS_MAX + 2), now) && !keyed.has_token(&(KEYS_MAX + 3), now));
        assert_eq!(keyed.buckets().by_key.len(), KEYS_MAX);
        // As soon as buckets are full again, they are removed.
        assert!(keyed.take(&KEYS_MAX, now + Duration::from_secs(60)));
        assert_eq!(keyed.buckets().by_key.len(), 1);
    }
}
