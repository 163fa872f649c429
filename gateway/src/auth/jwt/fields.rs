//! Claims by JSON pointer (RFC 6901), as lists of texts.

use serde_json::value::RawValue;

use super::super::pointer::{Pointer, index};
use super::members::Members;

/// The values at a pointer: one for a text, a number or a boolean, several for an array of these. Empty if the pointer
/// does not resolve, or to something else. Numbers keep their digits.
pub(super) fn values(claims: &Members<'_>, pointer: &str) -> Vec<String> {
    let Some(found) = resolve(claims, pointer) else { return Vec::new() };
    if found.get().starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(found.get()).unwrap_or_default();
        let texts: Option<Vec<String>> = elements.into_iter().map(scalar).collect();
        return texts.unwrap_or_default();
    }
    scalar(found).into_iter().collect()
}

/// The value at a pointer.
pub(super) fn resolve<'a>(claims: &Members<'a>, pointer: &str) -> Option<&'a RawValue> {
    let pointer = Pointer::parse(pointer).ok()?;
    let (first, rest) = pointer.tokens().split_first()?;
    rest.iter().try_fold(claims.get(first)?, |found, token| child(found, token))
}

/// Whether a text is a pointer to a part of an object.
pub(super) fn is_pointer(text: &str) -> bool {
    Pointer::parse(text).is_ok()
}

fn child<'a>(parent: &'a RawValue, token: &str) -> Option<&'a RawValue> {
    if parent.get().starts_with('{') {
        return Members::parse(parent.get())?.get(token);
    }
    let index = index(token)?;
    let elements: Vec<&RawValue> = serde_json::from_str(parent.get()).ok()?;
    elements.get(index).copied()
}

/// The text of a text, a number or a boolean.
fn scalar(value: &RawValue) -> Option<String> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str(text).ok(),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_texts_numbers_booleans_and_arrays_of_these() {
        let text = r#"{"a":{"b/c":["x",1,true],"~":{"":2.50}},"big":123456789012345678901,"n":null,"m":[null],"e":[]}"#;
        let claims = Members::parse(text).unwrap();
        for (pointer, expected) in [
            ("/a/b~1c", &["x", "1", "true"][..]),
            ("/a/b~1c/1", &["1"]),
            ("/a/~0/", &["2.50"]),
            ("/big", &["123456789012345678901"]),
            ("/n", &[]),
            ("/m", &[]),
            ("/e", &[]),
            ("/a", &[]),
            ("/a/b~1c/01", &[]),
            ("/a/b~1c/+1", &[]),
            ("/a/b~1c/3", &[]),
            ("/big/0", &[]),
            ("/missing/x", &[]),
            ("a", &[]),
            ("", &[]),
        ] {
            assert_eq!(values(&claims, pointer), expected, "{pointer}");
        }
    }

    #[test]
    fn recognises_pointers() {
        assert!(["/a", "/a/b~0c~1", "/"].iter().all(|text| is_pointer(text)));
        assert!(!["", "a", "/a~", "/~2"].iter().any(|text| is_pointer(text)));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let text = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let claims = Members::parse(&text).unwrap();
        assert!(values(&claims, "/a").is_empty());
    }
}
