//! Unsubscribe codes: why the server ends a subscription. For codes that close the connection, see
//! [`crate::Disconnect`].

/// Why the server ends a subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnsubscribeCode {
    /// The server unsubscribed the client; it does not resubscribe.
    Server = 2000,
    /// Publications were missed; the client resubscribes and recovers.
    InsufficientState = 2500,
    /// The subscription was not refreshed in time; the client resubscribes.
    Expired = 2501,
}

impl UnsubscribeCode {
    /// All unsubscribe codes, in ascending order.
    pub const ALL: &[Self] = &[Self::Server, Self::InsufficientState, Self::Expired];

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The reason text.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_match_the_centrifuge_protocol() {
        let codes = UnsubscribeCode::ALL.iter().map(|code| code.code());
        assert!(codes.eq([2000, 2500, 2501]));
        assert!(UnsubscribeCode::ALL.iter().all(|code| !code.reason().is_empty()));
    }
}
