//! One timing wheel for all connections of a shard.
//!
//! Each connection has one valid entry; entries that were replaced are skipped when they fire. There is no runtime
//! timer per connection.

use std::time::Duration;

use tokio::time::Instant;

/// The resolution of the wheel.
pub(super) const TICK: Duration = Duration::from_millis(100);

const SLOTS: u64 = 1024;

/// A time in ticks since the wheel was started.
pub(super) type Tick = u64;

/// A duration in ticks, rounded up.
pub(super) fn ticks(time: Duration) -> Tick {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2)
}

#[derive(Debug)]
pub(super) struct TimerWheel {
    started_at: Instant,
    now: Tick,
    slots: Vec<Vec<u64>>,
}

impl TimerWheel {
    pub(super) fn new(started_at: Instant) -> Self {
        Self { started_at, now: 0, slots: (0..SLOTS).map(|_| Vec::new()).collect() }
    }

    /// The current tick.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    /// The tick after a duration: at least the next one.
    pub(super) fn after(&self, wait: Duration) -> Tick {
        self.now + ticks(wait).max(1)
    }

    /// Adds a key that fires at `due`, or earlier if that is beyond the wheel's horizon. Returns the time at which it fires.
    pub(super) fn insert(&mut self, key: u64, due: Tick) -> Tick {
        let at = due.clamp(self.now + 1, self.now + SLOTS - 1);
        let slot = usize::try_from(at % SLOTS).unwrap_or_default();
        self.slots[slot].push(key);
        at
    }

    /// Advances by one tick if it is over. Returns the keys that fire.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Vec<u64>> {
        let next = self.started_at + TICK * u32::try_from(self.now + 1).unwrap_or(u32::MAX);
        if now < next {
            return None;
        }
        self.now += 1;
        let slot = usize::try_from(self.now % SLOTS).unwrap_or_default();
        Some(std::mem::take(&mut self.slots[slot]))
    }
}
