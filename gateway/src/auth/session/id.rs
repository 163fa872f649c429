//! Session ids, and the forms that unsigned ones must have.

use std::fmt;

/// Maximum size of a session id.
const ID_BYTES_MAX: usize = 256;
/// Minimum and maximum length of an unsigned id whose form no framework defines: a shorter id could be guessed.
const OPEN_ID_LENGTH: std::ops::RangeInclusive<usize> = 16..=128;
/// The length of Django's session keys.
const DJANGO_ID_LENGTH: usize = 32;
/// The length of Laravel's session ids.
const LARAVEL_ID_LENGTH: usize = 40;

/// The id of a session, checked: signed by the application, or of the form that its ids have. It is a secret where ids
/// are not signed; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Box<str>);

impl SessionId {
    /// An id of which the signature is verified.
    pub(super) fn new(text: &str) -> Option<Self> {
        (1..=ID_BYTES_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    /// An unsigned id of unknown origin: characters that URLs leave unescaped. None of them separates parts of keys
    /// such as `session:{sid}`.
    pub(super) fn open(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_valid = OPEN_ID_LENGTH.contains(&text.len()) && text.bytes().all(is_allowed);
        is_valid.then(|| Self(text.into()))
    }

    /// An id of Django: lower-case letters and digits.
    pub(super) fn django(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        (text.len() == DJANGO_ID_LENGTH && text.bytes().all(is_allowed)).then(|| Self(text.into()))
    }

    /// An id of Laravel: letters and digits.
    pub(super) fn laravel(text: &str) -> Option<Self> {
        let is_valid =
            text.len() == LARAVEL_ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_valid.then(|| Self(text.into()))
    }

    /// An id of Spring Session, by default a UUID: letters, digits and `-`.
    pub(super) fn spring(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_valid = OPEN_ID_LENGTH.contains(&text.len()) && text.bytes().all(is_allowed);
        is_valid.then(|| Self(text.into()))
    }

    /// The id, which is a secret.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(***)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unsigned_ids_have_a_form() {
        let django = "sckx0diy5e019lq31p48tw6765o5q16g";
        assert!(SessionId::django(django).is_some());
        for text in
            ["", &django[1..], &format!("{django}a"), &django.replace('s', "S"), &django.replace('s', "*")]
        {
            assert_eq!(SessionId::django(text), None, "{text}");
        }
        assert!(SessionId::laravel(&"aZ09".repeat(10)).is_some());
        assert_eq!(SessionId::laravel(&"aZ0-".repeat(10)), None);
        assert!(SessionId::spring("33fdd1b6-b496-4b33-9f7d-df96679d32fe").is_some());
        assert_eq!(SessionId::spring("33fdd1b6-b496-4b33-9f7d-df96679d32fe.node1"), None);
        assert!(SessionId::open("GVuVTLKlzN0h-1k_f.~R").is_some());
        for text in
            ["short", "0123456789abcdef:x", "0123456789abcdef{x}", "0123456789abcdef/", "0123456789abcdefé"]
        {
            assert_eq!(SessionId::open(text), None, "{text}");
        }
        assert_eq!(SessionId::open(&"a".repeat(129)), None);
    }

    #[test]
    fn debug_shows_no_id() {
        assert_eq!(format!("{:?}", SessionId::open("0123456789abcdef").unwrap()), "SessionId(***)");
    }

    proptest! {
        #[test]
        fn unsigned_ids_contain_no_separator(text in "[ -~]{14,44}") {
            let ids = [SessionId::open(&text), SessionId::django(&text), SessionId::laravel(&text), SessionId::spring(&text)];
            for id in ids.into_iter().flatten() {
                let has_separator = id.as_str().contains([':', '{', '}', '*', '/', ' ', '|']);
                prop_assert!(!has_separator, "{}", id.as_str());
            }
        }
    }
}
