//! The data of a publication and its kind: JSON, text, or binary. The bytes are never changed. Recursion is bounded: the
//! publisher controls the nesting depth.

mod portable;

use bytes::Bytes;

pub use portable::NESTING_MAX;

/// The data of a publication, classified once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    kind: PayloadKind,
}

/// The kind of a payload; it decides how each encoding carries it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Exactly one JSON value that every parser accepts, with optional white space around it.
    Json,
    /// Any other valid UTF-8, including the empty text.
    Text,
    /// Bytes that are not UTF-8.
    Binary,
}

impl Payload {
    /// Classifies the bytes in one pass.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let kind = PayloadKind::of(&bytes);
        Self { bytes, kind }
    }

    /// A JSON payload, without classification: the bytes are a slice of valid JSON.
    pub(crate) fn json(bytes: Bytes) -> Self {
        Self { bytes, kind: PayloadKind::Json }
    }

    /// The published bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The kind of the bytes.
    #[must_use]
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the payload is empty.
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
    /// Classifies bytes.
    ///
    /// JSON that strict parsers reject is text: a lone surrogate escape (`"\ud800"`), a number outside the range of a
    /// 64-bit float (`1e999`), more than [`NESTING_MAX`] levels of arrays and objects. Embedded as a JSON value, such a
    /// payload would make the whole frame unreadable.
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
    fn classifies_one_json_value_as_json() {
        for text in ["{}", " {\"a\": [1, 2]}\r\n", "null", "-1.5e3", "\"x\"", "\"\\ud83d\\ude00\""] {
            assert_eq!(PayloadKind::of(text.as_bytes()), PayloadKind::Json, "{text:?}");
        }
    }

    #[test]
    fn classifies_other_utf8_as_text() {
        for text in
            ["", " ", "hello", "{} {}", "{\"a\":1", "01", "\"a\nb\"", "'x'", "NaN", "\u{feff}1", "[1,]"]
        {
            assert_eq!(PayloadKind::of(text.as_bytes()), PayloadKind::Text, "{text:?}");
        }
    }

    #[test]
    fn classifies_other_bytes_as_binary() {
        for bytes in [&b"\xff"[..], b"\"\xc3\"", b"{\"a\":\"\xed\xa0\x80\"}"] {
            assert_eq!(PayloadKind::of(bytes), PayloadKind::Binary, "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let depth = 1_000_000;
        let nested = [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert_eq!(PayloadKind::of(&nested), PayloadKind::Text);
        assert_eq!(PayloadKind::of(&nested[1..]), PayloadKind::Text);
    }
}
