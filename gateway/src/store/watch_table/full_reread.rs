//! A read of all keys, in slices.
//!
//! Owns the position and the pace. Pure. Must never skip a key that is in the table from start to end.

use std::time::Duration;

/// The position of a full reread. It goes around the table, so that a restart does not favour some keys.
#[derive(Debug, Default)]
pub(super) struct FullReread {
    /// The next index.
    cursor: usize,
    /// The indexes of this round are below it. Entries beyond it are younger than the start, and are read on their own.
    end: usize,
    /// Indexes that are still to be examined.
    remaining: usize,
    /// When the next slice is allowed.
    next: Duration,
}

impl FullReread {
    /// Starts, or starts again. `capacity` is an upper bound of the indexes in use.
    pub(super) fn start(&mut self, capacity: usize, now: Duration) {
        self.end = capacity;
        self.remaining = capacity;
        self.next = now;
    }

    /// When the next slice is allowed; `None` when all keys were read.
    pub(super) fn wake(&self) -> Option<Duration> {
        (self.remaining > 0).then_some(self.next)
    }

    /// Takes the next index. The round does not grow with the table: it would end before its oldest entries.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.remaining = self.remaining.checked_sub(1)?;
        let index = self.cursor % self.end.max(1);
        self.cursor = index + 1;
        u32::try_from(index).ok()
    }

    /// A slice of `count` keys was taken.
    pub(super) fn pause(&mut self, now: Duration, count: usize, keys_per_second: u32) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.next = now + Duration::from_secs(1) * count / keys_per_second.max(1);
    }
}
