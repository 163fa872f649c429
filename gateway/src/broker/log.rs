//! Logs in a broker: what one channel's publications are numbered by, wherever they come from.
//!
//! Owns the values, and the [`LoggedMessage`] in which a numbered publication travels over pub/sub. Must never know how a
//! log is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::StreamPosition;

mod envelope;
mod origin;

use super::Attributes;

pub use envelope::LoggedMessage;
pub use origin::LogOrigin;

/// What is published when the entries of a log were removed: every node forgets them. It is no envelope.
pub const CLEARED: &[u8] = b"\0es2 cleared";

/// Where and how a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What the keys begin with.
    pub key_prefix: String,
    /// The channel is the hash tag of its keys, so that in a cluster each log has a slot of its own. Without it, the
    /// prefix must hold one: a script touches several keys.
    pub channel_hash_tag: bool,
    /// What is published travels to those alone who hear the channel as [`super::Topic::Sharded`].
    pub sharded: bool,
    /// Entries that are kept.
    pub size: usize,
    /// How long after the last entry it is kept.
    pub ttl: Duration,
}

/// What goes with a publication into the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppendOptions {
    /// What travels with it.
    pub attributes: Attributes,
    /// A second publication with the same key within five minutes is not made.
    pub idempotency_key: Option<Arc<str>>,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Its place.
    pub offset: u64,
    /// What travels with it.
    pub attributes: Attributes,
    /// The payload, untouched.
    pub payload: Bytes,
}

/// Part of a log, as it was at one moment.
///
/// A page may hold fewer entries than were asked for although there are more: it is bounded in bytes, too, but never
/// empty for that reason. A forward page that was cut goes on behind its last entry.
///
/// Entries may be missing: trimmed, expired, removed, or lost by the server. A reader sees that as a hole (the first
/// entry is not the one behind the offset that it named), or as a page that ends below `top` and is followed by an
/// empty one. When it was a loss, the next append begins a new epoch; until then `top` still names the old one. When
/// the server went back to an older state as a whole, `top` is below what was handed out before.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// Where the log stands; `None` when there is none.
    pub top: Option<StreamPosition>,
    /// Entries in the order of their offsets, or against it where that was asked for.
    pub entries: Vec<LogEntry>,
    /// When its first entry was written, or, when there is no log, when it was read; `None` when that is not known, and
    /// for a log that began anew because the one before it was lost.
    pub origin: Option<LogOrigin>,
}
