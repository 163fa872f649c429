//! One timing wheel for all connections of a shard.
//!
//! Owns when a connection is to be looked at again. Each connection has one valid entry; entries that were overtaken
//! are skipped when their turn comes. Must never keep a timer of the runtime per connection.

use std::time::Duration;

use tokio::time::Instant;

/// The wheel's resolution.
pub(super) const TICK: Duration = Duration::from_millis(100);

const SLOT_COUNT: u64 = 1024;

/// A moment, counted in ticks since the wheel began.
pub(super) type Tick = u64;

#[derive(Debug)]
pub(super) struct Wheel {
    began: Instant,
    now: Tick,
    slots: Vec<Vec<u64>>,
}

impl Wheel {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, now: 0, slots: (0..SLOT_COUNT).map(|_| Vec::new()).collect() }
    }

    /// The present tick.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    /// So much time in ticks, rounded up.
    pub(super) fn ticks(&self, time: Duration) -> Tick {
        u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2)
    }

    /// The tick at which so much time will have passed: never the present one.
    pub(super) fn after(&self, wait: Duration) -> Tick {
        self.now + self.ticks(wait).max(1)
    }

    /// Enters a key, to come out at `due` or, when that is beyond the wheel's horizon, before; says when.
    pub(super) fn enter(&mut self, key: u64, due: Tick) -> Tick {
        let at = due.clamp(self.now + 1, self.now + SLOT_COUNT - 1);
        let slot = usize::try_from(at % SLOT_COUNT).unwrap_or_default();
        self.slots[slot].push(key);
        at
    }

    /// Goes on by one tick if its time has come, and returns the keys whose turn it is.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Vec<u64>> {
        let next = self.began + TICK * u32::try_from(self.now + 1).unwrap_or(u32::MAX);
        if now < next {
            return None;
        }
        self.now += 1;
        let slot = usize::try_from(self.now % SLOT_COUNT).unwrap_or_default();
        Some(std::mem::take(&mut self.slots[slot]))
    }
}
