//! Owns the errors that a reply may carry, with their codes. SDKs act on the numbers: they never change.
//! Must never hold what ends a connection; see [`crate::Disconnect`].

/// Why a request failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// Something in the server failed; the same request may succeed later.
    Internal = 100,
    /// The client has not proved who it is.
    Unauthorized = 101,
    /// No namespace has this channel.
    UnknownChannel = 102,
    /// The client may not do this.
    PermissionDenied = 103,
    /// The application has no such method.
    MethodNotFound = 104,
    /// The client hears this channel already.
    AlreadySubscribed = 105,
    /// A limit of the namespace or of the connection is reached.
    LimitExceeded = 106,
    /// The request makes no sense.
    BadRequest = 107,
    /// The feature is not switched on.
    NotAvailable = 108,
    /// The client should fetch a new token.
    TokenExpired = 109,
    /// The connection or subscription has expired.
    Expired = 110,
    /// The client should slow down.
    TooManyRequests = 111,
    /// The history does not reach back that far.
    UnrecoverablePosition = 112,
}

impl ErrorCode {
    /// All of them, in the order of their codes.
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

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The same in words.
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

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_protocol() {
        let codes: Vec<u32> = ErrorCode::ALL.iter().map(|error| error.code()).collect();
        assert_eq!(codes, (100..=112).collect::<Vec<u32>>());
        assert!(ErrorCode::ALL.iter().all(|error| !error.message().is_empty()));
    }

    #[test]
    fn only_100_and_111_are_temporary() {
        let temporary = ErrorCode::ALL.iter().filter(|error| error.temporary());
        assert!(temporary.map(|error| error.code()).eq([100, 111]));
    }
}
