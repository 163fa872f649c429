//! Secrets for message authentication codes (HMAC-SHA256), newest first.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq as _;

/// Minimum size of a secret.
pub const MAC_SECRET_BYTES_MIN: usize = 16;

/// Secrets, newest first. The first one signs, all of them verify, so that a secret can be rotated without an
/// interruption. `Debug` shows no secret.
#[derive(Clone)]
pub struct MacKeys(Vec<hmac::Key>);

/// Why a list of secrets cannot be used. The text does not contain them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacKeysError {
    /// There is no secret.
    #[error("the list of secrets is empty")]
    Empty,
    /// A secret is too short.
    #[error("a secret has fewer than {MAC_SECRET_BYTES_MIN} bytes (openssl rand -base64 32)")]
    TooShort,
}

impl MacKeys {
    /// Keys with these secrets.
    ///
    /// # Errors
    /// See [`MacKeysError`].
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, MacKeysError> {
        let key = |secret: S| match secret.as_ref() {
            secret if secret.len() < MAC_SECRET_BYTES_MIN => Err(MacKeysError::TooShort),
            secret => Ok(hmac::Key::new(hmac::HMAC_SHA256, secret)),
        };
        let keys: Vec<hmac::Key> = secrets.into_iter().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(MacKeysError::Empty) } else { Ok(Self(keys)) }
    }

    /// The code of a text with the newest secret.
    pub fn sign(&self, text: &str) -> [u8; 32] {
        let mut code = [0; 32];
        if let Some(key) = self.0.first() {
            code.copy_from_slice(hmac::sign(key, text.as_bytes()).as_ref());
        }
        code
    }

    /// Whether the code authenticates a text with any of the secrets. `code` may be truncated; the caller has checked
    /// its length. The comparison takes constant time.
    pub(super) fn verify(&self, text: &str, code: &[u8]) -> bool {
        let matches = self.0.iter().map(|key| {
            let expected = hmac::sign(key, text.as_bytes());
            expected.as_ref().get(..code.len()).is_some_and(|expected| bool::from(expected.ct_eq(code)))
        });
        !code.is_empty() && matches.fold(false, |any, matches| any | matches)
    }
}

impl fmt::Debug for MacKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_secrets_verify_and_the_first_one_signs() {
        let (old, new) = ("an old secret, 16+", "a new secret, 16+ ");
        let both = MacKeys::new([new, old]).unwrap();
        let only = |secret| MacKeys::new([secret]).unwrap();
        assert!(both.verify("text", &only(old).sign("text")) && both.verify("text", &only(new).sign("text")));
        assert!(
            only(new).verify("text", &both.sign("text")) && !only(old).verify("text", &both.sign("text"))
        );
        assert!(both.verify("text", &both.sign("text")[..16]));
        for code in [&[][..], &[0; 32], &[0; 33]] {
            assert!(!both.verify("text", code), "{code:?}");
        }
    }

    #[test]
    fn rejects_unusable_secrets() {
        let error = |secrets: &[&str]| MacKeys::new(secrets).err();
        assert_eq!(error(&[]), Some(MacKeysError::Empty));
        assert_eq!(error(&["a secret of 22 bytes!!", "short"]), Some(MacKeysError::TooShort));
    }
}
