//! The compact serialisation of a signed token (RFC 7515, section 7.1), before its signature is checked.
//!
//! Strict: each token has only one valid encoding. Must never use a key or a URL that the token itself contains (`jwk`,
//! `jku`, `x5u`, `x5c`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::Algorithm;
use super::error::TokenError;
use super::members::Members;

/// Maximum size of a token.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;
/// Maximum size of the encoded header.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// Maximum size of a key id.
const KEY_ID_BYTES_MAX: usize = 256;
/// Maximum length of an algorithm's name in an error.
const SHOWN_NAME_CHARS_MAX: usize = 16;

/// The parts of a token. Nothing in it is authenticated.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    signed_text: &'a str,
    payload: String,
    signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Splits and decodes a token.
    ///
    /// # Errors
    /// If the token is too large or malformed, its algorithm is not supported, or its header has critical extensions.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge { bytes: token.len(), max: TOKEN_BYTES_MAX });
        }
        let parts = TokenError::Malformed("expected three parts separated by dots");
        let (signed_text, signature) = token.rsplit_once('.').ok_or(parts.clone())?;
        let (header, payload) = signed_text.split_once('.').ok_or(parts.clone())?;
        if payload.contains('.') {
            return Err(parts);
        }
        if header.len() > HEADER_BYTES_MAX {
            return Err(TokenError::Malformed("the header is too large"));
        }
        let (algorithm, key_id) = parse_header(&decode_text(header)?)?;
        let signature = decode(signature)?;
        Ok(Self { algorithm, key_id, signed_text, payload: decode_text(payload)?, signature })
    }

    /// The algorithm that the token names.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key id that the token names. It is only compared with the ids of known keys.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The text that is signed.
    pub(super) fn signed_text(&self) -> &'a str {
        self.signed_text
    }

    /// The decoded payload.
    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    /// The signature.
    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }
}

fn parse_header(text: &str) -> Result<(Algorithm, Option<String>), TokenError> {
    let header = Members::parse(text)
        .ok_or(TokenError::Malformed("the header is not a JSON object without duplicate names"))?;
    // A critical extension changes the meaning of the token, and no extension is supported. `b64` is one.
    if ["crit", "b64"].iter().any(|name| header.get(name).is_some()) {
        return Err(TokenError::Malformed("the header has critical extensions, which are not supported"));
    }
    let name = header.text("alg").ok().flatten().ok_or(TokenError::Malformed("the header has no `alg`"))?;
    let algorithm = Algorithm::parse(&name)
        .ok_or_else(|| TokenError::Algorithm(name.chars().take(SHOWN_NAME_CHARS_MAX).collect()))?;
    let key_id = header.text("kid").map_err(|_| TokenError::Malformed("`kid` is not a string"))?;
    if key_id.as_ref().is_some_and(|id| id.len() > KEY_ID_BYTES_MAX) {
        return Err(TokenError::Malformed("`kid` is too long"));
    }
    Ok((algorithm, key_id))
}

/// Decodes base64url without padding; any other spelling of the same bytes is an error.
fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed("invalid base64url"))
}

fn decode_text(text: &str) -> Result<String, TokenError> {
    String::from_utf8(decode(text)?).map_err(|_| TokenError::Malformed("invalid UTF-8"))
}
