//! Tickets of one node without Redis.

use std::collections::HashMap;

use super::super::UnixSeconds;
use super::grant::StoredTicket;
use super::id::TicketId;

/// Maximum number of tickets, including spent ones.
const TICKETS_MAX: usize = 100_000;

/// Stores tickets like Redis with [`super::CONSUME_SCRIPT`] does.
#[derive(Debug, Default)]
pub struct TicketTable {
    tickets: HashMap<TicketId, Entry>,
}

#[derive(Debug)]
struct Entry {
    ticket: StoredTicket,
    expires_at: UnixSeconds,
}

impl TicketTable {
    /// Stores a ticket that can be used for `ttl` seconds. `false` if the table is full.
    pub fn insert(&mut self, id: TicketId, ticket: StoredTicket, ttl: u64, now: UnixSeconds) -> bool {
        if self.tickets.len() >= TICKETS_MAX {
            self.tickets.retain(|_, entry| entry.expires_at > now);
        }
        if self.tickets.len() >= TICKETS_MAX {
            return false;
        }
        self.tickets.insert(id, Entry { ticket, expires_at: now.saturating_add(ttl) });
        true
    }

    /// Returns a ticket as it was before, and marks it as spent.
    pub fn consume(&mut self, id: &TicketId, now: UnixSeconds) -> Option<StoredTicket> {
        let entry = self.tickets.get_mut(id)?;
        if entry.expires_at <= now {
            self.tickets.remove(id);
            return None;
        }
        let before = entry.ticket.clone();
        if !before.is_spent() {
            *entry = Entry { ticket: before.spent(), expires_at: before.keep_until() };
        }
        Some(before)
    }
}
