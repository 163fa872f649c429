//! Status and counters of a store.
//!
//! Owns the values that `/health` and the metrics show. Must never keep a key or a value.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metrics::Counter;

/// How changes of watched keys are noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackingMode {
    /// Redis reports each change.
    Active,
    /// Each watched key is read at `sweep_interval`.
    Sweep {
        /// Why there is no tracking.
        reason: String,
    },
}

/// The role of the server that replies to reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// A primary.
    Primary,
    /// A replica: a key that is missing here does not count as missing.
    Replica,
    /// Not known: not connected, or the ACL forbids `ROLE`. Counts as a primary when connected.
    Unknown,
}

/// The status of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// Whether the link for reads is connected.
    pub connected: bool,
    /// The role of its server.
    pub role: ServerRole,
    /// How changes are noticed.
    pub tracking: TrackingMode,
    /// Keys with a guard.
    pub watched_keys: usize,
    /// Missing keys that are reported later, because they were found after a link failure.
    pub pending_endings: usize,
    /// The last failure of the link for reads, or the last rejected command; empty without one.
    pub last_error: String,
}

/// Counters of a store.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Reads of callers.
    pub reads: Counter,
    /// Reads of callers that failed.
    pub read_errors: Counter,
    /// Writes of callers.
    pub writes: Counter,
    /// Writes of callers that failed.
    pub write_errors: Counter,
    /// Keys in the invalidations of Redis.
    pub invalidations: Counter,
    /// Of these, watched keys.
    pub watched_invalidations: Counter,
    /// Invalidations of all keys (`FLUSHALL`, `FLUSHDB`).
    pub flushes: Counter,
    /// Reads of watched keys by the store.
    pub rereads: Counter,
    /// Of these, reads that failed.
    pub reread_errors: Counter,
    /// Times that all watched keys were read again: after a lost link, a flush, or a change of the tracking mode.
    pub full_rereads: Counter,
    /// Changes reported to the listener.
    pub changes: Counter,
    /// Missing keys reported to the listener.
    pub endings: Counter,
    /// Failures of the link for reads.
    pub link_failures: Counter,
    /// Failures of the tracking link.
    pub tracking_failures: Counter,
}

/// The parts of the status that the links write.
#[derive(Debug)]
pub(super) struct LinkHealth(Mutex<Health>);

#[derive(Debug)]
pub(super) struct Health {
    pub(super) connected: bool,
    pub(super) role: ServerRole,
    pub(super) tracking: TrackingMode,
    pub(super) last_error: String,
}

impl LinkHealth {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Health {
            connected: false,
            role: ServerRole::Unknown,
            tracking: TrackingMode::Sweep { reason: "not connected yet".to_owned() },
            last_error: String::new(),
        }))
    }

    /// The lock must not be held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
