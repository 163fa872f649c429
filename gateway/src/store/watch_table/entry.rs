//! One watched key, and the coarse clock of its times.
//!
//! Owns the layout: there is one entry for each session that is logged in. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::store::key::KeyType;

/// A time in units of [`TICK`] since the start of the store.
pub(super) type Tick = u32;

/// The resolution of times. 32 bits last for 13 years.
const TICK: Duration = Duration::from_millis(100);
/// No time.
pub(super) const NEVER: Tick = Tick::MAX;

/// The fingerprint of a key that was not read yet.
pub(super) const UNKNOWN: u64 = 0;
/// The fingerprint of a missing key.
pub(super) const MISSING: u64 = 1;
/// The fingerprint of a key of another type. Those of values are greater.
pub(super) const OTHER_TYPE: u64 = 2;

/// The last tick that has begun.
pub(super) fn tick_at(time: Duration) -> Tick {
    Tick::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(NEVER).min(NEVER - 1)
}

/// The first tick that begins at or after a time.
pub(super) fn tick_after(time: Duration) -> Tick {
    let ticks = time.as_millis().div_ceil(TICK.as_millis());
    Tick::try_from(ticks).unwrap_or(NEVER).min(NEVER - 1)
}

/// When a tick begins.
pub(super) fn time_of(tick: Tick) -> Duration {
    TICK * tick
}

/// A watched key.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<[u8]>,
    /// Of the last known value, or [`UNKNOWN`], [`MISSING`] or [`OTHER_TYPE`].
    pub(super) fingerprint: u64,
    pub(super) serial: u32,
    pub(super) watchers: u32,
    /// When the key expires; of a missing key, when it may be reported.
    pub(super) deadline: Tick,
    /// When it is read again.
    pub(super) due: Tick,
    pub(super) last_read: Tick,
    /// The epoch in which it was last read.
    pub(super) epoch: u32,
    pub(super) kind: KeyType,
    /// Redis reports changes of this key while tracking is active.
    pub(super) is_covered: bool,
    pub(super) is_reading: bool,
    /// It may have changed while it was read.
    pub(super) read_again: bool,
    /// It is missing, which is reported at `deadline`.
    pub(super) is_ending: bool,
    /// The next read is reported, whatever the value is.
    pub(super) reports_first: bool,
}

impl Entry {
    pub(super) fn new(key: Arc<[u8]>, kind: KeyType, is_covered: bool, serial: u32, epoch: u32) -> Self {
        Self {
            key,
            fingerprint: UNKNOWN,
            serial,
            watchers: 0,
            deadline: NEVER,
            due: NEVER,
            last_read: NEVER,
            epoch,
            kind,
            is_covered,
            is_reading: false,
            read_again: false,
            is_ending: false,
            reports_first: false,
        }
    }

    /// Stores the result of a read. Returns whether it is a change to report.
    pub(super) fn set_fingerprint(&mut self, fingerprint: u64) -> bool {
        let is_first = std::mem::take(&mut self.reports_first);
        let before = std::mem::replace(&mut self.fingerprint, fingerprint);
        is_first || (before != UNKNOWN && before != fingerprint)
    }

    /// Reads the key by another type from now on. Watchers that know the earlier state get the next one.
    pub(super) fn set_kind(&mut self, kind: KeyType) {
        self.kind = kind;
        self.reports_first |= self.fingerprint != UNKNOWN;
        self.fingerprint = UNKNOWN;
        // The result of a read by the earlier type is not the last word.
        self.read_again |= self.is_reading;
    }

    /// Whether [`MISSING`] would be a change.
    pub(super) fn would_report_missing(&self) -> bool {
        self.reports_first || !matches!(self.fingerprint, UNKNOWN | MISSING)
    }

    /// When to read the key because it has expired: up to 0.4 s later, so that keys with equal TTLs are not read at the
    /// same time.
    pub(super) fn expiry_due(&self) -> Tick {
        let jitter = 1 + (self.serial.wrapping_mul(2_654_435_761) >> 30);
        if self.deadline == NEVER { NEVER } else { self.deadline.saturating_add(jitter).min(NEVER - 1) }
    }

    /// A number from 0 to 1 that differs between keys and times.
    pub(super) fn spread(&self, now: Duration) -> f64 {
        let mixed = (self.serial ^ tick_at(now).rotate_left(16)).wrapping_mul(2_654_435_761);
        f64::from(mixed) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 56, "{} bytes", size_of::<Entry>());
    }

    #[test]
    fn a_time_is_rounded_up_when_it_must_not_come_early() {
        let millis = Duration::from_millis;
        assert_eq!((tick_at(millis(199)), tick_after(millis(101)), tick_after(millis(200))), (1, 2, 2));
        assert_eq!(time_of(3), millis(300));
        assert!(tick_after(Duration::MAX) < NEVER);
    }
}
