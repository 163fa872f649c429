//! Why an API request is rejected.

use super::method::Scope;

/// Why an API request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiAuthError {
    /// The key is missing or wrong.
    #[error("unauthorized: send the API key as X-API-Key, or as Authorization: apikey …")]
    InvalidKey,
    /// No key is configured.
    #[error(
        "forbidden: no API key is configured: set EARSHOT_API_KEY (or `key` in [api]), or start `earshot serve --dev` \
         on your own machine"
    )]
    KeyNotConfigured,
    /// The request comes from a page of another origin.
    #[error(
        "forbidden: without an API key, only pages of local origins may call the API: set EARSHOT_API_KEY (or `key` in \
         [api])"
    )]
    ForbiddenOrigin,
    /// The key is valid and lacks a scope.
    #[error("permission denied: the API key lacks the scope \"{}\" (`scopes` of the [[api_key]])", .0.as_str())]
    Scope(Scope),
    /// The key is valid and is not for the namespace of the channel.
    #[error(
        "permission denied: the API key is not for the namespace of this channel (`namespaces` of the [[api_key]])"
    )]
    Namespace,
    /// The key is valid, and the method concerns more than the namespaces of the key.
    #[error(
        "permission denied: an API key with `namespaces` may not call a method that concerns the whole node"
    )]
    Restricted,
}
