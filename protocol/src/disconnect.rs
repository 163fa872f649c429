//! Close codes: why the server closes a connection. Codes never change: SDKs decide by the code whether to reconnect.
//! For errors of a request, see [`crate::ErrorCode`].

/// Why the server closes a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Disconnect {
    /// The connection was lost.
    ConnectionClosed = 3000,
    /// The server shuts down; the client reconnects to another node.
    Shutdown = 3001,
    /// An error in the server.
    InternalServerError = 3004,
    /// The connection was not refreshed in time.
    ConnectionExpired = 3005,
    /// A server-side subscription was not refreshed in time.
    SubscriptionExpired = 3006,
    /// The client does not read fast enough.
    Slow = 3008,
    /// Writing to the client failed.
    WriteError = 3009,
    /// Publications were missed; the client recovers them after it reconnects.
    InsufficientState = 3010,
    /// The server requests a reconnect.
    ForceReconnect = 3011,
    /// The client did not reply to a ping in time.
    NoPong = 3012,
    /// The client sent too many commands.
    TooManyRequests = 3013,
    /// The token is invalid.
    InvalidToken = 3500,
    /// The client violated the protocol.
    BadRequest = 3501,
    /// The client did not send a connect command in time.
    Stale = 3502,
    /// The server disconnects the client; no reconnect.
    ForceDisconnect = 3503,
    /// The server or the user has too many connections.
    ConnectionLimit = 3504,
    /// The connection has too many channels.
    ChannelLimit = 3505,
    /// The encoding cannot represent the data to be sent.
    InappropriateProtocol = 3506,
    /// The client may not connect.
    PermissionDenied = 3507,
    /// The feature is not available.
    NotAvailable = 3508,
    /// The client caused too many errors.
    TooManyErrors = 3509,
}

impl Disconnect {
    /// All close codes, in ascending order.
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

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason text in the close frame.
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

    /// Whether SDKs reconnect after this code.
    #[must_use]
    pub const fn should_reconnect(self) -> bool {
        self.code() < 3500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_match_the_centrifuge_protocol() {
        let codes = Disconnect::ALL.iter().map(|disconnect| disconnect.code());
        let reconnecting = [3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013];
        assert!(codes.eq(reconnecting.into_iter().chain(3500..=3509)));
    }

    #[test]
    fn each_reason_is_not_empty_and_fits_a_close_frame() {
        // With an empty reason the JavaScript SDK reconnects after a terminal code.
        assert!(Disconnect::ALL.iter().all(|disconnect| (1..=123).contains(&disconnect.reason().len())));
    }

    #[test]
    fn clients_reconnect_after_codes_below_3500() {
        assert!(
            Disconnect::ALL
                .iter()
                .all(|disconnect| disconnect.should_reconnect() == (disconnect.code() < 3500))
        );
        assert!(
            Disconnect::TooManyRequests.should_reconnect() && !Disconnect::InvalidToken.should_reconnect()
        );
    }
}
