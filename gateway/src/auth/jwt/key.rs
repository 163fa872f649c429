//! A key that verifies signatures.
//!
//! A key is bound to the algorithms of its type: the algorithm that a token names never changes how a key is used.

use std::fmt;

use ring::hmac;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::algorithm::Algorithm;
use super::error::KeyError;

/// Sizes of the modulus of an RSA key, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Maximum size of the public exponent of an RSA key, in bytes.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// A curve of EC keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256, for ES256.
    P256,
    /// NIST P-384, for ES384.
    P384,
    /// NIST P-521, for ES512.
    P521,
}

impl Curve {
    /// The size of a coordinate, in bytes.
    pub fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A key that verifies signatures, with its id in a key set. `Debug` shows no secret.
#[derive(Clone)]
pub struct VerificationKey {
    id: Option<String>,
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    /// The secret prepared for SHA-256, SHA-384 and SHA-512.
    Hmac(Box<[hmac::Key; 3]>),
    Rsa {
        modulus: Box<[u8]>,
        exponent: Box<[u8]>,
    },
    Ec {
        curve: Curve,
        /// The uncompressed point: `04`, x, y.
        point: Box<[u8]>,
    },
    Ed25519(Box<[u8]>),
}

impl VerificationKey {
    /// A secret for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// If it is empty, or a PEM file: a public key used as a secret would let anyone who knows it make tokens.
    pub fn hmac(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.is_empty() {
            return Err(KeyError::EmptySecret);
        }
        if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err(KeyError::PemAsSecret);
        }
        let keys = [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512];
        Ok(Self::of(Material::Hmac(Box::new(keys.map(|algorithm| hmac::Key::new(algorithm, secret))))))
    }

    /// An RSA key for RS256 to RS512 and PS256 to PS512, as big-endian numbers.
    ///
    /// # Errors
    /// [`KeyError::RsaSize`].
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = modulus.len() * 8 - zeros;
        let is_exponent_valid = exponent.len() <= RSA_EXPONENT_BYTES_MAX
            && exponent.last().is_some_and(|last| last % 2 == 1)
            && exponent != [1];
        if !RSA_BITS.contains(&bits) || !is_exponent_valid {
            return Err(KeyError::RsaSize);
        }
        Ok(Self::of(Material::Rsa { modulus: modulus.into(), exponent: exponent.into() }))
    }

    /// An EC key, as an uncompressed point: `04`, x, y. A point that is not on the curve verifies nothing.
    ///
    /// # Errors
    /// [`KeyError::Encoding`] if the point has another form.
    pub fn ec(curve: Curve, point: &[u8]) -> Result<Self, KeyError> {
        if point.len() != 1 + 2 * curve.coordinate_bytes() || point.first() != Some(&4) {
            return Err(KeyError::Encoding);
        }
        Ok(Self::of(Material::Ec { curve, point: point.into() }))
    }

    /// An Ed25519 key.
    ///
    /// # Errors
    /// [`KeyError::Encoding`] if it does not have 32 bytes.
    pub fn ed25519(key: &[u8]) -> Result<Self, KeyError> {
        if key.len() != 32 {
            return Err(KeyError::Encoding);
        }
        Ok(Self::of(Material::Ed25519(key.into())))
    }

    fn of(material: Material) -> Self {
        Self { id: None, only: None, material }
    }

    /// The same key with an id: it verifies only tokens that name this id or none.
    #[must_use]
    pub fn with_id(self, id: Option<String>) -> Self {
        Self { id, ..self }
    }

    /// The same key for one algorithm only.
    ///
    /// # Errors
    /// [`KeyError::AlgorithmMismatch`] if the type of the key does not have this algorithm.
    pub fn for_algorithm(self, algorithm: Algorithm) -> Result<Self, KeyError> {
        if !self.supports(algorithm) {
            return Err(KeyError::AlgorithmMismatch);
        }
        Ok(Self { only: Some(algorithm), ..self })
    }

    /// The id of the key.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether the key verifies signatures of this algorithm.
    pub fn supports(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{
            EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512,
        };
        let is_of_type = match &self.material {
            Material::Hmac(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
            Material::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::Ec { curve: Curve::P256, .. } => algorithm == Es256,
            Material::Ec { curve: Curve::P384, .. } => algorithm == Es384,
            Material::Ec { curve: Curve::P521, .. } => algorithm == Es512,
            Material::Ed25519(_) => algorithm == EdDsa,
        };
        is_of_type && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is one of this key over the message. Never for an algorithm that the key does not support.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.supports(algorithm) {
            return false;
        }
        match &self.material {
            Material::Hmac(keys) => {
                let [sha256, sha384, sha512] = &**keys;
                let key = match algorithm {
                    Algorithm::Hs256 => sha256,
                    Algorithm::Hs384 => sha384,
                    _ => sha512,
                };
                hmac::verify(key, message, signature).is_ok()
            }
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                rsa_parameters(algorithm)
                    .is_some_and(|parameters| key.verify(parameters, message, signature).is_ok())
            }
            Material::Ec { curve, point } => {
                let algorithm: &'static dyn VerificationAlgorithm = match curve {
                    Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Curve::P521 => return verify_p521(point, message, signature),
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
            }
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
        }
    }
}

fn verify_p521(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use p521::ecdsa::signature::Verifier as _;
    use p521::ecdsa::{Signature, VerifyingKey};
    match (VerifyingKey::from_sec1_bytes(point), Signature::from_slice(signature)) {
        (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
        _ => false,
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[start..]
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.material {
            Material::Hmac(_) => "HMAC",
            Material::Rsa { .. } => "RSA",
            Material::Ec { curve: Curve::P256, .. } => "P-256",
            Material::Ec { curve: Curve::P384, .. } => "P-384",
            Material::Ec { curve: Curve::P521, .. } => "P-521",
            Material::Ed25519(_) => "Ed25519",
        };
        let mut shown = f.debug_struct("VerificationKey");
        shown.field("kind", &kind).field("id", &self.id).field("only", &self.only).finish()
    }
}
