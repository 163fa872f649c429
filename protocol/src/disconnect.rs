//! Owns the reasons for which the server ends a connection, with their close codes. SDKs decide by the
//! number whether to come back: they never change.
//! Must never hold what only fails a request; see [`crate::ErrorCode`].

/// Why the server ends a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Disconnect {
    /// The connection was lost.
    ConnectionClosed = 3000,
    /// The server is going away; another one may serve.
    Shutdown = 3001,
    /// Something in the server failed.
    InternalServerError = 3004,
    /// The connection was not refreshed in time.
    ConnectionExpired = 3005,
    /// A server-side subscription was not refreshed in time.
    SubscriptionExpired = 3006,
    /// The client does not read fast enough.
    Slow = 3008,
    /// Writing to the client failed.
    WriteError = 3009,
    /// Publications were missed; coming back recovers them.
    InsufficientState = 3010,
    /// The server wishes the client to come back.
    ForceReconnect = 3011,
    /// The client did not answer a ping in time.
    NoPong = 3012,
    /// The client sends too many commands.
    TooManyRequests = 3013,
    /// The token is not valid.
    InvalidToken = 3500,
    /// The client broke the protocol.
    BadRequest = 3501,
    /// The client did not begin a session in time.
    Stale = 3502,
    /// The server wishes the client to stay away.
    ForceDisconnect = 3503,
    /// The server or the user has too many connections.
    ConnectionLimit = 3504,
    /// The connection has too many channels.
    ChannelLimit = 3505,
    /// The encoding does not fit what would have to be sent.
    InappropriateProtocol = 3506,
    /// The client may not connect.
    PermissionDenied = 3507,
    /// The server does not offer this.
    NotAvailable = 3508,
    /// The client makes too many mistakes.
    TooManyErrors = 3509,
}

impl Disconnect {
    /// All of them, in the order of their codes.
    pub const ALL: &[Self] = &[
        Self::ConnectionClosed,
        Self::Shutdown,
        Self::InternalServerError,
        Self::ConnectionExpired,
        Self::SubscriptionExpired,
        Self::Slow,
        Self::WriteError,
        Self::InsufficientState,
        Self::ForceReconnect,
        Self::NoPong,
        Self::TooManyRequests,
        Self::InvalidToken,
        Self::BadRequest,
        Self::Stale,
        Self::ForceDisconnect,
        Self::ConnectionLimit,
        Self::ChannelLimit,
        Self::InappropriateProtocol,
        Self::PermissionDenied,
        Self::NotAvailable,
        Self::TooManyErrors,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The same in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ConnectionClosed => "connection closed",
            Self::Shutdown => "shutdown",
            Self::InternalServerError => "internal server error",
            Self::ConnectionExpired => "connection expired",
            Self::SubscriptionExpired => "subscription expired",
            Self::Slow => "slow",
            Self::WriteError => "write error",
            Self::InsufficientState => "insufficient state",
            Self::ForceReconnect => "force reconnect",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many requests",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::InappropriateProtocol => "inappropriate protocol",
            Self::PermissionDenied => "permission denied",
            Self::NotAvailable => "not available",
            Self::TooManyErrors => "too many errors",
        }
    }

    /// Whether SDKs come back after it.
    #[must_use]
    pub const fn reconnects(self) -> bool {
        self.code() < 3500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_protocol() {
        let codes = Disconnect::ALL.iter().map(|disconnect| disconnect.code());
        let coming_back = [3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013];
        assert!(codes.eq(coming_back.into_iter().chain(3500..=3509)));
    }

    #[test]
    fn a_reason_is_never_empty_and_fits_a_close_frame() {
        // An empty reason makes the JavaScript SDK come back after a terminal code.
        assert!(Disconnect::ALL.iter().all(|disconnect| (1..=123).contains(&disconnect.reason().len())));
    }

    #[test]
    fn clients_come_back_after_codes_below_3500() {
        assert!(
            Disconnect::ALL.iter().all(|disconnect| disconnect.reconnects() == (disconnect.code() < 3500))
        );
        assert!(Disconnect::TooManyRequests.reconnects() && !Disconnect::InvalidToken.reconnects());
    }
}
