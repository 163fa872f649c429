//! Time in tokens, tickets and signed names.

/// Whole seconds since 1970-01-01 00:00 UTC.
pub type UnixSeconds = u64;
