//! Watched keys: which are read again, and when; and which change is reported.
//!
//! Owns the due time of each key, and the pacing after a link failure. Pure: the caller passes the time, executes the
//! reads, and reports the changes. Must never report a key as missing right after a link failure, when a server that
//! lost its data lacks all of them.
//!
//! - A key is read again after an invalidation, at its TTL, at `sweep_interval` while Redis does not report changes,
//!   and in a full reread.
//! - An epoch ends with each link failure. A key that is first found missing in a new epoch is read again later, and
//!   reported only then. These times are spread so that all keys together take `disconnect_window`; a few missing keys
//!   take only a small part of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::key::KeyType;

mod callers;
mod entry;
mod full_reread;
mod read;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod type_tests;

use entry::{Entry, MISSING, NEVER, OTHER_TYPE, Tick, tick_after, tick_at, time_of};
use full_reread::FullReread;
pub(super) use read::{FirstRead, ReadOutcome, Reread, WatchId};

/// When a read that failed is repeated.
const FAILED_RETRY: Duration = Duration::from_secs(5);
/// Maximum number of slots that one call of [`WatchTable::next_reads`] examines in a full reread.
const SCAN_MAX: usize = 4096;

/// The parts of the settings that the table uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableSettings {
    pub(super) sweep_interval: Duration,
    pub(super) disconnect_window: Duration,
    /// Keys per second.
    pub(super) recovery_rate: u32,
    pub(super) reread_interval_min: Duration,
}

/// The watched keys.
#[derive(Debug)]
pub(super) struct WatchTable {
    settings: TableSettings,
    entries: Slab<Entry>,
    indexes: HashMap<Arc<[u8]>, u32>,
    /// The due time and index of each entry that has a due time.
    timers: BTreeSet<(Tick, u32)>,
    full_reread: FullReread,
    serial: u32,
    /// The number of link failures.
    epoch: u32,
    /// When the next missing key may be reported after a link failure.
    next_ending: Duration,
    pending_endings: usize,
    /// Whether Redis reports changes.
    is_tracked: bool,
}

impl WatchTable {
    pub(super) fn new(settings: TableSettings) -> Self {
        Self {
            settings,
            entries: Slab::new(),
            indexes: HashMap::new(),
            timers: BTreeSet::new(),
            full_reread: FullReread::default(),
            serial: 0,
            epoch: 0,
            next_ending: Duration::ZERO,
            pending_endings: 0,
            is_tracked: false,
        }
    }

    /// The number of watched keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Missing keys that are reported later.
    pub(super) fn pending_endings(&self) -> usize {
        self.pending_endings
    }

    /// Adds a watcher. `is_covered`: an invalidation is expected when the key changes. All watchers of a key share one
    /// type; any other type replaces `Exists`.
    pub(super) fn watch(
        &mut self,
        key: &[u8],
        kind: KeyType,
        is_covered: bool,
        first: FirstRead,
        now: Duration,
    ) -> WatchId {
        let index = match self.indexes.get(key) {
            Some(index) => *index,
            None => self.add(key, kind, is_covered),
        };
        let Some(entry) = self.entries.get_mut(index as usize) else { return WatchId { index, serial: 0 } };
        entry.watchers += 1;
        if entry.kind == KeyType::Exists && kind != KeyType::Exists {
            entry.set_kind(kind);
        }
        let id = WatchId { index, serial: entry.serial };
        if first == FirstRead::ByTable {
            entry.reports_first = true;
            self.request_read(id, now);
        }
        id
    }

