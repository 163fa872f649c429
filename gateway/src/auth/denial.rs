//! Why a client is rejected.

use super::access::Operation;
use super::api_key::ApiAuthError;

/// Why a permission is denied. The text states what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The origin of the page is not allowed.
    #[error("this origin is not allowed: add it to `allowed_origins`")]
    Origin,
    /// A token was sent, but no authentication is configured.
    #[error("a token was sent, but no [[login]] is configured to verify it: connect without a token")]
    Token,
    /// The token cannot be verified.
    #[error("the token is invalid: the log has the reason at debug level")]
    InvalidToken,
    /// The token or the ticket was valid and has expired, or the ticket was used already.
    #[error("the token has expired, or the ticket has expired or was used already")]
    TokenExpired,
    /// The login was revoked.
    #[error("the login was revoked: log in again")]
    Revoked,
    /// The login cannot be checked at present.
    #[error(
        "the login cannot be checked: the store of sessions or tickets, or the key set, is not available"
    )]
    LoginUnavailable,
    /// Too many logins of the address have failed.
    #[error("too many logins from this address have failed (`failed_logins_per_minute` of [limits])")]
    TooManyLogins,
    /// The API request is not authenticated, or its key does not permit it.
    #[error(transparent)]
    Api(#[from] ApiAuthError),
    /// No namespace matches the channel.
    #[error("no namespace matches this channel: add it to `channels` of a namespace")]
    UnknownChannel,
    /// No client may use the operation.
    #[error("permission denied: clients may not {} (`{}` of the namespace)", .0.verb(), .0.setting())]
    Nobody(Operation),
    /// The operation requires a login.
    #[error("permission denied: a client without a login may not {} (`{}` of the namespace)", .0.verb(), .0.setting())]
    NotAuthenticated(Operation),
    /// The client is logged in, and none of the namespace's rules permits the operation.
    #[error("permission denied: no rule permits this client to {} (`{}` of the namespace)", .0.verb(), .0.setting())]
    NotPermitted(Operation),
    /// The operation requires a subscription.
    #[error("permission denied: the client is not subscribed to the channel")]
    NotSubscribed,
    /// The client's identity lacks a field that the namespace requires.
    #[error("permission denied: the client lacks a field of `require` of the namespace")]
    Requirement,
    /// The hook of the application denies it.
    #[error("permission denied: the hook denies it")]
    Hook,
    /// The hook gave no valid answer.
    #[error(
        "permission denied: the hook gave no valid answer (`hooks.on_error`): the log and the metrics state why"
    )]
    HookUnavailable,
    /// The answer of the hook decides, and the hook was not asked.
    #[error("permission denied: the hook was not asked")]
    HookNotAsked,
}

impl Denial {
    /// The number of kinds.
    pub(super) const KINDS: usize = 18;

    /// The index of the kind: below [`Denial::KINDS`].
    pub(super) fn kind(self) -> usize {
        match self {
            Self::Origin => 0,
            Self::Token => 1,
            Self::Api(ApiAuthError::Scope(_) | ApiAuthError::Namespace | ApiAuthError::Restricted) => 12,
            Self::Api(_) => 2,
            Self::UnknownChannel => 3,
            Self::Nobody(_) => 4,
            Self::NotAuthenticated(_) => 5,
            Self::NotPermitted(_) => 6,
            Self::NotSubscribed => 7,
            Self::Requirement => 8,
            Self::InvalidToken => 9,
            Self::TokenExpired => 10,
            Self::LoginUnavailable => 11,
            Self::Revoked => 16,
            Self::Hook => 13,
            Self::HookUnavailable => 14,
            Self::HookNotAsked => 15,
            Self::TooManyLogins => 17,
        }
    }
}
