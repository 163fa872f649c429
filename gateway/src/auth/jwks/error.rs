//! Why a key set cannot be read.

use std::time::Duration;

use crate::http_client::HttpError;

/// Why a key set cannot be read. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The server cannot be reached.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// The server does not answer in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The response status is not 200.
    #[error("the response has the status {0}: expected 200, and redirects are not followed")]
    Status(u16),
    /// The response is invalid or ends early.
    #[error("the response is invalid: {0}")]
    Response(String),
    /// The response is too large.
    #[error("the response has more than {max} bytes")]
    TooLarge {
        /// The maximum size.
        max: usize,
    },
    /// The response is not a JWK set.
    #[error("the response is not a JWK set: expected {{\"keys\":[…]}}")]
    Document,
    /// The set has too many keys.
    #[error("the key set has more than {max} keys")]
    TooManyKeys {
        /// The maximum number.
        max: usize,
    },
    /// The set has no key that can be used.
    #[error("the key set has no key for signatures of type RSA, EC P-256, EC P-384 or Ed25519")]
    NoKeys,
}

impl From<HttpError> for JwksError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Connect { host, reason } => Self::Connect { host, reason },
            HttpError::Response(reason) => Self::Response(reason),
            HttpError::TooLarge { max } => Self::TooLarge { max },
        }
    }
}

/// Why the settings of a key set are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksSettingsError {
    /// Neither issuer nor audience is configured.
    #[error(
        "`jwks_url` requires `issuer` or `audience`: a provider signs tokens of all its customers with the same keys"
    )]
    Unbound,
}
