//! JWK sets (RFC 7517): the public keys that an identity provider publishes.
//!
//! A key that cannot be used is skipped, because providers publish keys for other purposes in the same set. A key is
//! never used beyond what it declares (`alg`, `use`, `key_ops`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::jwt::{Algorithm, Curve, KeySet, VerificationKey};
use super::error::JwksError;

/// Maximum number of keys in a set; more are an error.
const KEYS_MAX: usize = 128;
/// Maximum size of a key id: a token cannot name a longer one.
const KEY_ID_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members of a key that are used. Numbers are base64url.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private part: a key that is published with it is no longer secret.
    d: Option<serde::de::IgnoredAny>,
}

/// Reads the keys of a set that can verify tokens. Symmetric keys are excluded.
///
/// # Errors
/// If the text is not a JWK set, has too many keys, or none that can be used.
pub(super) fn parse(text: &[u8]) -> Result<KeySet, JwksError> {
    let set: JwkSet<'_> = serde_json::from_slice(text).map_err(|_| JwksError::Document)?;
    if set.keys.len() > KEYS_MAX {
        return Err(JwksError::TooManyKeys { max: KEYS_MAX });
    }
    let keys: Vec<VerificationKey> = set
        .keys
        .iter()
        .filter_map(|key| serde_json::from_str::<Jwk>(key.get()).ok())
        .filter_map(|key| verification_key(&key))
        .collect();
    if keys.is_empty() { Err(JwksError::NoKeys) } else { Ok(KeySet::new(keys)) }
}

fn verification_key(jwk: &Jwk) -> Option<VerificationKey> {
    let is_for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|name| name == "verify"));
    let has_valid_id = jwk.kid.as_ref().is_none_or(|id| id.len() <= KEY_ID_BYTES_MAX);
    if jwk.d.is_some() || !is_for_signatures || !has_valid_id {
        return None;
    }
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => VerificationKey::rsa(&number(&jwk.n)?, &number(&jwk.e)?),
        ("EC", Some("P-256")) => ec(Curve::P256, jwk),
        ("EC", Some("P-384")) => ec(Curve::P384, jwk),
        ("EC", Some("P-521")) => ec(Curve::P521, jwk),
        ("OKP", Some("Ed25519")) => VerificationKey::ed25519(&number(&jwk.x)?),
        // `oct` is a shared secret, which is never published.
        _ => return None,
    };
    let key = key.ok()?.with_id(jwk.kid.clone());
    match &jwk.alg {
        Some(name) => key.for_algorithm(Algorithm::parse(name)?).ok(),
        None => Some(key),
    }
}

fn ec(curve: Curve, jwk: &Jwk) -> Result<VerificationKey, super::super::jwt::KeyError> {
    let coordinate = |text| number(text).filter(|bytes| bytes.len() == curve.coordinate_bytes());
    let point =
        [vec![4], coordinate(&jwk.x).unwrap_or_default(), coordinate(&jwk.y).unwrap_or_default()].concat();
    VerificationKey::ec(curve, &point)
}

fn number(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}
