//! The watch table, shared by callers and links.
//!
//! Owns the clock of the table, and the calls of the listener. Must never call the listener under the lock.

use std::fmt;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::error::StoreError;
use super::key::{KeyEvents, KeyType, KeyValue};
use super::prefixes::{covers, merge};
use super::request::WatchedValue;
use super::settings::StoreSettings;
use super::status::{ServerRole, StoreMetrics};
use super::watch_table::{FirstRead, ReadOutcome, Reread, TableSettings, WatchId, WatchTable};

/// The watched keys.
pub(super) struct Watches {
    /// The name of the Redis instance.
    instance: String,
    table: Mutex<WatchTable>,
    /// Without overlaps.
    prefixes: Vec<Vec<u8>>,
    start: Instant,
    changed: Notify,
    hasher: RandomState,
    events: Arc<dyn KeyEvents>,
    metrics: Arc<StoreMetrics>,
}

impl Watches {
    pub(super) fn new(
        settings: &StoreSettings,
        events: Arc<dyn KeyEvents>,
        metrics: Arc<StoreMetrics>,
    ) -> Self {
        let table = WatchTable::new(TableSettings {
            sweep_interval: settings.sweep_interval,
            disconnect_window: settings.disconnect_window,
            recovery_rate: settings.recovery_rate,
            reread_interval_min: settings.reread_interval_min,
        });
        Self {
            instance: settings.connection.name.clone(),
            table: Mutex::new(table),
            prefixes: merge(&settings.prefixes),
            start: Instant::now(),
            changed: Notify::new(),
            hasher: RandomState::new(),
            events,
            metrics,
        }
    }

    /// The prefixes for tracking.
    pub(super) fn prefixes(&self) -> &[Vec<u8>] {
        &self.prefixes
    }

    /// The numbers of watched keys and of pending endings.
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = self.table();
        (table.len(), table.pending_endings())
    }

    /// Adds a watcher.
    pub(super) fn watch(self: &Arc<Self>, key: &[u8], kind: KeyType, first: FirstRead) -> WatchGuard {
        let is_covered = covers(&self.prefixes, key);
        let id = self.table().watch(key, kind, is_covered, first, self.now());
        if first == FirstRead::ByTable {
            self.changed.notify_one();
        }
        WatchGuard { watches: Arc::clone(self), id }
    }

    /// Redis reports changes of these keys.
    pub(super) fn on_invalidations<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let now = self.now();
        let (mut count, mut watched) = (0, 0);
        let mut table = self.table();
        for key in keys {
            count += 1;
            watched += u64::from(table.on_invalidation(key, now));
        }
        drop(table);
        self.metrics.invalidations.add(count);
        self.metrics.watched_invalidations.add(watched);
        if watched > 0 {
            self.changed.notify_one();
        }
    }

    /// Redis reports that all keys were deleted.
    pub(super) fn on_flush(&self) {
        self.metrics.flushes.add(1);
        self.on_failure();
        self.start_full_reread();
    }

    /// A link failed.
    pub(super) fn on_failure(&self) {
        self.table().on_failure(self.now());
    }

    /// Sets whether Redis reports changes, and reads all keys again.
    pub(super) fn set_tracked(&self, is_tracked: bool) {
        self.table().set_tracked(is_tracked);
        self.start_full_reread();
    }

    /// Reads all keys again, in slices.
    pub(super) fn start_full_reread(&self) {
        let mut table = self.table();
        let is_empty = table.len() == 0;
        table.start_full_reread(self.now());
        drop(table);
        if !is_empty {
            self.metrics.full_rereads.add(1);
            self.changed.notify_one();
        }
    }

    /// Takes the keys to read now, at most `max`. Each must be passed to [`Watches::on_read`].
    pub(super) fn next_reads(&self, max: usize) -> Vec<Reread> {
        self.table().next_reads(self.now(), max)
    }

    /// Resolves when keys are to be read.
    pub(super) async fn due(&self) {
        loop {
            let wake = self.table().next_wake().map(|wake| self.start + wake);
            let Some(wake) = wake else {
                self.changed.notified().await;
                continue;
            };
            if wake <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(wake) => return,
                () = self.changed.notified() => {}
            }
        }
    }

    /// A read of [`Watches::next_reads`] is complete.
    pub(super) fn on_read(
        &self,
        reread: &Reread,
        read: Result<&WatchedValue, &StoreError>,
        role: ServerRole,
    ) {
        self.metrics.rereads.add(1);
        if read.is_err_and(|error| *error != StoreError::WrongType) {
            self.metrics.reread_errors.add(1);
        }
        let outcome = self.outcome(read, role);
        let is_change = self.table().on_read(reread.id, outcome, self.now());
        if is_change {
            self.report(&reread.key, read);
        }
    }

    /// A caller has read a watched key.
    pub(super) fn on_caller_read(
        &self,
        (id, kind): (WatchId, KeyType),
        read: Result<&WatchedValue, &StoreError>,
        role: ServerRole,
    ) {
        let outcome = self.outcome(read, role);
        let mut table = self.table();
        let key = table.key(id);
        let is_change = table.on_caller_read(id, kind, outcome, self.now());
        drop(table);
        if let (true, Some(key)) = (is_change, key) {
            self.report(&key, read);
        }
    }

    fn outcome(&self, read: Result<&WatchedValue, &StoreError>, role: ServerRole) -> ReadOutcome {
        match read {
            Ok(WatchedValue { value: Some(value), expires_in }) => {
                ReadOutcome::Present { fingerprint: value.fingerprint(&self.hasher), expires_in: *expires_in }
            }
            Ok(_) if role == ServerRole::Replica => ReadOutcome::Failed,
            Ok(_) => ReadOutcome::Missing,
            Err(StoreError::WrongType) => ReadOutcome::OtherType,
            Err(_) => ReadOutcome::Failed,
        }
    }

    fn report(&self, key: &[u8], read: Result<&WatchedValue, &StoreError>) {
        let value = match read {
            Ok(read) => read.value.as_ref(),
            Err(StoreError::WrongType) => {
                tracing::warn!(
                    instance = %self.instance,
                    "a watched key has another type than it is read by; a login that depends on its value ends"
                );
                Some(&KeyValue::OtherType)
            }
            Err(_) => return,
        };
        self.metrics.changes.add(1);
        if value.is_none() {
            self.metrics.endings.add(1);
        }
        self.events.on_change(key, value);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn table(&self) -> MutexGuard<'_, WatchTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("keys", &self.counts().0).finish_non_exhaustive()
    }
}

/// Keeps a key watched until it is dropped.
#[derive(Debug)]
#[must_use = "the key is watched only while the guard lives"]
pub struct WatchGuard {
    watches: Arc<Watches>,
    id: WatchId,
}

impl WatchGuard {
    /// The entry of the key.
    pub(super) fn id(&self) -> WatchId {
        self.id
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watches.table().unwatch(self.id);
    }
}
