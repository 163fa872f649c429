//! The text of a Server-Sent Events stream. Avoids what parsers interpret differently: an event without data, an id with
//! a NUL, a block with only an id.

use std::{borrow::Cow, io::Write};

use base64::prelude::{BASE64_STANDARD, Engine};
use memchr::memchr2;

use crate::{ChannelTag, Cursor, Payload, PayloadKind, StreamPosition};

/// The data of an empty payload: the empty JSON string.
const EMPTY: &[u8] = b"\"\"";

/// Appends a complete event.
pub fn event(name: Option<&str>, id: Option<&str>, data: &[u8], out: &mut Vec<u8>) {
    event_open(name, data, out);
    event_close(id, out);
}

/// Appends the part of an event that all subscribers share; [`event_close`] or [`event_close_at`] must follow.
///
/// The client receives each of the three kinds of line break in the data as `\n`.
pub fn event_open(name: Option<&str>, data: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!data.is_empty(), "parsers differ on an event without data");
    debug_assert!(name.is_none_or(is_one_line), "an event's name is one line");
    if let Some(name) = name.filter(|name| is_one_line(name)) {
        field("event", name.as_bytes(), out);
    }
    let mut rest = Some(if data.is_empty() { EMPTY } else { data });
    while let Some(lines) = rest {
        let (line, others) = split_line(lines);
        field("data", line, out);
        rest = others;
    }
}

/// Appends the end of an event, with the id that this subscriber sends when it reconnects.
pub fn event_close(id: Option<&str>, out: &mut Vec<u8>) {
    debug_assert!(id.is_none_or(is_id), "parsers differ on such an id");
    if let Some(id) = id.filter(|id| is_id(id)) {
        field("id", id.as_bytes(), out);
    }
    out.push(b'\n');
}

/// Appends the end of an event, with the cursor over `positions` and `suffix` as its id.
pub fn event_close_at(
    positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>,
    suffix: &str,
    out: &mut Vec<u8>,
) {
    debug_assert!(suffix.is_empty() || is_id(suffix), "parsers differ on such an id");
    // A cursor is a valid id by its format.
    out.extend_from_slice(b"id: ");
    Cursor::write(positions, out);
    out.extend_from_slice(suffix.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// Returns the data of an event: JSON and text unchanged, other bytes as base64.
#[must_use]
pub fn payload(payload: &Payload) -> Cow<'_, [u8]> {
    match payload.kind() {
        PayloadKind::Text if payload.is_empty() => Cow::Borrowed(EMPTY),
        PayloadKind::Json | PayloadKind::Text => Cow::Borrowed(payload.bytes()),
        PayloadKind::Binary => Cow::Owned(BASE64_STANDARD.encode(payload.bytes()).into_bytes()),
    }
}

/// Appends the reconnect delay. An event must follow in the same block: several parsers dispatch an empty event for a
/// block without data.
pub fn retry(ms: u32, out: &mut Vec<u8>) {
    let written = writeln!(out, "retry: {ms}");
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// Appends a comment, which keeps the connection open and dispatches no event. No empty line follows: several parsers
/// dispatch an empty event for it.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n");
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 3);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Splits off the first line; `None` if no line break follows it.
fn split_line(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(end) = memchr2(b'\n', b'\r', text) else {
        return (text, None);
    };
    let next = if text[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
    (&text[..end], Some(&text[next..]))
}

fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\r', '\n'])
}

fn is_id(id: &str) -> bool {
    is_one_line(id) && !id.contains('\0')
}
