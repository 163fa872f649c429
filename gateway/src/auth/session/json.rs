//! JSON sessions.
//!
//! Nothing is built from the text: one pass checks it, and a pass for each token of a pointer finds the token's value
//! as a slice. Numbers keep their digits.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::pointer::{Pointer, index};
use super::error::SessionError;
use super::value::Resolved;

/// A JSON text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'v>(&'v RawValue);

impl<'v> Json<'v> {
    /// Checks that the bytes are one JSON value.
    ///
    /// # Errors
    /// They are not.
    pub(super) fn parse(bytes: &'v [u8]) -> Result<Self, SessionError> {
        serde_json::from_slice(bytes).map(Self).map_err(|_| SessionError::Malformed("JSON"))
    }

    /// The value that a pointer names; `None` if there is none.
    pub(super) fn resolve(self, pointer: &Pointer) -> Option<Resolved> {
        self.resolve_tokens(pointer.tokens())
    }

    /// Like [`Self::resolve`]. Without tokens, the whole value.
    pub(super) fn resolve_tokens(self, tokens: &[String]) -> Option<Resolved> {
        tokens.iter().try_fold(self, Self::child).map(Self::resolved)
    }

    fn child(self, token: &String) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0.get());
        Child { token }.deserialize(&mut deserializer).ok().flatten().map(Self)
    }

    fn resolved(self) -> Resolved {
        if !self.0.get().starts_with('[') {
            return self.scalar();
        }
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(self.0.get()) else {
            return Resolved::Other;
        };
        Resolved::list(elements.into_iter().map(|element| Json(element).scalar()))
    }

    fn scalar(self) -> Resolved {
        let text = self.0.get();
        match text.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str::<String>(text).map_or(Resolved::Other, |text| Resolved::text(&text))
            }
            Some(b't') => Resolved::Bool(true),
            Some(b'f') => Resolved::Bool(false),
            Some(b'-' | b'0'..=b'9') => Resolved::number(text),
            _ => Resolved::Other,
        }
    }
}

/// Finds the value of a token in an object or array. The last of several equal keys counts, as in JavaScript and
/// Python.
struct Child<'t> {
    token: &'t str,
}

impl<'v> DeserializeSeed<'v> for Child<'_> {
    type Value = Option<&'v RawValue>;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'v> Visitor<'v> for Child<'_> {
    type Value = Option<&'v RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_token) = map.next_key_seed(IsToken { token: self.token })? {
            if is_token {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'v>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut index = index(self.token);
        let mut found = None;
        while let Some(element) = elements.next_element()? {
            if index == Some(0) {
                found = Some(element);
            }
            index = index.and_then(|index| index.checked_sub(1));
        }
        Ok(found)
    }
}

/// Whether a key is the token.
struct IsToken<'t> {
    token: &'t str,
}

impl<'v> DeserializeSeed<'v> for IsToken<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsToken<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(text: &str, pointer: &str) -> Option<Resolved> {
        Json::parse(text.as_bytes()).unwrap().resolve(&Pointer::parse(pointer).unwrap())
    }

    #[test]
    fn resolves_pointers() {
        let text = r#" {"a":{"b/c":["x",1,{"d":"ü😀"}],"":2},"n":null,"t":true,"l":["x",-1.50,false],"m":[1,null]} "#;
        let text_of = |text: &str| Some(Resolved::Text(text.to_owned()));
        assert_eq!(resolve(text, "/a/b~1c/0"), text_of("x"));
        assert_eq!(resolve(text, "/a/b~1c/2/d"), text_of("ü😀"));
        assert_eq!(resolve(text, "/a/"), Some(Resolved::Number("2".to_owned())));
        assert_eq!(resolve(text, "/t"), Some(Resolved::Bool(true)));
        let list = ["x", "-1.50", "false"].map(str::to_owned).to_vec();
        assert_eq!(resolve(text, "/l"), Some(Resolved::List(list)));
        for other in ["/n", "/a", "/m", "/a/b~1c"] {
            assert_eq!(resolve(text, other), Some(Resolved::Other), "{other}");
        }
        for missing in ["/b", "/a/b~1c/3", "/a/b~1c/00", "/t/x", "/l/0/x", "/n/x", "/l/-"] {
            assert_eq!(resolve(text, missing), None, "{missing}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        for number in ["0", "-7", "9007199254740993", "123456789012345678901234567890", "1.10", "1e3", "-0"] {
            let text = format!(r#"{{"id": {number} }}"#);
            assert_eq!(resolve(&text, "/id"), Some(Resolved::Number(number.to_owned())));
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(resolve(r#"{"a":1,"a":2,"\u0061":3}"#, "/a"), Some(Resolved::Number("3".to_owned())));
    }

    #[test]
    fn rejects_invalid_json() {
        for bytes in [&b""[..], b"{", b"{}x", b"{'a':1}", b"\xff", b"{\"a\":\"\xff\"}", b"\x80\x05}."] {
            assert_eq!(Json::parse(bytes).err(), Some(SessionError::Malformed("JSON")), "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let text = format!(r#"{{"a":{deep},"user":1}}"#);
        assert_eq!(resolve(&text, "/user"), Some(Resolved::Number("1".to_owned())));
        assert_eq!(resolve(&text, "/a"), Some(Resolved::Other));
    }

    proptest! {
        #[test]
        fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:0-9a \\\\]{0,40}") {
            let pointer = Pointer::parse("/a/0").unwrap();
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = Json::parse(bytes).map(|json| json.resolve(&pointer));
            }
        }

        #[test]
        fn texts_are_read_back(key in "\\PC{0,12}", text in "\\PC{0,20}", number: u64) {
            let json = serde_json::json!({ &key: { "n": number, "t": [&text, number] } }).to_string();
            let json = Json::parse(json.as_bytes()).unwrap();
            prop_assert_eq!(json.resolve_tokens(&[key.clone(), "n".to_owned()]), Some(Resolved::Number(number.to_string())));
            prop_assert_eq!(json.resolve_tokens(&[key, "t".to_owned()]), Some(Resolved::List(vec![text, number.to_string()])));
        }
    }
}
