//! What becomes of publications that a client has not been sent because it reads too slowly.
//!
//! Owns how a payload is judged: which publications it succeeds, and whether it is the last of its kind. Must never
//! know when a client is slow: that is the shard's to see.

use std::sync::Arc;

use earshot_protocol::Payload;
use serde_json::Value;

/// What gives way when a client is slow. In a namespace without a rule the client does: it is disconnected, and
/// resumes from where it stood.
#[derive(Clone, Debug)]
pub enum BackpressurePolicy {
    /// A publication gives way to its successor.
    Latest {
        /// A JSON pointer (RFC 6901) to what a publication is about; without one, all of a channel are about the same.
        key: Option<String>,
        /// Which publications never give way.
        terminal: Option<TerminalStates>,
    },
    /// The oldest give way, and the client is told of the gap.
    DropOldest,
}

/// Which publications are never replaced.
#[derive(Clone, Debug)]
pub struct TerminalStates {
    /// A JSON pointer to the state.
    pub key: String,
    /// The states that are the last.
    pub values: Vec<String>,
}

/// How one publication stands to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflationInfo {
    /// What it is about: it succeeds the one before it that is about the same. `None`: it succeeds none.
    pub key: Option<Arc<str>>,
    /// Nothing succeeds it.
    pub terminal: bool,
}

impl BackpressurePolicy {
    /// Judges a payload. One that is not JSON, or lacks what the pointers name, succeeds none and is not terminal.
    pub fn conflation(&self, payload: &Payload) -> ConflationInfo {
        let Self::Latest { key, terminal } = self else { return ConflationInfo::default() };
        let json = (key.is_some() || terminal.is_some())
            .then(|| serde_json::from_slice::<Value>(payload.bytes()).ok())
            .flatten();
        let at = |pointer: &str| json.as_ref().and_then(|json| json.pointer(pointer));
        let key = match key {
            None => Some("".into()),
            Some(pointer) => at(pointer).map(|value| value.to_string().into()),
        };
        let terminal = terminal.as_ref().is_some_and(|terminal| {
            at(&terminal.key).is_some_and(|state| terminal.values.iter().any(|value| is(state, value)))
        });
        ConflationInfo { key, terminal }
    }
}

/// Whether a JSON value is what the configuration wrote as text.
fn is(state: &Value, text: &str) -> bool {
    match state {
        Value::String(state) => state == text,
        other => *other.to_string() == *text,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn latest(key: Option<&str>) -> BackpressurePolicy {
        let terminal =
            TerminalStates { key: "/state".to_owned(), values: vec!["done".to_owned(), "4".to_owned()] };
        BackpressurePolicy::Latest { key: key.map(str::to_owned), terminal: Some(terminal) }
    }

    fn judge(rule: &BackpressurePolicy, payload: &'static str) -> (Option<String>, bool) {
        let conflation = rule.conflation(&Payload::new(Bytes::from_static(payload.as_bytes())));
        (conflation.key.map(|key| key.to_string()), conflation.terminal)
    }

    #[test]
    fn the_key_is_what_the_pointer_names() {
        let rule = latest(Some("/job/id"));
        for (payload, key, terminal) in [
            (r#"{"job":{"id":7},"state":"active"}"#, Some("7"), false),
            (r#"{"job":{"id":"7"},"state":"done"}"#, Some("\"7\""), true),
            (r#"{"job":{"id":[1, 2]},"state":4}"#, Some("[1,2]"), true),
            (r#"{"job":{},"state":"done"}"#, None, true),
            (r#"{"state":null}"#, None, false),
            ("not JSON", None, false),
            ("", None, false),
        ] {
            assert_eq!(judge(&rule, payload), (key.map(str::to_owned), terminal), "{payload}");
        }
    }

    #[test]
    fn without_a_pointer_all_are_about_the_same() {
        assert_eq!(judge(&latest(None), "anything"), (Some(String::new()), false));
        assert_eq!(judge(&BackpressurePolicy::DropOldest, r#"{"state":"done"}"#), (None, false));
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200), pointer in "(/[a-z~01]{0,3}){0,3}") {
            let rule = latest(Some(&pointer));
            let _ = rule.conflation(&Payload::new(Bytes::from(payload)));
        }
    }
}
