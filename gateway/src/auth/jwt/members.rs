//! The members of a JSON object, by name, with their values as unparsed slices.
//!
//! A duplicate name is an error: two parsers could read different values.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Maximum number of members of an object.
const MEMBERS_MAX: usize = 1024;

/// The members of an object. A value is the slice of the text that it was parsed from.
#[derive(Debug)]
pub(super) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    /// Parses an object. `None` if the text is not one JSON object, or a name occurs twice.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The value of a member.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }

    /// The value of a member; `None` also if it is `null`.
    pub(super) fn get_non_null(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| value.get() != "null")
    }

    /// The string that is the value of a member; `Ok(None)` if the member is absent or `null`.
    ///
    /// # Errors
    /// If the value is not a string.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, serde_json::Error> {
        self.get_non_null(name).map(|value| serde_json::from_str(value.get())).transpose()
    }

    /// All members, sorted by name.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (String, &'a RawValue)> {
        self.0.into_iter()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object without duplicate names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if members.len() == MEMBERS_MAX || members.insert(name, value).is_some() {
                return Err(A::Error::custom("a duplicate name, or too many members"));
            }
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::Members;

    #[test]
    fn values_are_slices_of_the_text() {
        let members = Members::parse(r#" {"a" : {"x": 1.50} , "b":null,"c":"t"} "#).unwrap();
        assert_eq!(members.get("a").unwrap().get(), r#"{"x": 1.50}"#);
        assert!(members.get("b").is_some() && members.get_non_null("b").is_none());
        assert_eq!(members.text("c").unwrap().as_deref(), Some("t"));
        assert!(members.text("a").is_err());
        assert_eq!(members.text("d").unwrap(), None);
    }

    #[test]
    fn rejects_duplicates_and_everything_but_objects() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"alg":1,"\u0061lg":2}"#,
            "[]",
            "null",
            "\"a\"",
            "",
            "{}x",
            r#"{"a":1"#,
            r#"{"a":01}"#,
        ] {
            assert!(Members::parse(text).is_none(), "{text}");
        }
        let many: Vec<String> = (0..=super::MEMBERS_MAX).map(|index| format!("\"{index}\":0")).collect();
        assert!(Members::parse(&format!("{{{}}}", many.join(","))).is_none());
    }
}
