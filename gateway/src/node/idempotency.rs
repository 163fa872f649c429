//! Results of publications by idempotency key, for channels without a log. For channels with a log, the log stores the
//! results.
//!
//! Owns the bounds, in entries and bytes. Must never publish anything itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::broker::DeliveryScope;
use crate::metrics::Counter;

/// How long a key is stored after its first use, as in a log.
const TTL: Duration = Duration::from_secs(300);

/// The maximum number of keys; beyond it the oldest are evicted.
const ENTRIES_MAX: usize = 100_000;

/// The longest key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// The maximum size of all keys, counted with [`ENTRY_BYTES`] for each.
const BYTES_MAX: usize = 32 << 20;

/// The size of an entry in addition to the text of its key.
const ENTRY_BYTES: usize = 192;

/// The result of the first publication with a key. Later ones wait for it; when it failed, the next one publishes.
pub(super) type FirstResult = Arc<OnceCell<DeliveryScope>>;

/// The keys that were used recently.
#[derive(Debug, Default)]
pub(super) struct Idempotency(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    results: HashMap<Arc<str>, FirstResult>,
    /// In the order of first use, which is the order of expiry.
    order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
}

impl Idempotency {
    /// The result that all publications with this key on this channel share.
    pub(super) fn result(&self, channel: &ChannelName, key: &str, evicted: &Counter) -> FirstResult {
        let now = Instant::now();
        // A channel name holds no control character.
        let name: Arc<str> = format!("{channel}\0{key}").into();
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.drop_expired(now);
        if let Some(result) = keys.results.get(&name) {
            return Arc::clone(result);
        }
        let cost = name.len() + ENTRY_BYTES;
        while !keys.order.is_empty() && (keys.order.len() >= ENTRIES_MAX || keys.bytes + cost > BYTES_MAX) {
            keys.drop_oldest();
            evicted.add(1);
        }
        keys.bytes += cost;
        keys.order.push_back((now + TTL, Arc::clone(&name)));
        Arc::clone(keys.results.entry(name).or_default())
    }

    /// Drops expired keys and releases their memory.
    pub(super) fn expire(&self, now: Instant) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.drop_expired(now);
        let kept = 2 * keys.order.len();
        if 4 * kept < keys.order.capacity() {
            keys.order.shrink_to(kept);
        }
        if 4 * kept < keys.results.capacity() {
            keys.results.shrink_to(kept);
        }
    }
}

impl Keys {
    fn drop_expired(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, name)) = self.order.pop_front() {
            self.bytes -= name.len() + ENTRY_BYTES;
            self.results.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_valid_for_five_minutes_on_its_channel() {
        let (keys, evicted) = (Idempotency::default(), Counter::default());
        let result = |name: &str, key: &str| keys.result(&channel(name), key, &evicted);
        result("a", "k").set(DeliveryScope::AllNodes).unwrap();
        assert_eq!(result("a", "k").get(), Some(&DeliveryScope::AllNodes));
        assert_eq!((result("a", "l").get(), result("b", "k").get()), (None, None));
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert!(result("a", "k").get().is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(result("a", "k").get(), None);
        let keys = keys.0.lock().unwrap();
        assert_eq!((keys.results.len(), keys.order.len(), evicted.value()), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_keys_are_removed_without_a_publication() {
        let (keys, evicted) = (Idempotency::default(), Counter::default());
        for n in 0..10_000 {
            keys.result(&channel("a"), &n.to_string(), &evicted);
        }
        tokio::time::advance(TTL / 2).await;
        keys.result(&channel("a"), "last", &evicted);
        keys.expire(Instant::now());
        assert_eq!(keys.0.lock().unwrap().results.len(), 10_001);
        tokio::time::advance(TTL / 2).await;
        keys.expire(Instant::now());
        let held = || {
            let keys = keys.0.lock().unwrap();
            (keys.results.len(), keys.order.len(), keys.bytes, keys.results.capacity(), keys.order.capacity())
        };
        let (results, order, bytes, map, queue) = held();
        assert_eq!((results, order, bytes), (1, 1, "a\0last".len() + ENTRY_BYTES));
        assert!(map < 100 && queue < 100, "capacities: {map} and {queue}");
        tokio::time::advance(TTL / 2).await;
        keys.expire(Instant::now());
        assert_eq!(held(), (0, 0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_bounded_in_number_and_bytes() {
        let evicted = Counter::default();
        let many = Idempotency::default();
        for n in 0..ENTRIES_MAX + 10 {
            many.result(&channel("a"), &n.to_string(), &evicted);
        }
        assert_eq!((many.0.lock().unwrap().results.len(), evicted.value()), (ENTRIES_MAX, 10));
        let large = Idempotency::default();
        for n in 0..50 {
            large.result(&channel("a"), &format!("{n}{}", "x".repeat(1 << 20)), &evicted);
            assert!(large.0.lock().unwrap().bytes <= BYTES_MAX);
        }
        let last = large.0.lock().unwrap().results.len();
        assert!((20..32).contains(&last), "{last}");
        tokio::time::advance(TTL).await;
        large.result(&channel("b"), "k", &evicted);
        let keys = large.0.lock().unwrap();
        assert_eq!((keys.results.len(), keys.bytes), (1, "b\0k".len() + ENTRY_BYTES));
    }
}
