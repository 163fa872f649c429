//! Tags and publisher of a publication.
//!
//! Owns the values and their text in a log and in a logged message: `{"tags":{…},"info":{…}}`, or nothing. Must never
//! fail a publication: invalid attributes are dropped.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::ClientInfo;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde_json::value::RawValue;

/// The attributes of a publication; cloning shares them. An empty value takes one word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Option<Arc<Given>>);

#[derive(Debug, PartialEq)]
struct Given {
    tags: Vec<(String, String)>,
    info: Option<ClientInfo>,
    /// Computed once, since it is needed for each subscriber.
    cost: usize,
}

impl Attributes {
    /// Creates attributes from the tags, each key once, and the publishing client.
    pub fn new(tags: Vec<(String, String)>, info: Option<ClientInfo>) -> Self {
        let any = !tags.is_empty() || info.is_some();
        Self(any.then(|| Arc::new(Given { cost: cost(&tags, info.as_ref()), tags, info })))
    }

    /// Whether there are no attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The tags.
    pub fn tags(&self) -> &[(String, String)] {
        self.0.as_ref().map_or(&[], |given| &given.tags)
    }

    /// Bytes of the tags' text.
    pub fn tag_bytes(&self) -> usize {
        self.tags().iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// The publishing client, if it was one.
    pub fn info(&self) -> Option<&ClientInfo> {
        self.0.as_ref()?.info.as_ref()
    }

    /// Bytes in memory.
    #[inline]
    pub fn cost(&self) -> usize {
        self.0.as_ref().map_or(0, |given| given.cost)
    }

    /// The text; empty without attributes.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if self.is_empty() {
            return text;
        }
        text.push(b'{');
        if !self.tags().is_empty() {
            text.extend_from_slice(b"\"tags\":");
            let pairs = self.tags().iter().map(|(key, value)| (key, value));
            // Strings and vectors cannot fail to serialize. If one did, no attributes are better than incomplete ones.
            if serde_json::Serializer::new(&mut text).collect_map(pairs).is_err() {
                return Vec::new();
            }
        }
        if let Some(info) = self.info() {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(b"\"info\":");
            text.extend_from_slice(info.to_json().as_bytes());
        }
        text.push(b'}');
        text
    }

    /// Parses the text. Invalid parts are dropped.
    pub(super) fn from_json(text: &[u8]) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let Ok(Text { tags, info }) = serde_json::from_slice(text) else { return Self::default() };
        Self::new(tags.0, info.and_then(|info| ClientInfo::from_json(info.get()).ok()))
    }
}

fn cost(tags: &[(String, String)], info: Option<&ClientInfo>) -> usize {
    let tags: usize = tags.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
    let raw = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let info = info
        .map_or(0, |info| info.user.len() + info.client.len() + raw(&info.conn_info) + raw(&info.chan_info));
    size_of::<Given>() + tags + info
}

#[derive(serde::Deserialize)]
struct Text<'a> {
    #[serde(default)]
    tags: Pairs,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

/// An object whose keys keep their order.
#[derive(Default)]
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
        f.write_str("an object with string values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn info(user: &str) -> ClientInfo {
        ClientInfo { user: user.to_owned(), client: "c1".to_owned(), ..ClientInfo::default() }
    }

    #[test]
    fn the_text_is_this() {
        let tags = vec![("kind".to_owned(), "o\"ffer".to_owned())];
        let all = Attributes::new(tags.clone(), Some(info("")));
        let text = r#"{"tags":{"kind":"o\"ffer"},"info":{"user":"","client":"c1"}}"#;
        assert_eq!(all.to_json(), text.as_bytes());
        assert_eq!(Attributes::new(tags, None).to_json(), br#"{"tags":{"kind":"o\"ffer"}}"#);
        assert_eq!(
            Attributes::new(vec![], Some(info("a"))).to_json(),
            br#"{"info":{"user":"a","client":"c1"}}"#
        );
        assert_eq!(Attributes::default().to_json(), b"");
    }

    #[test]
    fn drops_invalid_parts() {
        for text in ["", "{", "[]", r#"{"tags":{"a":1}}"#, "{}", r#"{"later":1}"#, r#"{"info":null}"#] {
            assert_eq!(Attributes::from_json(text.as_bytes()), Attributes::default(), "{text}");
        }
        let read = Attributes::from_json(br#"{"tags":{"a":"b"},"info":[]}"#);
        assert_eq!(read, Attributes::new(vec![("a".to_owned(), "b".to_owned())], None));
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(
            tags in vec((any::<String>(), any::<String>()), 0..4),
            user in option::of(any::<String>()),
        ) {
            let attributes = Attributes::new(tags, user.map(|user| info(&user)));
            prop_assert_eq!(Attributes::from_json(&attributes.to_json()), attributes);
        }
    }
}
