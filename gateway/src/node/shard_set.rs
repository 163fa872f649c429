//! A set of shards.

/// The index of a shard.
pub type ShardId = usize;

/// The maximum number of shards: one bit each in a [`ShardSet`].
pub const SHARDS_MAX: usize = 128;

/// The shards that are attached to a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShardSet(u128);

impl ShardSet {
    pub(super) fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard;
    }

    pub(super) fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << shard);
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards in ascending order.
    pub(super) fn iter(mut self) -> impl Iterator<Item = ShardId> {
        std::iter::from_fn(move || {
            if self.0 == 0 {
                return None;
            }
            let shard = self.0.trailing_zeros() as usize;
            self.0 &= self.0 - 1;
            Some(shard)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_each_shard_once_in_ascending_order() {
        let mut set = ShardSet::default();
        assert!(set.is_empty());
        for shard in [SHARDS_MAX - 1, 0, 7, 0] {
            set.insert(shard);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 7, SHARDS_MAX - 1]);
        set.remove(7);
        set.remove(7);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, SHARDS_MAX - 1]);
    }
}
