//! Owns the reasons for which the server ends a subscription, with their codes.
//! Must never hold what ends the whole connection; see [`crate::Disconnect`].

/// Why the server ends a subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnsubscribeCode {
    /// The server wishes it; the client leaves the channel.
    Server = 2000,
    /// Publications were missed; the client subscribes again and recovers.
    InsufficientState = 2500,
    /// The subscription was not refreshed in time; the client subscribes again.
    Expired = 2501,
}

impl UnsubscribeCode {
    /// All of them, in the order of their codes.
    pub const ALL: &[Self] = &[Self::Server, Self::InsufficientState, Self::Expired];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The same in words.
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
    fn the_codes_are_those_of_the_protocol() {
        let codes = UnsubscribeCode::ALL.iter().map(|code| code.code());
        assert!(codes.eq([2000, 2500, 2501]));
        assert!(UnsubscribeCode::ALL.iter().all(|code| !code.reason().is_empty()));
    }
}
