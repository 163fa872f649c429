//! Tags as a log and its envelope hold them: a JSON object of texts, or nothing at all.
//!
//! Owns that text, in both directions. Must never fail a publication: its place in the log matters more than its tags.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;

/// The text; empty when there are no tags.
pub(in crate::broker) fn to_json(tags: &[(String, String)]) -> Vec<u8> {
    let mut text = Vec::new();
    if !tags.is_empty() {
        // Neither texts nor a vector can fail; if they could, no tags are better than half of them.
        let pairs = tags.iter().map(|(key, value)| (key, value));
        if serde_json::Serializer::new(&mut text).collect_map(pairs).is_err() {
            text.clear();
        }
    }
    text
}

/// The tags in their order. What is no such text holds none.
pub(in crate::broker) fn from_json(text: &[u8]) -> Vec<(String, String)> {
    if text.is_empty() {
        return Vec::new();
    }
    serde_json::from_slice::<Pairs>(text).map(|pairs| pairs.0).unwrap_or_default()
}

/// An object whose keys keep their order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
