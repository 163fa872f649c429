//! JSON Web Tokens (RFC 7519): verification of connection tokens and subscription tokens.
//!
//! The claims are those of Centrifugo, so its tokens are accepted unchanged. This module is pure: keys and time are
//! arguments.
//!
//! - A token is at most [`TOKEN_BYTES_MAX`] bytes. Its header must have an `alg` that is supported, no duplicate names
//!   and no critical extensions. `jwk`, `jku`, `x5u` and `x5c` are ignored: only configured keys verify.
//! - A key is bound to the algorithms of its type ([`VerificationKey`]). A public key is never an HMAC secret.
//! - Supported: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA with
//!   Ed25519.
//! - The text of a token does not identify it: an ECDSA signature has a second valid form. `jti` does.

mod algorithm;
mod claims;
mod denied_key;
mod error;
mod fields;
mod jws;
mod key;
mod key_set;
mod members;
mod pem;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::UnixSeconds;
use jws::Jws;
use key_set::SignatureCheck;
use members::Members;

pub use algorithm::Algorithm;
pub use claims::{ConnectionClaims, SubscriptionClaims, SubscriptionOptions};
pub use denied_key::DeniedKeyTemplate;
pub use error::{KeyError, TokenError};
pub use jws::TOKEN_BYTES_MAX;
pub use key::{Curve, VerificationKey};
pub use key_set::KeySet;
pub use rules::{JwtRules, USER_BYTES_MAX, USER_CLAIM};

/// Verifies tokens with a fixed set of keys. To change the keys, create another verifier. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct JwtVerifier {
    rules: Arc<JwtRules>,
    /// Keys of the configuration.
    keys: Arc<KeySet>,
    /// Keys of a key set that another server publishes, if one is configured.
    remote_keys: Option<Arc<KeySet>>,
}

impl JwtVerifier {
    /// A verifier with these rules and the keys of the configuration.
    ///
    /// # Errors
    /// The JSON pointer of a field or of the user claim that is invalid.
    pub fn new(rules: JwtRules, keys: KeySet) -> Result<Self, String> {
        if let Some(pointer) = rules.invalid_pointer() {
            return Err(format!(
                "{pointer:?} is not a JSON pointer: expected a text like \"/tenant\" (RFC 6901)"
            ));
        }
        Ok(Self { rules: Arc::new(rules), keys: Arc::new(keys), remote_keys: None })
    }

    /// The same verifier with these keys of a published key set, in addition to the configured ones. HMAC secrets of
    /// the set are not used.
    #[must_use]
    pub fn with_remote_keys(&self, keys: Arc<KeySet>) -> Self {
        Self { remote_keys: Some(keys), ..self.clone() }
    }

    /// The rules.
    pub fn rules(&self) -> &JwtRules {
        &self.rules
    }

    /// Verifies a connection token.
    ///
    /// # Errors
    /// Why it is rejected. [`TokenError::UnknownKey`] only if a published key set may contain the key.
    pub fn verify(&self, token: &str, now: UnixSeconds) -> Result<ConnectionClaims, TokenError> {
        self.authenticate(token, |claims| ConnectionClaims::read(claims, &self.rules, now))
    }

    /// Verifies a subscription token. The caller also calls [`SubscriptionClaims::check`].
    ///
    /// # Errors
    /// See [`JwtVerifier::verify`].
    pub fn verify_subscription(
        &self,
        token: &str,
        now: UnixSeconds,
    ) -> Result<SubscriptionClaims, TokenError> {
        self.authenticate(token, |claims| SubscriptionClaims::read(claims, &self.rules, now))
    }

    /// Checks issuer and signature, then reads the claims. The issuer comes first, although it is not authenticated
    /// yet: a token of another issuer must not cause a request for its key.
    fn authenticate<T>(
        &self,
        token: &str,
        read: impl FnOnce(&Members<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let jws = Jws::parse(token)?;
        let claims = Members::parse(jws.payload())
            .ok_or(TokenError::Malformed("the payload is not a JSON object without duplicate names"))?;
        self.rules.check_issuer(&claims)?;
        self.check_signature(&jws)?;
        read(&claims)
    }

    fn check_signature(&self, jws: &Jws<'_>) -> Result<(), TokenError> {
        if self.keys.check(jws) == SignatureCheck::Valid {
            return Ok(());
        }
        match &self.remote_keys {
            Some(remote) if !jws.algorithm().is_symmetric() => match remote.check(jws) {
                SignatureCheck::Valid => Ok(()),
                SignatureCheck::Invalid => Err(TokenError::Signature),
                SignatureCheck::NoKey => {
                    Err(TokenError::UnknownKey { key_id: jws.key_id().map(str::to_owned) })
                }
            },
            _ if self.keys.supports(jws.algorithm()) => Err(TokenError::Signature),
            _ => Err(TokenError::Algorithm(jws.algorithm().name().to_owned())),
        }
    }
}
