//! Public keys in PEM format: sections `PUBLIC KEY` (RFC 5280, SubjectPublicKeyInfo).

use rustls::pki_types::pem::{PemObject as _, SectionKind};

use super::error::KeyError;
use super::key::{Curve, VerificationKey};

/// Object identifier of RSA keys (1.2.840.113549.1.1.1), with tag and length, and its NULL parameters.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// EC keys (1.2.840.10045.2.1) on P-256 (1.2.840.10045.3.1.7).
const P256: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
/// EC keys on P-384 (1.3.132.0.34).
const P384: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// EC keys on P-521 (1.3.132.0.35).
const P521: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
/// Ed25519 keys (1.3.101.112).
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Reads all public keys in a PEM text.
pub(super) fn public_keys(text: &[u8]) -> Result<Vec<VerificationKey>, KeyError> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|_| KeyError::Encoding)?;
        keys.push(match kind {
            SectionKind::PublicKey => public_key(&der)?,
            SectionKind::Certificate => return Err(KeyError::Certificate),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err(KeyError::PrivateKey);
            }
            _ => return Err(KeyError::Unsupported),
        });
    }
    if keys.is_empty() { Err(KeyError::NoPem) } else { Ok(keys) }
}

/// Reads a SubjectPublicKeyInfo.
fn public_key(der: &[u8]) -> Result<VerificationKey, KeyError> {
    let mut input = Der(der);
    let mut info = Der(input.value(SEQUENCE)?);
    input.end()?;
    let algorithm = info.value(SEQUENCE)?;
    // The first byte of a bit string is the number of unused bits.
    let key = info.value(BIT_STRING)?.strip_prefix(&[0]).ok_or(KeyError::Encoding)?;
    info.end()?;
    match algorithm {
        RSA => rsa(key),
        P256 => VerificationKey::ec(Curve::P256, key),
        P384 => VerificationKey::ec(Curve::P384, key),
        P521 => VerificationKey::ec(Curve::P521, key),
        ED25519 => VerificationKey::ed25519(key),
        _ => Err(KeyError::Unsupported),
    }
}

/// Reads an RSAPublicKey (RFC 8017, appendix A.1.1).
fn rsa(der: &[u8]) -> Result<VerificationKey, KeyError> {
    let mut input = Der(der);
    let mut key = Der(input.value(SEQUENCE)?);
    input.end()?;
    let (modulus, exponent) = (key.value(INTEGER)?, key.value(INTEGER)?);
    key.end()?;
    VerificationKey::rsa(modulus, exponent)
}

/// A reader of DER values.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Reads a value with this tag.
    fn value(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let (length, rest) = match self.0 {
            [found, length @ 0..=0x7f, rest @ ..] if *found == tag => (usize::from(*length), rest),
            [found, 0x81, length, rest @ ..] if *found == tag => (usize::from(*length), rest),
            [found, 0x82, high, low, rest @ ..] if *found == tag => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return Err(KeyError::Encoding),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(KeyError::Encoding)?;
        self.0 = rest;
        Ok(value)
    }

    fn end(&self) -> Result<(), KeyError> {
        if self.0.is_empty() { Ok(()) } else { Err(KeyError::Encoding) }
    }
}
