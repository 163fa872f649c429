//! Which publications are dropped for a client that reads too slowly.
//!
//! Owns the conflation key and the terminal states of a payload. Must never know when a client is slow: the shard
//! detects that.

use std::sync::Arc;

use earshot_protocol::Payload;
use serde_json::Value;

/// Selects the publications to drop for a slow client. Without a policy, the client is disconnected, and recovers after
/// it reconnects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackpressurePolicy {
    /// The newest publication with a key replaces the one before it.
    Latest {
        /// A JSON pointer (RFC 6901) to the conflation key; without one, all publications of a channel have the same
        /// key.
        key: Option<String>,
        /// Publications that are never replaced.
        terminal: Option<TerminalStates>,
    },
    /// The oldest publications are dropped, and the client gets a gap notice.
    DropOldest,
}

/// Which publications are never replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalStates {
    /// A JSON pointer to the state.
    pub key: String,
    /// The terminal states.
    pub values: Vec<String>,
}

/// How a publication relates to others when it is conflated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflationInfo {
    /// The publication replaces an earlier one with the same key; `None` replaces none.
    pub key: Option<Arc<str>>,
    /// The publication is never replaced.
    pub terminal: bool,
}

impl BackpressurePolicy {
    /// Evaluates a payload. One that is not JSON, or lacks the fields, has no key and is not terminal.
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

/// Whether a JSON value equals the text of the configuration.
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
    fn reads_the_key_at_the_pointer() {
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
    fn without_a_pointer_all_have_the_same_key() {
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
