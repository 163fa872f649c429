//! The error table: the protocol code of each error that a client's request can cause. The HTTP status of a code is
//! [`ErrorCode::http_status`].

use earshot_protocol::{Disconnect, ErrorCode};

use super::messages::{HistoryError, PublishError, SubscribeError};
use crate::auth::Denial;
use crate::auth::api_key::ApiAuthError;
use crate::broker::BrokerError;

impl From<&BrokerError> for ErrorCode {
    fn from(error: &BrokerError) -> Self {
        match error {
            BrokerError::Unavailable(_) => Self::Internal,
            BrokerError::Busy => Self::TooManyRequests,
            BrokerError::Rejected(_) => Self::PermissionDenied,
        }
    }
}

impl From<&SubscribeError> for ErrorCode {
    fn from(error: &SubscribeError) -> Self {
        match error {
            SubscribeError::TooManyChannels => Self::LimitExceeded,
            SubscribeError::NodeBehind => Self::Internal,
            SubscribeError::Broker(error) => error.into(),
        }
    }
}

impl From<&PublishError> for ErrorCode {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::UnknownChannel => Self::UnknownChannel,
            PublishError::TagsUnsupported => Self::NotAvailable,
            PublishError::TooLarge { .. } => Self::LimitExceeded,
            PublishError::TooMany => Self::TooManyRequests,
            PublishError::Broker(error) => error.into(),
        }
    }
}

impl From<&HistoryError> for ErrorCode {
    fn from(error: &HistoryError) -> Self {
        match error {
            HistoryError::Unrecoverable => Self::UnrecoverablePosition,
            HistoryError::Broker(error) => error.into(),
        }
    }
}

impl From<Denial> for ErrorCode {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Token
            | Denial::InvalidToken
            | Denial::NotAuthenticated(_)
            | Denial::Api(ApiAuthError::InvalidKey) => Self::Unauthorized,
            // SDKs request another token, and the application decides.
            Denial::TokenExpired | Denial::Revoked => Self::TokenExpired,
            Denial::LoginUnavailable | Denial::HookUnavailable => Self::Internal,
            Denial::TooManyLogins => Self::TooManyRequests,
            Denial::UnknownChannel => Self::UnknownChannel,
            Denial::Origin
            | Denial::Api(
                ApiAuthError::KeyNotConfigured
                | ApiAuthError::ForbiddenOrigin
                | ApiAuthError::Scope(_)
                | ApiAuthError::Namespace
                | ApiAuthError::Restricted,
            )
            | Denial::Nobody(_)
            | Denial::NotPermitted(_)
            | Denial::NotSubscribed
            | Denial::Requirement
            | Denial::Hook
            | Denial::HookNotAsked => Self::PermissionDenied,
        }
    }
}

/// The close code for a client that may not connect.
impl From<Denial> for Disconnect {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Token | Denial::InvalidToken => Self::InvalidToken,
            // The client requests another token, or retries.
            Denial::TokenExpired | Denial::Revoked => Self::ConnectionExpired,
            Denial::LoginUnavailable | Denial::HookUnavailable => Self::InternalServerError,
            Denial::TooManyLogins => Self::TooManyRequests,
            Denial::Origin
            | Denial::Api(_)
            | Denial::UnknownChannel
            | Denial::Nobody(_)
            | Denial::NotAuthenticated(_)
            | Denial::NotPermitted(_)
            | Denial::NotSubscribed
            | Denial::Requirement
            | Denial::Hook
            | Denial::HookNotAsked => Self::PermissionDenied,
        }
    }
}
