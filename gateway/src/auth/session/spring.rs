//! Sessions of Spring: the cookie, and a hash with a field for each attribute, in Java serialization or JSON.
//!
//! Seen in Spring Session 3.3.1: its indexed repository keeps the hash for five minutes after a session is deleted (with a
//! time to live of 0), and for five minutes after it expires, which the hash alone does not show. Its default repository
//! deletes the key at once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::pointer::Pointer;
use super::error::SessionError;
use super::hash::Hash;
use super::id::SessionId;
use super::java;
use super::json::Json;
use super::value::{Decoded, Resolved};

/// The prefix of attribute names in the hash.
const ATTRIBUTE: &str = "sessionAttr:";
/// The field with the time to live in seconds, which is 0 in a deleted session.
const TIME_TO_LIVE: &str = "maxInactiveInterval";

/// The session id in a cookie: in base64 by default, with the name of a server (`jvmRoute`) after a dot.
pub(super) fn session_id(value: &str) -> Option<SessionId> {
    let decoded = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let id = decoded.as_deref().unwrap_or(value);
    SessionId::spring(id.split_once('.').map_or(id, |(id, _)| id))
}

/// A field of the hash.
enum SpringField<'v> {
    Java(Decoded<'v>),
    Json(Json<'v>),
}

impl<'v> SpringField<'v> {
    fn parse(bytes: &'v [u8]) -> Result<Self, SessionError> {
        if java::is_stream(bytes) {
            java::decode(bytes).map(Self::Java)
        } else {
            Json::parse(bytes).map(Self::Json)
        }
    }

    fn resolve(&self, tokens: &[String]) -> Option<Resolved> {
        match self {
            Self::Java(decoded) => decoded.resolve_tokens(tokens),
            Self::Json(json) => json.resolve_tokens(tokens),
        }
    }
}

/// Whether the session is deleted.
///
/// # Errors
/// The time to live is unreadable.
pub(super) fn is_deleted(hash: &Hash<'_>) -> Result<bool, SessionError> {
    let Some(bytes) = hash.field("", TIME_TO_LIVE) else { return Ok(false) };
    Ok(SpringField::parse(bytes)?.resolve(&[]) == Some(Resolved::Number("0".to_owned())))
}

/// The value that a pointer names below the attribute that its first token names.
///
/// # Errors
/// The attribute is unreadable.
pub(super) fn resolve(hash: &Hash<'_>, pointer: &Pointer) -> Result<Option<Resolved>, SessionError> {
    let Some((name, rest)) = pointer.tokens().split_first() else { return Ok(None) };
    let Some(bytes) = hash.field(ATTRIBUTE, name) else { return Ok(None) };
    Ok(SpringField::parse(bytes)?.resolve(rest))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::super::java_fixtures::{JAVA_INTEGER, JAVA_TEXT, JAVA_ZERO, SPRING_CONTEXT};
    use super::*;

    #[test]
    fn reads_cookies_in_base64() {
        let id = "33fdd1b6-b496-4b33-9f7d-df96679d32fe";
        let found = |value: &str| session_id(value).map(|id| id.as_str().to_owned());
        assert_eq!(found("MzNmZGQxYjYtYjQ5Ni00YjMzLTlmN2QtZGY5NjY3OWQzMmZl").as_deref(), Some(id));
        assert_eq!(found(&STANDARD.encode(format!("{id}.node1"))).as_deref(), Some(id));
        assert_eq!(found(id).as_deref(), Some(id), "a cookie of WebFlux");
        for wrong in
            ["", "MzNmZGQx", &STANDARD.encode("33fdd1b6:b496:4b33:9f7d"), &STANDARD.encode([255; 24])]
        {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }

    fn field(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), value.to_vec())
    }

    fn resolved(fields: &[(Vec<u8>, Vec<u8>)], pointer: &str) -> Result<Option<Resolved>, SessionError> {
        resolve(&Hash::new(fields)?, &Pointer::parse(pointer).unwrap())
    }

    #[test]
    fn reads_attributes() {
        let alice = Ok(Some(Resolved::Text("alice".to_owned())));
        let fields = [
            field("sessionAttr:name", &fixtures::bytes(JAVA_TEXT)),
            field("sessionAttr:json", br#"{"user":"alice"}"#),
            field("sessionAttr:SPRING_SECURITY_CONTEXT", &fixtures::bytes(SPRING_CONTEXT)),
            field("name", b"\"other\""),
            field("sessionAttr:broken", b"\xac\xed\0\x05"),
        ];
        assert_eq!(resolved(&fields, "/name"), alice);
        assert_eq!(resolved(&fields, "/json/user"), alice);
        assert_eq!(resolved(&fields, "/SPRING_SECURITY_CONTEXT/authentication/principal/username"), alice);
        assert_eq!(resolved(&fields, "/missing"), Ok(None));
        assert_eq!(resolved(&fields, "/broken"), Err(SessionError::Malformed("serialized Java")));
    }

    #[test]
    fn a_session_without_time_to_live_is_deleted() {
        for (value, expected) in [
            (fixtures::bytes(JAVA_INTEGER), Ok(false)),
            (fixtures::bytes(JAVA_ZERO), Ok(true)),
            (b"1800".to_vec(), Ok(false)),
            (b"0".to_vec(), Ok(true)),
            (b"x".to_vec(), Err(SessionError::Malformed("JSON"))),
        ] {
            assert_eq!(is_deleted(&Hash::new(&[field("maxInactiveInterval", &value)]).unwrap()), expected);
        }
        assert_eq!(is_deleted(&Hash::new(&[]).unwrap()), Ok(false));
    }
}
