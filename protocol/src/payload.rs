//! Owns one publication's data and what it was found to be: JSON, text, or bytes.
//! Must never change a byte of it, nor recurse into it beyond a fixed depth: the publisher decides how
//! deep it is.

mod portable;

use bytes::Bytes;

pub use portable::NESTING_MAX;

/// The data of a publication, classified once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    kind: PayloadKind,
}

/// What a payload is, and so how each wire carries it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Exactly one JSON value that every parser takes, white space around it allowed.
    Json,
    /// Any other valid UTF-8, nothing at all included.
    Text,
    /// Anything else.
    Binary,
}

impl Payload {
    /// Looks through the bytes once to tell what they are.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let kind = PayloadKind::of(&bytes);
        Self { bytes, kind }
    }

    /// Takes the bytes for JSON without a look, since they were cut from JSON.
    pub(crate) fn json(bytes: Bytes) -> Self {
        Self { bytes, kind: PayloadKind::Json }
    }

    /// The bytes as they were published.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What the bytes are.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new(Bytes::new())
    }
}

impl PayloadKind {
    /// Tells what these bytes are.
    ///
    /// JSON that clients with a strict parser refuse counts as text: a lone surrogate escape (`"\ud800"`), a number
    /// that no 64-bit floating point number can hold (`1e999`), more than [`NESTING_MAX`] levels of arrays and
    /// objects. Such a payload in place of a JSON value would make the whole frame unreadable.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match simdutf8::basic::from_utf8(bytes) {
            Ok(text) if portable::is_portable_json(text) => Self::Json,
            Ok(_) => Self::Text,
            Err(_) => Self::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_json_value_is_json() {
        for text in ["{}", " {\"a\": [1, 2]}\r\n", "null", "-1.5e3", "\"x\"", "\"\\ud83d\\ude00\""] {
            assert_eq!(PayloadKind::of(text.as_bytes()), PayloadKind::Json, "{text:?}");
        }
    }

    #[test]
    fn other_utf8_is_text() {
        for text in
            ["", " ", "hello", "{} {}", "{\"a\":1", "01", "\"a\nb\"", "'x'", "NaN", "\u{feff}1", "[1,]"]
        {
            assert_eq!(PayloadKind::of(text.as_bytes()), PayloadKind::Text, "{text:?}");
        }
    }

    #[test]
    fn other_bytes_are_binary() {
        for bytes in [&b"\xff"[..], b"\"\xc3\"", b"{\"a\":\"\xed\xa0\x80\"}"] {
            assert_eq!(PayloadKind::of(bytes), PayloadKind::Binary, "{bytes:?}");
        }
    }

    #[test]
    fn a_million_brackets_do_not_exhaust_the_stack() {
        let depth = 1_000_000;
        let nested = [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert_eq!(PayloadKind::of(&nested), PayloadKind::Text);
        assert_eq!(PayloadKind::of(&nested[1..]), PayloadKind::Text);
    }
}
