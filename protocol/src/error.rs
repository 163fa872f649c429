//! Error codes: why a request failed. Codes never change: SDKs act on them. For errors that close the connection, see
//! [`crate::Disconnect`].

use crate::ChannelNameError;

impl From<ChannelNameError> for ErrorCode {
    fn from(_: ChannelNameError) -> Self {
        Self::BadRequest
    }
}

/// Why a request failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// An error in the server; the same request may succeed later.
    Internal = 100,
    /// The client is not authenticated.
    Unauthorized = 101,
    /// No namespace matches the channel.
    UnknownChannel = 102,
    /// The client lacks the permission.
    PermissionDenied = 103,
    /// The method does not exist.
    MethodNotFound = 104,
    /// The client is already subscribed to the channel.
    AlreadySubscribed = 105,
    /// A limit of the namespace or of the connection is reached.
    LimitExceeded = 106,
    /// The request is invalid.
    BadRequest = 107,
    /// The feature is not available.
    NotAvailable = 108,
    /// The token has expired; the client requests a new one.
    TokenExpired = 109,
    /// The connection or subscription has expired.
    Expired = 110,
    /// Too many requests; the client retries later.
    TooManyRequests = 111,
    /// The history no longer contains the position.
    UnrecoverablePosition = 112,
}

impl ErrorCode {
    /// All error codes, in ascending order.
    pub const ALL: &[Self] = &[
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::Expired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The message text. SDKs match it: it never changes.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
        }
    }

    /// The status of an HTTP response with this error.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest | Self::LimitExceeded => 400,
            Self::Unauthorized | Self::TokenExpired | Self::Expired => 401,
            Self::PermissionDenied => 403,
            Self::UnknownChannel | Self::MethodNotFound => 404,
            Self::AlreadySubscribed => 409,
            Self::UnrecoverablePosition => 410,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::NotAvailable => 501,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_match_the_centrifuge_protocol() {
        let codes: Vec<u32> = ErrorCode::ALL.iter().map(|error| error.code()).collect();
        assert_eq!(codes, (100..=112).collect::<Vec<u32>>());
        assert!(ErrorCode::ALL.iter().all(|error| !error.message().is_empty()));
    }

    #[test]
    fn temporary_errors_have_status_429_or_500() {
        for error in ErrorCode::ALL {
            let status = error.http_status();
            assert!((400..600).contains(&status), "{error:?}");
            assert_eq!(error.is_temporary(), status == 500 || status == 429, "{error:?}");
        }
    }

    #[test]
    fn only_100_and_111_are_temporary() {
        let temporary = ErrorCode::ALL.iter().filter(|error| error.is_temporary());
        assert!(temporary.map(|error| error.code()).eq([100, 111]));
    }
}
