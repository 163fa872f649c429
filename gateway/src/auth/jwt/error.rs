//! Why a token or a key is rejected.

/// Why a token is rejected. The text is for the log; a client only receives an error code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is larger than any valid one.
    #[error("the token has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The maximum size.
        max: usize,
    },
    /// The text is not a signed JWT.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The algorithm is unknown, or no configured key supports it.
    #[error("no configured key supports the algorithm {0:?} of the token")]
    Algorithm(String),
    /// No key has the id that the token names.
    #[error("no key has the id {key_id:?} that the token names in `kid`")]
    UnknownKey {
        /// The `kid` of the token.
        key_id: Option<String>,
    },
    /// The key may exist, but the key set cannot be read at present. The client should retry.
    #[error("the key of the token is not known yet: the key set of `jwks_url` is not available")]
    KeysUnavailable,
    /// The signature does not match.
    #[error("the signature of the token is wrong, or another key made it")]
    Signature,
    /// The token has expired.
    #[error("the token has expired at {0} (Unix time)")]
    Expired(u64),
    /// A time of the token is in the future: clocks differ, or it is not valid yet.
    #[error("the token is not valid yet: `{0}` is in the future; check the clocks, or raise `leeway`")]
    NotYetValid(&'static str),
    /// The issuer is not the configured one.
    #[error("`iss` of the token is not the configured `issuer`")]
    Issuer,
    /// No audience is a configured one.
    #[error("`aud` of the token contains no configured `audience`")]
    Audience,
    /// A claim is missing, or its value is invalid.
    #[error("the claim `{0}` of the token is missing or invalid")]
    Claim(&'static str),
    /// A subscription token was issued for another channel, user or client.
    #[error("the token was made for another {0}")]
    Mismatch(&'static str),
}

impl TokenError {
    /// Whether the same token may be accepted later: the client should retry, and keep its token.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::KeysUnavailable)
    }

    /// Whether the token was valid and has expired: the client should fetch another one (error 109).
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired(_))
    }
}

/// Why a key cannot be used. The text never contains the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is empty.
    #[error("the secret is empty")]
    EmptySecret,
    /// The secret is a public key or a certificate. Its owner does not keep it secret.
    #[error("the secret is a PEM file: give public keys as `public_key_file`, never as an HMAC secret")]
    PemAsSecret,
    /// The text contains no PEM section.
    #[error("contains no public key in PEM format (-----BEGIN PUBLIC KEY-----)")]
    NoPem,
    /// The text contains a private key.
    #[error("contains a private key: give the public key only (openssl pkey -in FILE -pubout)")]
    PrivateKey,
    /// The text contains a certificate.
    #[error("contains a certificate: give its public key (openssl x509 -in FILE -pubkey -noout)")]
    Certificate,
    /// The type of the key or its curve is not supported.
    #[error("the key type is not supported: expected RSA, EC P-256, P-384 or P-521, or Ed25519")]
    Unsupported,
    /// The encoding of the key is invalid.
    #[error("the encoding of the key is invalid")]
    Encoding,
    /// The size of an RSA key is outside what is verified.
    #[error("an RSA key must have 2048 to 8192 bits and an odd exponent of at least 3")]
    RsaSize,
    /// The key is declared for an algorithm that its type does not have.
    #[error("the key is declared for an algorithm that its type does not support")]
    AlgorithmMismatch,
}
