//! The bounds of a channel's history.
//!
//! Must never know how a history is stored: see [`super::history`].

use std::time::Duration;

/// The bounds of a channel's history (`namespace.history`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRules {
    /// Publications; 0 disables the history.
    pub size: usize,
    /// Age.
    pub ttl: Duration,
    /// Bytes.
    pub bytes: usize,
}
