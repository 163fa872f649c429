//! Checks whether JSON parsers of all languages accept a JSON text.
//!
//! The reference is serde_json, a strict parser. It runs only if a few fast searches find suspicious bytes; other texts
//! are only checked for well-formedness. The cost of a publication must stay a small multiple of reading it.

use std::fmt;

use memchr::{memchr2_iter, memmem};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The maximum nesting of arrays and objects of a JSON payload. A frame adds at most six levels, and parsers count them:
/// System.Text.Json (.NET) accepts 64 by default, Ruby 100, serde_json 127, Python about 1000, Go 10000.
pub const NESTING_MAX: usize = 58;

/// Number of consecutive digits from which a number may be out of range, together with an exponent below 100.
const LONG_DIGITS: usize = 200;

/// Whether a text is one JSON value that strict parsers accept.
pub(super) fn is_portable_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    if is_too_deep(bytes) {
        return false;
    }
    if may_hold_surrogates(bytes) || may_hold_huge_numbers(bytes) {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        return Strict.deserialize(&mut deserializer).is_ok() && deserializer.end().is_ok();
    }
    // `IgnoredAny` keeps its depth in a buffer, not on the stack.
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Whether JSON is nested more than [`NESTING_MAX`] levels. The result is meaningless for text that is not JSON.
fn is_too_deep(bytes: &[u8]) -> bool {
    if memchr2_iter(b'[', b'{', bytes).nth(NESTING_MAX).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > NESTING_MAX {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn may_hold_surrogates(bytes: &[u8]) -> bool {
    memmem::find_iter(bytes, b"\\u").any(|at| matches!(bytes.get(at + 2), Some(b'd' | b'D')))
}

/// Whether a number may be out of range: by its exponent, its digits, or both.
fn may_hold_huge_numbers(bytes: &[u8]) -> bool {
    let has_large_exponent = |at: usize| {
        let digits = match bytes.get(at + 1) {
            Some(b'+' | b'-') => at + 2,
            _ => at + 1,
        };
        at > 0
            && bytes[at - 1].is_ascii_digit()
            && bytes.get(digits..digits + 3).is_some_and(|three| three.iter().all(u8::is_ascii_digit))
    };
    // That many consecutive digits contain a whole chunk of half the size.
    let has_long_digits =
        || bytes.chunks_exact(LONG_DIGITS / 2).any(|chunk| chunk.iter().all(u8::is_ascii_digit));
    memchr2_iter(b'e', b'E', bytes).any(has_large_exponent) || has_long_digits()
}

/// Decodes a value like a strict client and discards it. The parser limits the recursion.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Self)?.is_some() {
            map.next_value_seed(Self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn rejects_what_strict_parsers_reject() {
        for text in [
            r#""\ud800""#,
            r#""\uDC00""#,
            r#"{"a":"\ud83d \ude00"}"#,
            r#"{"\uDBFF":1}"#,
            r#""\ud800\u0041""#,
            "1e999",
            "-1E+999",
            "[1.5e400]",
            r#"{"a":{"b":[0,2e308]}}"#,
        ] {
            assert!(!is_portable_json(text), "{text}");
        }
        assert!(!is_portable_json(&"9".repeat(310)));
        assert!(!is_portable_json(&format!("[{}e99]", "1".repeat(211))));
        assert!(!is_portable_json(&nested(NESTING_MAX + 1)));
        assert!(!is_portable_json(&nested(30_000)));
    }

    #[test]
    fn accepts_other_json() {
        for text in [
            r#""\ud83d\ude00""#,
            r#""\\ud800""#,
            r#"{"id":"3e123-1e999"}"#,
            "1e308",
            "1e-999",
            "0e999",
            "0.1e+308",
            r#"{"a":1,"a":2}"#,
            "12345678901234567890123.10",
        ] {
            assert!(is_portable_json(text), "{text}");
        }
        assert!(is_portable_json(&"9".repeat(300)));
        assert!(is_portable_json(&format!("0.{}", "1".repeat(5000))));
        assert!(is_portable_json(&format!("\"{}\"", "9".repeat(5000))));
        assert!(is_portable_json(&nested(NESTING_MAX)));
        assert!(is_portable_json(&format!("[{}[]]", "[],".repeat(1000))));
        assert!(is_portable_json(&format!("[\"\\\"{}\"]", "[".repeat(1000))));
    }

    /// Text that is close to the boundary, on both sides.
    fn suspicious() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just(r"\ud83d".to_owned()),
            Just(r"\ude00".to_owned()),
            Just("\\\\".to_owned()),
            "[0-9]{1,4}[eE][+-]?[0-9]{1,4}",
            "[0-9]{195,320}",
            "[\\[\\]{}:,\" a0.]{1,6}",
        ];
        proptest::collection::vec(part, 0..6).prop_flat_map(|parts| {
            let text = parts.concat();
            prop_oneof![
                Just(text.clone()),
                Just(format!("[{text}]")),
                Just(format!("\"{text}\"")),
                Just(format!("{{\"{text}\":[{text},\"{text}\"]}}"))
            ]
        })
    }

    proptest! {
        /// Except for the depth, the fast searches must agree with the strict parser.
        #[test]
        fn agrees_with_the_strict_parser(text in suspicious()) {
            prop_assert_eq!(is_portable_json(&text), serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}
