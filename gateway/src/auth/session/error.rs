//! Errors of session formats. No error contains a part of a session, a cookie or a secret.

use super::super::pointer::InvalidPointer;

/// Why a setting of a session format is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFormatError {
    /// A setting without a default is missing.
    #[error("`{setting}` is missing: sessions of kind {kind} have no default for it")]
    Missing {
        /// The name of the setting.
        setting: &'static str,
        /// The name of the kind.
        kind: &'static str,
    },
    /// A setting does not apply to the kind.
    #[error("`{setting}` does not apply to sessions of kind {kind}: remove it")]
    NotApplicable {
        /// The name of the setting.
        setting: &'static str,
        /// The name of the kind.
        kind: &'static str,
    },
    /// The cookie name is not a token of RFC 6265.
    #[error(
        "the cookie name \"{0}\" is invalid: expected letters, digits and the characters !#$%&'*+-.^_`|~"
    )]
    CookieName(String),
    /// The key template does not contain exactly one placeholder.
    #[error("the key \"{0}\" is invalid: expected exactly one {{sid}}, for example \"sess:{{sid}}\"")]
    KeyTemplate(String),
    /// The key template of unsigned session ids has no text before the placeholder.
    #[error(
        "the key \"{0}\" is invalid: the session ids are not signed, so that text is required before {{sid}}: without \
         it, a client can name any key"
    )]
    KeyPrefix(String),
    /// A JSON pointer is invalid.
    #[error(
        "the JSON pointer \"{0}\" is invalid: expected a text like \"/passport/user\" (RFC 6901: it starts with /, and \
         ~ is followed by 0 or 1)"
    )]
    Pointer(String),
    /// No secret is configured, although the kind signs its cookies.
    #[error("the list of secrets is empty: cookies of kind {0} are signed")]
    NoSecrets(&'static str),
    /// A secret is not a key of the encryption that the kind uses.
    #[error(
        "secret {number} is invalid: expected `base64:` and 32 bytes in base64, as in APP_KEY of Laravel"
    )]
    Secret {
        /// The position in the list, from 1.
        number: usize,
    },
}

/// Why a stored session is unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The value has more bytes than the limit.
    #[error("the session has more than {0} bytes")]
    TooLarge(usize),
    /// The value has more elements than the limit.
    #[error("the session has more than {0} elements")]
    TooManyItems(usize),
    /// The value is nested deeper than the limit.
    #[error("the session is nested deeper than {0} levels")]
    TooDeep(usize),
    /// The value does not follow its format.
    #[error("the session is not valid {0}")]
    Malformed(&'static str),
    /// The format of the value is unknown or unsupported.
    #[error("the session is stored as {0}, which is not supported")]
    Unsupported(&'static str),
    /// The key has another Redis type than the kind requires.
    #[error("the session is stored as another Redis type: expected {0}")]
    RedisType(&'static str),
    /// The value is encrypted, and no secret decrypts it.
    #[error("the session is encrypted with another secret")]
    Encrypted,
    /// The user id has more bytes than the limit.
    #[error("the user id of the session has more than {0} bytes")]
    UserTooLong(usize),
}

impl From<InvalidPointer> for SessionFormatError {
    fn from(InvalidPointer(text): InvalidPointer) -> Self {
        Self::Pointer(text)
    }
}
