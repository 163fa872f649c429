//! Reads of watched keys: requests and results.
//!
//! Owns the types that the table and its callers exchange. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::store::key::KeyType;

/// Identifies an entry. A later entry at the same index has another serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct WatchId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// A key to read.
#[derive(Clone, Debug)]
pub(in crate::store) struct Reread {
    pub(in crate::store) id: WatchId,
    pub(in crate::store) key: Arc<[u8]>,
    pub(in crate::store) kind: KeyType,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum ReadOutcome {
    /// The key exists.
    Present {
        /// Differs between values.
        fingerprint: u64,
        /// The remaining TTL.
        expires_in: Option<Duration>,
    },
    /// The key exists, but has another type than the one it was read by.
    OtherType,
    /// The key does not exist on a primary.
    Missing,
    /// The state of the key is not known.
    Failed,
}

/// How the first value becomes known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum FirstRead {
    /// The table requests a read, and its result is reported as a change.
    ByTable,
    /// The caller reads the key, and passes the result to the table.
    ByCaller,
}
