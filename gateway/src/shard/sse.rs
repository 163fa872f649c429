//! Server-Sent Events on the wire.
//!
//! Owns the response head, the chunks around events, and the events of the gateway itself: `subscribed`, `gap`,
//! `error`.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ChannelTag, Cursor, StreamPosition, sse};

use crate::node::publication::Publication;

/// The end of a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One chunk of a chunked body.
pub(super) fn chunk(body: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
    chunk.extend_from_slice(body);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

/// The body of a chunk, shared with it.
pub(super) fn unchunked(chunk: &Bytes) -> Bytes {
    let start = memchr::memchr(b'\n', chunk).map_or(0, |at| at + 1);
    chunk.slice(start..chunk.len().saturating_sub(2).max(start))
}

/// A publication in a stream of one channel, as a chunk.
pub(super) fn single(publication: &Publication) -> Bytes {
    let mut id = Vec::new();
    Cursor::write([(ChannelTag::of(&publication.channel), publication.position)], &mut id);
    let mut event = Vec::with_capacity(publication.payload.len() + 64);
    sse::event(None, std::str::from_utf8(&id).ok(), &sse::payload(&publication.payload), &mut event);
    chunk(&event)
}

/// A publication in a stream of several channels, as a chunk, without its id and its end: [`id_line`].
pub(super) fn named(publication: &Publication) -> Bytes {
    without_id(Some(publication.channel.as_str()), publication)
}

/// A publication in a stream of one channel, as a chunk, without its id and its end: [`id_line`].
pub(super) fn open(publication: &Publication) -> Bytes {
    without_id(None, publication)
}

fn without_id(name: Option<&str>, publication: &Publication) -> Bytes {
    let mut event = Vec::with_capacity(publication.payload.len() + 64);
    sse::event_open(name, &sse::payload(&publication.payload), &mut event);
    chunk(&event)
}

/// The end of an event without an id: the cursor over all channels of the stream, and `suffix`.
pub(super) fn id_line(
    positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>,
    suffix: &str,
) -> Vec<u8> {
    let mut line = Vec::new();
    sse::event_close_at(positions, suffix, &mut line);
    line
}

/// Whether a frame ends the event that the frame before it started: [`id_line`], chunked or not.
pub(super) fn is_rest(piece: &[u8]) -> bool {
    let (size, body) = match memchr::memchr(b'\n', piece) {
        Some(end) => piece.split_at(end + 1),
        None => (piece, piece),
    };
    if size.ends_with(b"\r\n") { body.starts_with(b"id: ") } else { piece.starts_with(b"id: ") }
}

/// The comment that keeps an idle stream open.
pub(super) fn heartbeat() -> Vec<u8> {
    let mut out = Vec::new();
    sse::heartbeat(&mut out);
    out
}

/// The event that replaces the comment on streams that request it; a page can see it, unlike a comment. Its data is the
/// longest time until the next one.
pub(super) fn ping(interval: Duration) -> Vec<u8> {
    let data = serde_json::json!({ "interval_ms": interval.as_millis() }).to_string();
    let mut out = Vec::new();
    sse::event(Some("ping"), None, data.as_bytes(), &mut out);
    out
}

/// The first event of a stream: its channels, whether each was recovered, and the delay before the client reconnects.
pub(super) fn subscribed<'a>(
    channels: impl Iterator<Item = (&'a ChannelName, bool)>,
    positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>,
    suffix: &str,
    retry_ms: u32,
) -> Vec<u8> {
    let states: serde_json::Map<String, serde_json::Value> = channels
        .map(|(name, recovered)| (name.to_string(), serde_json::json!({ "recovered": recovered })))
        .collect();
    let data = serde_json::json!({ "channels": states }).to_string();
    let mut out = Vec::new();
    sse::retry(retry_ms, &mut out);
    sse::event_open(Some("subscribed"), data.as_bytes(), &mut out);
    sse::event_close_at(positions, suffix, &mut out);
    out
}

/// A gap in the sequence of a channel; the cursor contains the position after it.
pub(super) fn gap(
    channel: &ChannelName,
    reason: &str,
    positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>,
    suffix: &str,
) -> Vec<u8> {
    let data = serde_json::json!({ "channel": channel.as_str(), "reason": reason }).to_string();
    let mut out = Vec::new();
    sse::event_open(Some("gap"), data.as_bytes(), &mut out);
    sse::event_close_at(positions, suffix, &mut out);
    out
}

/// Why the stream ends, and the delay before the client reconnects: a rejected stream has no other event.
pub(super) fn error(code: u32, reason: &str, retry_ms: u32) -> Vec<u8> {
    let data = serde_json::json!({ "code": code, "reason": reason }).to_string();
    let mut out = Vec::new();
    sse::retry(retry_ms, &mut out);
    sse::event(Some("error"), None, data.as_bytes(), &mut out);
    out
}
