//! Redis keys of sessions: templates with a placeholder for the session id.

use std::fmt::Write;

use ring::digest;

use super::error::SessionFormatError;
use super::id::SessionId;

/// The placeholder for the session id.
const SID: &str = "{sid}";
/// The placeholder for the SHA-256 of the session id in lower-case hexadecimal digits, as in keys of Rails.
const SID_SHA256: &str = "{sid_sha256}";

/// A key with exactly one placeholder. Other braces, such as those of hash tags, are literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyTemplate {
    prefix: String,
    suffix: String,
    is_hashed: bool,
}

impl KeyTemplate {
    /// Parses a template. Unsigned ids require text before the placeholder.
    ///
    /// # Errors
    /// The text has no placeholder or several, or lacks the required prefix.
    pub(super) fn parse(text: &str, is_signed: bool) -> Result<Self, SessionFormatError> {
        let is_hashed = text.contains(SID_SHA256);
        let placeholder = if is_hashed { SID_SHA256 } else { SID };
        let count = text.matches(SID).count() + text.matches(SID_SHA256).count();
        let parts = text.split_once(placeholder).filter(|_| count == 1);
        let (prefix, suffix) = parts.ok_or_else(|| SessionFormatError::KeyTemplate(text.to_owned()))?;
        if prefix.is_empty() && !is_signed {
            return Err(SessionFormatError::KeyPrefix(text.to_owned()));
        }
        Ok(Self { prefix: prefix.to_owned(), suffix: suffix.to_owned(), is_hashed })
    }

    /// The text before the placeholder, which all keys start with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a session.
    pub(super) fn key(&self, id: &SessionId) -> Vec<u8> {
        let id = if self.is_hashed { sha256_hex(id.as_str()) } else { id.as_str().to_owned() };
        [&self.prefix, &id, &self.suffix].map(|part| part.as_bytes()).concat()
    }
}

/// The SHA-256 of a text in lower-case hexadecimal digits.
pub(super) fn sha256_hex(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, id: &str) -> String {
        let key = KeyTemplate::parse(template, true).unwrap().key(&SessionId::new(id).unwrap());
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn fills_the_placeholder() {
        assert_eq!(key("sess:{sid}", "a"), "sess:a");
        assert_eq!(key("{nest}:sess:{sid}:v1", "a{sid}"), "{nest}:sess:a{sid}:v1");
        assert_eq!(key("{sid}", "a"), "a");
    }

    /// The private id that Rails computes from a public one.
    #[test]
    fn fills_the_hash_of_rails() {
        assert_eq!(
            key("app:_session_id:2::{sid_sha256}", "7f3c0d7b0a4e4f0e9a6f1c2d3e4b5a69"),
            "app:_session_id:2::3f220803c80408697318e85a1122def1fcfb71fa171255bdfb26951f2cbb9a4b"
        );
    }

    #[test]
    fn rejects_templates_without_exactly_one_placeholder() {
        for text in
            ["", "sess:", "sess:{id}", "{sid}{sid}", "a:{sid}:{sid_sha256}", "a:{sid_sha256}{sid_sha256}"]
        {
            let error = SessionFormatError::KeyTemplate(text.to_owned());
            assert_eq!(KeyTemplate::parse(text, true), Err(error), "{text}");
        }
    }

    #[test]
    fn unsigned_ids_require_a_prefix() {
        for text in ["{sid}", "{sid}:session", "{sid_sha256}"] {
            let error = SessionFormatError::KeyPrefix(text.to_owned());
            assert_eq!(KeyTemplate::parse(text, false), Err(error), "{text}");
        }
        assert!(KeyTemplate::parse("s{sid}", false).is_ok());
    }
}
