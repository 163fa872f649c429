//! The bounds of a channel's history.
//!
//! Must never know how a history is stored: see [`super::history`].

use std::time::Duration;

/// The bounds of a channel's history (`namespace.history`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRules {
    /// The maximum number of publications; 0 disables the history.
    pub size: usize,
    /// How long a publication is kept.
    pub ttl: Duration,
    /// The maximum number of bytes in the memory of a node; a log is bounded by size and time only.
    pub bytes: usize,
}