    fn add(&mut self, key: &[u8], kind: KeyType, is_covered: bool) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let key: Arc<[u8]> = key.into();
        let entry = Entry::new(Arc::clone(&key), kind, is_covered, self.serial, self.epoch);
        // A table of 4 billion keys does not fit into memory.
        let index = u32::try_from(self.entries.insert(entry)).unwrap_or(u32::MAX);
        self.indexes.insert(key, index);
        index
    }

    /// Removes a watcher.
    pub(super) fn unwatch(&mut self, id: WatchId) {
        let Some(entry) = self.entry(id) else { return };
        entry.watchers -= 1;
        if entry.watchers > 0 {
            return;
        }
        self.set_due(id.index, NEVER);
        self.set_ending(id.index, false);
        let entry = self.entries.remove(id.index as usize);
        self.indexes.remove(&entry.key);
        if self.indexes.len() < self.indexes.capacity() / 8 && self.indexes.capacity() > 1024 {
            self.indexes.shrink_to(self.indexes.len() * 2);
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    /// The key of an entry.
    pub(super) fn key(&self, id: WatchId) -> Option<Arc<[u8]>> {
        let entry = self.entries.get(id.index as usize).filter(|entry| entry.serial == id.serial);
        entry.map(|entry| Arc::clone(&entry.key))
    }

    /// Redis reports that a key has changed. Returns whether it is watched.
    pub(super) fn on_invalidation(&mut self, key: &[u8], now: Duration) -> bool {
        let Some(index) = self.indexes.get(key).copied() else { return false };
        let epoch = self.epoch;
        let Some(entry) = self.entries.get_mut(index as usize) else { return false };
        // This key itself was changed: a missing key is not a sign of a server that lost its data.
        entry.epoch = epoch;
        let id = WatchId { index, serial: entry.serial };
        let earliest = match entry.last_read {
            NEVER => now,
            last => (time_of(last) + self.settings.reread_interval_min).max(now),
        };
        if earliest > now && !entry.is_reading {
            let due = entry.due.min(tick_after(earliest));
            self.set_due(index, due);
        } else {
            self.request_read(id, now);
        }
        true
    }

    /// A link failed, or all keys were deleted: a new epoch begins.
    pub(super) fn on_failure(&mut self, now: Duration) {
        self.epoch = self.epoch.wrapping_add(1);
        self.next_ending = now;
    }

    /// Sets whether Redis reports changes. The caller starts a full reread after a change.
    pub(super) fn set_tracked(&mut self, is_tracked: bool) {
        self.is_tracked = is_tracked;
    }

    /// Starts to read all keys again, in slices.
    pub(super) fn start_full_reread(&mut self, now: Duration) {
        self.full_reread.start(self.entries.capacity(), now);
    }

    /// Takes the keys to read now, at most `max`. Each must be answered by [`WatchTable::on_read`].
    pub(super) fn next_reads(&mut self, now: Duration, max: usize) -> Vec<Reread> {
        let mut reads = Vec::new();
        let is_slice_due = self.full_reread.wake().is_some_and(|wake| wake <= now);
        // A part is left for the full reread.
        let timers_max = if is_slice_due { max - max / 4 } else { max };
        while reads.len() < timers_max {
            let Some((due, index)) = self.timers.first().copied() else { break };
            if due > tick_at(now) {
                break;
            }
            self.set_due(index, NEVER);
            reads.extend(self.start_read(index));
        }
        if is_slice_due {
            self.add_slice(&mut reads, now, max);
        }
        reads
    }

    fn add_slice(&mut self, reads: &mut Vec<Reread>, now: Duration, max: usize) {
        let before = reads.len();
        for _ in 0..SCAN_MAX {
            if reads.len() >= max {
                break;
            }
            let Some(index) = self.full_reread.take() else { break };
            reads.extend(self.start_read(index));
        }
        self.full_reread.pause(now, reads.len() - before, self.settings.recovery_rate);
    }

    /// Marks an entry as being read; `None` while a read is in flight, which is then repeated.
    fn start_read(&mut self, index: u32) -> Option<Reread> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.is_reading {
            entry.read_again = true;
            return None;
        }
        entry.is_reading = true;
        let id = WatchId { index, serial: entry.serial };
        Some(Reread { id, key: Arc::clone(&entry.key), kind: entry.kind })
    }

    /// When [`WatchTable::next_reads`] has something to read; `None`: not before another call.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(due, _)| time_of(*due));
        [timer, self.full_reread.wake()].into_iter().flatten().min()
    }

    /// A read of [`WatchTable::next_reads`] is complete. Returns whether the result is a change to report.
    pub(super) fn on_read(&mut self, id: WatchId, outcome: ReadOutcome, now: Duration) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        entry.is_reading = false;
        let again = std::mem::take(&mut entry.read_again);
        let outcome = match outcome {
            // The type by which it is read may have changed since.
            ReadOutcome::OtherType if again => ReadOutcome::Failed,
            outcome => outcome,
        };
        let is_change = self.apply(id, outcome, now);
        if again {
            self.request_read(id, now);
        }
        is_change
    }

    fn apply(&mut self, id: WatchId, outcome: ReadOutcome, now: Duration) -> bool {
        match outcome {
            ReadOutcome::Present { fingerprint, expires_in } => {
                self.apply_present(id, fingerprint.max(OTHER_TYPE + 1), expires_in, now)
            }
            ReadOutcome::OtherType => self.apply_present(id, OTHER_TYPE, None, now),
            ReadOutcome::Missing => self.apply_missing(id, now),
            ReadOutcome::Failed => {
                let Some(entry) = self.entry(id) else { return false };
                let due = entry.due.min(tick_after(now + FAILED_RETRY));
                self.set_due(id.index, due);
                false
            }
        }
    }

    fn apply_present(
        &mut self,
        id: WatchId,
        fingerprint: u64,
        expires_in: Option<Duration>,
        now: Duration,
    ) -> bool {
        self.set_ending(id.index, false);
        let epoch = self.epoch;
        let sweep = self.sweep_due(id, now);
        let Some(entry) = self.entry(id) else { return false };
        entry.last_read = tick_at(now);
        entry.epoch = epoch;
        entry.deadline = expires_in.map_or(NEVER, |ttl| tick_after(now + ttl));
        let due = entry.expiry_due().min(sweep);
        let is_change = entry.set_fingerprint(fingerprint);
        self.set_due(id.index, due);
        is_change
    }

    fn apply_missing(&mut self, id: WatchId, now: Duration) -> bool {
        let (epoch, tick) = (self.epoch, tick_at(now));
        let sweep = self.sweep_due(id, now);
        let Some(entry) = self.entry(id) else { return false };
        entry.last_read = tick;
        let is_expired = !entry.is_ending && entry.deadline <= tick;
        let is_first_in_epoch = std::mem::replace(&mut entry.epoch, epoch) != epoch;
        if entry.would_report_missing() {
            if is_first_in_epoch && !is_expired {
                let at = self.next_ending.max(now);
                self.next_ending = at + self.ending_interval();
                if at > now {
                    self.set_ending(id.index, true);
                    if let Some(entry) = self.entry(id) {
                        entry.deadline = tick_after(at);
                    }
                    self.set_due(id.index, tick_after(at));
                    return false;
                }
            } else if entry.is_ending && tick < entry.deadline {
                let due = entry.deadline;
                self.set_due(id.index, due);
                return false;
            }
        }
        self.set_ending(id.index, false);
        self.set_due(id.index, sweep);
        let Some(entry) = self.entry(id) else { return false };
        entry.deadline = NEVER;
        entry.set_fingerprint(MISSING)
    }

    /// The time between two reports of missing keys after a link failure.
    fn ending_interval(&self) -> Duration {
        self.settings.disconnect_window / u32::try_from(self.entries.len().max(1)).unwrap_or(u32::MAX)
    }

    /// When the entry is read again if Redis does not report its changes.
    fn sweep_due(&mut self, id: WatchId, now: Duration) -> Tick {
        let (is_tracked, interval) = (self.is_tracked, self.settings.sweep_interval);
        match self.entry(id) {
            Some(entry) if is_tracked && entry.is_covered => NEVER,
            // Spread over a fifth of the interval.
            Some(entry) => tick_after(now + interval - interval.mul_f64(entry.spread(now) / 5.0)),
            None => NEVER,
        }
    }

    fn request_read(&mut self, id: WatchId, now: Duration) {
        let Some(entry) = self.entry(id) else { return };
        if entry.is_reading {
            entry.read_again = true;
        } else {
            self.set_due(id.index, tick_at(now));
        }
    }

    fn set_due(&mut self, index: u32, due: Tick) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        if entry.due == due {
            return;
        }
        if entry.due != NEVER {
            self.timers.remove(&(entry.due, index));
        }
        if due != NEVER {
            self.timers.insert((due, index));
        }
        entry.due = due;
    }

    fn set_ending(&mut self, index: u32, is_ending: bool) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        match (entry.is_ending, is_ending) {
            (false, true) => self.pending_endings += 1,
            (true, false) => self.pending_endings -= 1,
            _ => {}
        }
        entry.is_ending = is_ending;
    }

    fn entry(&mut self, id: WatchId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index as usize).filter(|entry| entry.serial == id.serial)
    }
}
