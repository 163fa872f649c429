//! Ids of tickets.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Random bytes of an id.
pub const TICKET_RANDOM_BYTES: usize = 16;

/// The id of a ticket: 128 random bits as 22 characters of base64url. It is a secret until the ticket is spent;
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TicketId(Box<str>);

impl TicketId {
    /// An id from random bytes of the operating system.
    pub fn from_random(bytes: [u8; TICKET_RANDOM_BYTES]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// Parses an id. `None` if the text has another form: it then needs no lookup.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == TICKET_RANDOM_BYTES).then(|| Self(text.into()))
    }

    /// The text of the id: for its client and its key, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The key that stores the ticket.
    pub fn storage_key(&self, key_prefix: &str) -> String {
        format!("{key_prefix}ticket:{}", self.0)
    }
}

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketId(***)")
    }
}
