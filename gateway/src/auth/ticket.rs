//! Tickets: an EventSource whose cookie cannot reach the gateway presents one in its URL.
//!
//! A backend requests a ticket for a user (`POST /api/ticket`), and the page opens its stream with it. A ticket can be
//! used once, within [`TICKET_TTL_MAX`] seconds. All of this is pure: the caller stores a ticket under
//! [`TicketId::storage_key`], and consumes it with [`CONSUME_SCRIPT`] or, without Redis, in a [`TicketTable`].
//!
//! An EventSource reconnects with the same URL, so with a spent ticket. URLs are logged; a spent ticket alone therefore
//! grants nothing. The event ids of the stream contain a code ([`TicketKeys::resume_code`]) that only the client of
//! the stream has received. A spent ticket is accepted together with the code in `Last-Event-ID`, until the login ends.
//!
//! The code is HMAC-SHA256, shortened to 128 bits, of these lines, joined by a line feed:
//!
//! ```text
//! earshot-ticket-v1
//! id of the ticket
//! the grant as it is stored
//! ```

mod grant;
mod id;
mod table;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::UnixSeconds;
use super::mac_keys::MacKeys;

pub use grant::{StoredTicket, TicketGrant};
pub use id::{TICKET_RANDOM_BYTES, TicketId};
pub use table::TicketTable;

/// Maximum time between the creation of a ticket and its use, in seconds.
pub const TICKET_TTL_MAX: u64 = 60;
/// How long a spent ticket is kept if its login never expires, in seconds.
pub const RESUME_TTL_MAX: u64 = 24 * 60 * 60;
/// Consumes a ticket. It takes one key, [`TicketId::storage_key`]; [`StoredTicket::parse`] parses its reply. Requires
/// Redis 5 or newer.
pub const CONSUME_SCRIPT: &str = include_str!("ticket/ticket_consume.lua");

const PURPOSE: &str = "earshot-ticket-v1";
const CODE_BYTES: usize = 16;
/// Separates the cursor from the code in an event id. No cursor contains it.
const SEPARATOR: char = '~';

/// Why a ticket is rejected. The text is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The text is not a ticket, or the ticket is unknown: it was never made, or has expired unused.
    #[error("the ticket is unknown, or has expired unused")]
    Unknown,
    /// The ticket was used before, and the client did not prove that it was the one to use it.
    #[error("the ticket was used already, and `Last-Event-ID` does not prove that the client used it")]
    Spent,
    /// The login of the ticket has ended.
    #[error("the login of the ticket has expired at {0} (Unix time)")]
    Expired(UnixSeconds),
    /// The stored value is invalid.
    #[error("the stored ticket is malformed")]
    Malformed,
}

/// Secrets that all nodes share, for the codes in event ids.
#[derive(Clone, Debug)]
pub struct TicketKeys(MacKeys);

impl TicketKeys {
    /// Codes with these secrets.
    pub fn new(keys: MacKeys) -> Self {
        Self(keys)
    }

    /// Decides whether a consumed ticket logs a client in. `code` comes from the client's `Last-Event-ID`.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn admit(
        &self,
        id: &TicketId,
        consumed: Option<&StoredTicket>,
        code: Option<&str>,
        now: UnixSeconds,
    ) -> Result<TicketGrant, TicketError> {
        let stored = consumed.ok_or(TicketError::Unknown)?;
        if stored.is_spent() && !code.is_some_and(|code| self.is_code_of(code, id, stored)) {
            return Err(TicketError::Spent);
        }
        let grant = stored.grant().ok_or(TicketError::Malformed)?;
        match grant.expires_at {
            Some(at) if at <= now => Err(TicketError::Expired(at)),
            _ => Ok(grant),
        }
    }

    /// The code that the event ids of a stream contain, which was opened with this ticket. It is the same for all
    /// events of the stream.
    pub fn resume_code(&self, id: &TicketId, stored: &StoredTicket) -> String {
        URL_SAFE_NO_PAD.encode(&self.0.sign(&signed_text(id, stored))[..CODE_BYTES])
    }

    fn is_code_of(&self, code: &str, id: &TicketId, stored: &StoredTicket) -> bool {
        match URL_SAFE_NO_PAD.decode(code) {
            Ok(code) => code.len() == CODE_BYTES && self.0.verify(&signed_text(id, stored), &code),
            Err(_) => false,
        }
    }
}

fn signed_text(id: &TicketId, stored: &StoredTicket) -> String {
    format!("{PURPOSE}\n{}\n{}", id.expose(), stored.grant_text())
}

/// What the event ids of a stream contain after the cursor: `~`, the code.
pub fn event_id_suffix(code: &str) -> String {
    format!("{SEPARATOR}{code}")
}

/// Splits an event id into the cursor and the code, if it has one.
pub fn split_event_id(id: &str) -> (&str, Option<&str>) {
    match id.rsplit_once(SEPARATOR) {
        Some((cursor, code)) => (cursor, Some(code)),
        None => (id, None),
    }
}
