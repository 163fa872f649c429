//! Secrets that sign cookies.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::error::SessionFormatError;
use super::kind::SessionKind;

/// The length of Laravel's keys, those of AES-256.
const LARAVEL_KEY_LENGTH: usize = 32;
/// How Laravel writes a key.
const LARAVEL_KEY_PREFIX: &str = "base64:";

/// The secrets of one kind of session, newest first. Any of them verifies a cookie. `Debug` shows their number only.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Secret>);

/// One secret. Its HMAC key is prepared once.
#[derive(Clone)]
pub(super) struct Secret {
    bytes: Vec<u8>,
    sha256: hmac::Key,
}

impl Secrets {
    /// Reads a file of secrets, one per line, newest first. Empty lines and white space around a secret are ignored.
    ///
    /// # Errors
    /// The kind signs its cookies and no secret is given, or a secret is not a valid Laravel key.
    pub fn parse(kind: SessionKind, text: &str) -> Result<Self, SessionFormatError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets = lines.enumerate().map(|(index, line)| match kind {
            SessionKind::Laravel => laravel_key(line).ok_or(SessionFormatError::Secret { number: index + 1 }),
            _ => Ok(line.as_bytes().to_vec()),
        });
        let secrets: Vec<Secret> = secrets.map(|bytes| bytes.map(Secret::new)).collect::<Result<_, _>>()?;
        if secrets.is_empty() && kind.is_signed() {
            return Err(SessionFormatError::NoSecrets(kind.name()));
        }
        Ok(Self(secrets))
    }

    /// The secrets, newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }
}

impl Secret {
    fn new(bytes: Vec<u8>) -> Self {
        Self { sha256: hmac::Key::new(hmac::HMAC_SHA256, &bytes), bytes }
    }

    /// The secret itself.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether this is the HMAC-SHA256 of a message. Constant time.
    pub(super) fn verifies(&self, message: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.sha256, message, mac).is_ok()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

fn laravel_key(line: &str) -> Option<Vec<u8>> {
    let key = STANDARD.decode(line.strip_prefix(LARAVEL_KEY_PREFIX)?).ok()?;
    (key.len() == LARAVEL_KEY_LENGTH).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_secret_a_line() {
        let secrets = Secrets::parse(SessionKind::Express, " new \r\n\nold secret\n").unwrap();
        assert_eq!(secrets.iter().map(Secret::bytes).collect::<Vec<_>>(), [&b"new"[..], b"old secret"]);
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[test]
    fn signed_kinds_require_a_secret() {
        for kind in SessionKind::ALL {
            let error = kind.is_signed().then_some(SessionFormatError::NoSecrets(kind.name()));
            assert_eq!(Secrets::parse(kind, "\n \n").err(), error);
        }
    }

    #[test]
    fn keys_of_laravel_are_decoded() {
        let key = format!("base64:{}", STANDARD.encode([7; 32]));
        let secrets = Secrets::parse(SessionKind::Laravel, &key).unwrap();
        assert_eq!(secrets.iter().next().unwrap().bytes(), [7; 32]);
        for wrong in ["base64:AAAA", "AAAA", &key[7..], "base64:*"] {
            let text = format!("{key}\n{wrong}");
            let error = Secrets::parse(SessionKind::Laravel, &text).err();
            assert_eq!(error, Some(SessionFormatError::Secret { number: 2 }), "{wrong}");
        }
    }
}
