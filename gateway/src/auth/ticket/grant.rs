//! The login that a ticket grants, and how it is stored.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::UnixSeconds;
use super::RESUME_TTL_MAX;

const NEW: &str = "new:";
const SPENT: &str = "spent:";

/// The login that a ticket grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketGrant {
    /// The user; empty: a client without a login.
    pub user: String,
    /// Fields of the identity, each with one value or several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Vec<String>>,
    /// Channels that the client may subscribe to; globs are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// What other clients see of the client, besides the user: JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// When the login ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixSeconds>,
    /// When the ticket was created: a later revocation of the user ends the login.
    pub issued_at: UnixSeconds,
}

/// A ticket as Redis stores it: `new:` or `spent:`, the time until which it is kept after its use, `:`, and the grant as
/// JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredTicket {
    is_spent: bool,
    keep_until: UnixSeconds,
    grant: Box<str>,
}

impl StoredTicket {
    /// An unspent ticket. `None` if the grant cannot be stored.
    pub fn new(grant: &TicketGrant) -> Option<Self> {
        let latest = grant.issued_at.saturating_add(RESUME_TTL_MAX);
        let keep_until = grant.expires_at.map_or(latest, |expiry| expiry.min(latest));
        let grant = serde_json::to_string(grant).ok()?.into_boxed_str();
        Some(Self { is_spent: false, keep_until, grant })
    }

    /// Parses a stored value. `None` if it has another form.
    pub fn parse(value: &str) -> Option<Self> {
        let (is_spent, rest) = match value.strip_prefix(NEW) {
            Some(rest) => (false, rest),
            None => (true, value.strip_prefix(SPENT)?),
        };
        let (keep_until, grant) = rest.split_once(':')?;
        Some(Self { is_spent, keep_until: keep_until.parse().ok()?, grant: grant.into() })
    }

    /// The value to store, with a time to live of at most [`super::TICKET_TTL_MAX`].
    pub fn to_value(&self) -> String {
        format!("{}{}:{}", if self.is_spent { SPENT } else { NEW }, self.keep_until, self.grant)
    }

    /// Whether the ticket was used before.
    pub fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// The time until which the ticket is kept after its use.
    pub fn keep_until(&self) -> UnixSeconds {
        self.keep_until
    }

    /// The grant; `None` if it is malformed.
    pub fn grant(&self) -> Option<TicketGrant> {
        serde_json::from_str(&self.grant).ok()
    }

    /// The grant as it is stored.
    pub(super) fn grant_text(&self) -> &str {
        &self.grant
    }

    /// The same ticket after its use.
    pub(super) fn spent(&self) -> Self {
        Self { is_spent: true, ..self.clone() }
    }
}

impl fmt::Debug for StoredTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredTicket").field("is_spent", &self.is_spent).finish_non_exhaustive()
    }
}
