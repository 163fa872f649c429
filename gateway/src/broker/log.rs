//! Logs in a broker: they assign the positions of a channel's publications, for all nodes.
//!
//! Owns the values, and the [`LoggedMessage`] that carries a publication over pub/sub. Must never know how a log is
//! stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::StreamPosition;

mod logged_message;
mod origin;

use super::Attributes;

pub use logged_message::LoggedMessage;
pub use origin::LogOrigin;

/// Published when the entries of a log were removed: every node clears its history. It is not a [`LoggedMessage`].
pub const CLEARED_MESSAGE: &[u8] = b"\0es2 cleared";

/// Where and how a log is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The prefix of the keys.
    pub key_prefix: String,
    /// The channel is the hash tag of its keys, so that in a cluster each log has its own slot. Otherwise the prefix
    /// must contain a hash tag, since a script touches several keys.
    pub channel_hash_tag: bool,
    /// Publishes with sharded pub/sub: see [`super::Topic::Sharded`].
    pub sharded: bool,
    /// The maximum number of entries.
    pub size: usize,
    /// How long the entries are kept after the last one.
    pub ttl: Duration,
}

/// Options of an append.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppendOptions {
    /// Tags and publisher.
    pub attributes: Attributes,
    /// A second publication with the same key within five minutes is suppressed.
    pub idempotency_key: Option<Arc<str>>,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// The offset.
    pub offset: u64,
    /// Tags and publisher.
    pub attributes: Attributes,
    /// The payload, unchanged.
    pub payload: Bytes,
}

/// Part of a log, read atomically.
///
/// A page may hold fewer entries than requested although there are more: it is also bounded in bytes, but never empty
/// for that reason. A truncated forward page continues after its last entry.
///
/// Entries may be missing: trimmed, expired, removed, or lost by the server. A reader detects that as a gap (the first
/// entry does not follow the requested offset), or as a page that ends below `top` and is followed by an empty one.
/// After a loss, the next append begins a new epoch; until then `top` is of the old one. When a server was restored to
/// an older state, `top` is below positions that were delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// The position of the log; `None` without a log.
    pub top: Option<StreamPosition>,
    /// Entries in the order of their offsets, or in reverse if requested.
    pub entries: Vec<LogEntry>,
    /// When the first entry was written, or, without a log, when it was read; `None` when that is unknown, and for a
    /// log that replaced a lost one.
    pub origin: Option<LogOrigin>,
}
