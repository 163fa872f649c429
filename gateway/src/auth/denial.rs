//! Why a client is rejected.

use super::api_key::ApiAuthError;

/// Why a permission is denied. The text states what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The origin of the page is not allowed.
    #[error("this origin is not allowed: add it to `allowed_origins`")]
    Origin,
    /// A token was sent, but no authentication is configured.
    #[error("a token was sent, but no authentication is configured to verify it: connect without a token")]
    Token,
    /// The API request is not authenticated.
    #[error(transparent)]
    Api(#[from] ApiAuthError),
    /// No namespace matches the channel.
    #[error("no namespace matches this channel: add it to `channels` of a namespace")]
    UnknownChannel,
    /// Clients may not subscribe to the channel.
    #[error("permission denied: clients may not subscribe (`subscribe` of the namespace)")]
    Subscribe,
    /// Clients may not publish to the channel.
    #[error("permission denied: clients may not publish (`publish` of the namespace)")]
    Publish,
    /// The operation requires a subscription.
    #[error("permission denied: the client is not subscribed to the channel")]
    NotSubscribed,
    /// Presence is not supported.
    #[error("presence is not available")]
    Presence,
}

impl Denial {
    /// The number of kinds.
    pub(super) const KINDS: usize = 8;

    /// The index of the kind: below [`Denial::KINDS`].
    pub(super) fn kind(self) -> usize {
        match self {
            Self::Origin => 0,
            Self::Token => 1,
            Self::Api(_) => 2,
            Self::UnknownChannel => 3,
            Self::Subscribe => 4,
            Self::Publish => 5,
            Self::NotSubscribed => 6,
            Self::Presence => 7,
        }
    }
}
