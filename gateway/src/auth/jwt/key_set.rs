//! The keys that may verify a token.

use super::algorithm::Algorithm;
use super::error::KeyError;
use super::jws::Jws;
use super::key::VerificationKey;
use super::pem;

/// Maximum number of keys to try for one token. Further candidates are ignored, because each costs a signature check.
const CANDIDATES_MAX: usize = 16;

/// Keys in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<VerificationKey>);

/// The result of checking a signature with the keys of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureCheck {
    /// A key verifies it.
    Valid,
    /// The key whose id the token names rejects it, or does not support its algorithm.
    Invalid,
    /// No key has the id that the token names, and no other key verifies it.
    NoKey,
}

impl KeySet {
    /// A set of these keys.
    pub fn new(keys: Vec<VerificationKey>) -> Self {
        Self(keys)
    }

    /// A set of HMAC secrets, newest first. All of them verify, so that a secret can be rotated without an
    /// interruption.
    ///
    /// # Errors
    /// See [`VerificationKey::hmac`].
    pub fn from_secrets<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let keys: Result<_, _> =
            secrets.into_iter().map(|secret| VerificationKey::hmac(secret.as_ref())).collect();
        keys.map(Self)
    }

    /// A set of all public keys in a PEM text: RSA, EC P-256 and P-384, Ed25519.
    ///
    /// # Errors
    /// If one of its sections is not a supported public key, or there is none.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        pem::public_keys(text).map(Self)
    }

    /// Adds the keys of another set, to be tried after those of this one.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The keys.
    pub fn keys(&self) -> &[VerificationKey] {
        &self.0
    }

    /// Whether the set contains a key with this id.
    pub fn has_id(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id() == Some(id))
    }

    /// Whether a key of the set supports the algorithm.
    pub fn supports(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|key| key.supports(algorithm))
    }

    /// Checks the signature of a token with the keys that support its algorithm. A key with an id verifies only tokens
    /// that name this id or none; a key without one verifies any token.
    pub(super) fn check(&self, jws: &Jws<'_>) -> SignatureCheck {
        let is_named = |key: &VerificationKey| key.id().is_some() && key.id() == jws.key_id();
        let candidates = self.0.iter().filter(|key| {
            let has_id = key.id().is_none() || jws.key_id().is_none() || is_named(key);
            has_id && key.supports(jws.algorithm())
        });
        let message = jws.signed_text().as_bytes();
        let verifies = |key: &VerificationKey| key.verify(jws.algorithm(), message, jws.signature());
        if candidates.take(CANDIDATES_MAX).any(verifies) {
            SignatureCheck::Valid
        } else if self.0.iter().any(is_named) {
            SignatureCheck::Invalid
        } else {
            SignatureCheck::NoKey
        }
    }
}
