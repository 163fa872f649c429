//! Limits of what one key may hold at a time, such as the connections of one user.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

/// Limits the shares of each key. A key without shares costs no memory.
pub struct KeyedLimit<K: Eq + Hash> {
    /// `None`: unlimited.
    limit: Option<usize>,
    used: DashMap<K, usize>,
    rejected: AtomicU64,
}

/// A share of a key, released on drop; nothing without a limit.
#[derive(Debug, Default)]
pub struct Share(Option<Box<dyn Held>>);

/// What is released on drop.
trait Held: fmt::Debug + Send + Sync {}

struct HeldShare<K: Eq + Hash> {
    limit: Arc<KeyedLimit<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> KeyedLimit<K> {
    /// A limit for each key; `None`: unlimited.
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self { limit, used: DashMap::new(), rejected: AtomicU64::new(0) })
    }

    /// Acquires a share. `None`: the key has as many as it may.
    pub fn acquire(self: &Arc<Self>, key: &K) -> Option<Share> {
        let Some(limit) = self.limit else { return Some(Share::default()) };
        let mut used = self.used.entry(key.clone()).or_insert(0);
        if *used >= limit {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *used += 1;
        drop(used);
        Some(Share(Some(Box::new(HeldShare { limit: Arc::clone(self), key: key.clone() }))))
    }
}

impl<K: Eq + Hash> KeyedLimit<K> {
    /// How often a share was refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Whether it counts against a limit.
    pub(super) fn is_counted(&self) -> bool {
        self.0.is_some()
    }
}

impl<K: Eq + Hash> Drop for HeldShare<K> {
    fn drop(&mut self) {
        self.limit.used.remove_if_mut(&self.key, |_, used| {
            *used -= 1;
            *used == 0
        });
    }
}

impl<K: Eq + Hash + Send + Sync> Held for HeldShare<K> {}

impl<K: Eq + Hash> fmt::Debug for HeldShare<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldShare")
    }
}

impl<K: Eq + Hash> fmt::Debug for KeyedLimit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimit").field("limit", &self.limit).field("keys", &self.used.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_key_exceeds_the_limit_and_all_shares_are_released(
            limit in 1usize..4,
            steps in prop::collection::vec((0u8..3, any::<bool>()), 0..60),
        ) {
            let keyed = KeyedLimit::new(Some(limit));
            let mut held: Vec<(u8, Share)> = Vec::new();
            for (key, acquires) in steps {
                let own = held.iter().filter(|(other, _)| *other == key).count();
                if acquires {
                    let share = keyed.acquire(&key);
                    prop_assert_eq!(share.is_some(), own < limit);
                    held.extend(share.map(|share| (key, share)));
                } else if let Some(at) = held.iter().position(|(other, _)| *other == key) {
                    held.remove(at);
                }
                let keys = held.iter().map(|(key, _)| key).collect::<std::collections::HashSet<_>>().len();
                prop_assert_eq!(keyed.used.len(), keys);
            }
            held.clear();
            prop_assert!(keyed.used.is_empty());
        }
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let keyed = KeyedLimit::new(None);
        let shares: Vec<_> = (0..100).map(|_| keyed.acquire(&1).unwrap()).collect();
        assert!(keyed.used.is_empty() && shares.iter().all(|share| !share.is_counted()));
    }

    #[test]
    fn the_limit_holds_with_concurrent_threads() {
        let keyed = KeyedLimit::new(Some(3));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let share = keyed.acquire(&"user");
                        assert!(keyed.used.get("user").is_none_or(|used| *used <= 3));
                        drop(share);
                    }
                });
            }
        });
        assert!(keyed.used.is_empty());
    }
}
