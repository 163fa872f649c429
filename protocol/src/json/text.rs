//! Encoding of JSON scalars and of raw JSON. The output is valid JSON without line breaks.

use std::{fmt::Display, io::Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use memchr::memchr2_iter;

use crate::PayloadKind;

/// Appends a string.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = plain(rest) {
        out.extend_from_slice(&rest[..plain]);
        escape(rest[plain], out);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Returns the number of bytes before the first byte that must be escaped; `None` without one.
fn plain(bytes: &[u8]) -> Option<usize> {
    // No branch within a chunk, so that the compiler can vectorise the check.
    let is_plain = |chunk: &[u8; 16]| !chunk.iter().fold(false, |any, byte| any | must_escape(*byte));
    let (chunks, _) = bytes.as_chunks::<16>();
    let skipped = 16 * chunks.iter().take_while(|chunk| is_plain(chunk)).count();
    bytes[skipped..].iter().position(|byte| must_escape(*byte)).map(|at| skipped + at)
}

fn must_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends an integer.
pub(super) fn integer(number: impl Display, out: &mut Vec<u8>) {
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// Appends bytes as a JSON value: JSON without its line breaks, text as a string, other bytes as a base64 string.
pub(super) fn raw(bytes: &[u8], kind: PayloadKind, out: &mut Vec<u8>) {
    match (kind, simdutf8::basic::from_utf8(bytes)) {
        (PayloadKind::Json, _) => without_line_breaks(bytes, out),
        (PayloadKind::Text, Ok(text)) => string(text, out),
        _ => string(&BASE64_STANDARD.encode(bytes), out),
    }
}

/// Appends JSON without its line breaks. In valid JSON, unescaped line breaks occur between tokens only.
fn without_line_breaks(json: &[u8], out: &mut Vec<u8>) {
    out.reserve(json.len());
    let mut start = 0;
    for end in memchr2_iter(b'\n', b'\r', json) {
        out.extend_from_slice(&json[start..end]);
        start = end + 1;
    }
    out.extend_from_slice(&json[start..]);
}
