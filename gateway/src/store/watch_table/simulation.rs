//! A simulated server, for tests of the table.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::entry::NEVER;
use super::{FirstRead, ReadOutcome, Reread, TableSettings, WatchId, WatchTable};
use crate::store::key::KeyType;

pub(super) const SETTINGS: TableSettings = TableSettings {
    sweep_interval: Duration::from_secs(30),
    disconnect_window: Duration::from_secs(20),
    recovery_rate: 1000,
    reread_interval_min: Duration::from_millis(500),
};
pub(super) const STEP: Duration = Duration::from_millis(100);

/// A server, the links to it, and what is known of its keys.
pub(super) struct TableSimulation {
    pub(super) table: WatchTable,
    pub(super) now: Duration,
    /// Values and expiry times.
    pub(super) server: BTreeMap<String, (u64, Option<Duration>)>,
    pub(super) is_tracking: bool,
    pub(super) in_flight: Vec<(Reread, ReadOutcome)>,
    pub(super) guards: HashMap<String, WatchId>,
    /// The last reported states.
    pub(super) known: HashMap<String, ReadOutcome>,
    /// When a key was reported as missing.
    pub(super) endings: Vec<Duration>,
    pub(super) reads: usize,
}

impl TableSimulation {
    pub(super) fn new() -> Self {
        let mut simulation = Self {
            table: WatchTable::new(SETTINGS),
            now: Duration::ZERO,
            server: BTreeMap::new(),
            is_tracking: false,
            in_flight: Vec::new(),
            guards: HashMap::new(),
            known: HashMap::new(),
            endings: Vec::new(),
            reads: 0,
        };
        simulation.track();
        simulation
    }

    pub(super) fn state(&mut self, key: &str) -> ReadOutcome {
        let now = self.now;
        self.server.retain(|_, (_, expiry)| expiry.is_none_or(|expiry| expiry > now));
        match self.server.get(key) {
            Some((value, expiry)) => {
                ReadOutcome::Present { fingerprint: *value + 10, expires_in: expiry.map(|at| at - now) }
            }
            None => ReadOutcome::Missing,
        }
    }

    pub(super) fn set(&mut self, key: &str, value: u64, ttl: Option<Duration>) {
        self.server.insert(key.to_owned(), (value, ttl.map(|ttl| self.now + ttl)));
        self.push(key);
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.server.remove(key).is_some() {
            self.push(key);
        }
    }

    pub(super) fn push(&mut self, key: &str) {
        if self.is_tracking {
            self.table.on_invalidation(key.as_bytes(), self.now);
        }
    }

    pub(super) fn flush(&mut self) {
        self.server.clear();
        if self.is_tracking {
            self.table.on_failure(self.now);
            self.table.start_full_reread(self.now);
        }
    }

    pub(super) fn watch(&mut self, key: &str, first: FirstRead) {
        self.finish_reads();
        let id = self.table.watch(key.as_bytes(), KeyType::String, true, first, self.now);
        let was_watched = self.guards.insert(key.to_owned(), id).is_some();
        if was_watched {
            self.table.unwatch(id);
        }
        if first == FirstRead::ByCaller {
            let state = self.state(key);
            self.table.on_caller_read(id, KeyType::String, state, self.now);
            // The last watcher knows what it has read; it may differ from what the earlier ones know.
            self.known.insert(key.to_owned(), state);
        }
    }

    pub(super) fn unwatch(&mut self, key: &str) {
        if let Some(id) = self.guards.remove(key) {
            self.table.unwatch(id);
            self.known.remove(key);
        }
    }

    pub(super) fn track(&mut self) {
        self.is_tracking = true;
        self.table.set_tracked(true);
        self.table.start_full_reread(self.now);
    }

    pub(super) fn lose_tracking(&mut self) {
        if std::mem::take(&mut self.is_tracking) {
            self.table.on_failure(self.now);
            self.table.set_tracked(false);
            self.table.start_full_reread(self.now);
        }
    }

    /// The link for reads fails, and connects again.
    pub(super) fn lose_link(&mut self) {
        for (reread, _) in std::mem::take(&mut self.in_flight) {
            assert!(!self.table.on_read(reread.id, ReadOutcome::Failed, self.now));
        }
        self.table.on_failure(self.now);
        self.table.start_full_reread(self.now);
    }

    pub(super) fn start_reads(&mut self, max: usize) {
        for reread in self.table.next_reads(self.now, max) {
            self.reads += 1;
            let state = self.state(std::str::from_utf8(&reread.key).unwrap());
            self.in_flight.push((reread, state));
        }
    }

    pub(super) fn finish_reads(&mut self) {
        for (reread, state) in std::mem::take(&mut self.in_flight) {
            if self.table.on_read(reread.id, state, self.now) {
                let key = String::from_utf8(reread.key.to_vec()).unwrap();
                self.known.insert(key, state);
                if state == ReadOutcome::Missing {
                    self.endings.push(self.now);
                }
            }
        }
        self.check();
    }

    /// Lets time pass, and reads whatever is due.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.table.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.start_reads(8);
            self.finish_reads();
        }
        self.now = end;
    }

    pub(super) fn check(&self) {
        let due = self.table.entries.iter().filter(|(_, entry)| entry.due != NEVER).count();
        let ending = self.table.entries.iter().filter(|(_, entry)| entry.is_ending).count();
        assert_eq!((self.table.timers.len(), self.table.pending_endings), (due, ending));
        assert_eq!(self.table.indexes.len(), self.table.entries.len());
        assert!(self.table.timers.iter().all(|(due, _)| *due != NEVER));
    }

    pub(super) fn key(number: usize) -> String {
        format!("sess:{number}")
    }

    /// Watches existing keys.
    pub(super) fn with_keys(count: usize) -> Self {
        let mut simulation = Self::new();
        for number in 0..count {
            simulation.set(&Self::key(number), 1, None);
            simulation.watch(&Self::key(number), FirstRead::ByCaller);
        }
        simulation.run(SETTINGS.sweep_interval);
        simulation.reads = 0;
        simulation
    }
}
