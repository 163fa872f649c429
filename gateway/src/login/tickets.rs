//! Login by a single-use ticket.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::FileBacked;
use crate::auth::identity::{LoginResult, LoginSource, TokenChannels};
use crate::auth::ticket::{
    CONSUME_SCRIPT, StoredTicket, TicketError, TicketGrant, TicketId, TicketKeys, TicketTable,
    event_id_suffix,
};
use crate::auth::{Denial, unix_now};
use crate::random;
use crate::store::{KeyStore, StoreError};

/// The most bytes of a stored ticket.
pub const TICKET_BYTES_MAX: usize = 16 * 1024;

/// A login method with tickets.
#[derive(Debug)]
pub struct TicketLogin {
    keys: Arc<FileBacked<TicketKeys>>,
    storage: TicketStorage,
}

/// Where tickets are.
pub enum TicketStorage {
    /// In Redis, under keys with this prefix: of all nodes, one accepts a ticket.
    Redis(Arc<KeyStore>, String),
    /// In the memory of this node, which alone makes and accepts its tickets.
    Memory(Mutex<TicketTable>),
}

/// Why a ticket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TicketIssueError {
    /// The grant is too large.
    #[error("the ticket has {0} bytes; the maximum is {TICKET_BYTES_MAX}")]
    TooLarge(usize),
    /// The grant cannot be stored.
    #[error("the ticket cannot be encoded")]
    Encoding,
    /// This node holds too many tickets.
    #[error("this node holds too many tickets: set `redis` in the [[login]], or retry later")]
    Full,
    /// The store is not available.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl fmt::Debug for TicketStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(store, _) => f.debug_tuple("Redis").field(&store.name()).finish(),
            Self::Memory(_) => f.write_str("Memory"),
        }
    }
}

impl TicketLogin {
    /// A login method whose codes are made with these keys.
    pub fn new(keys: Arc<FileBacked<TicketKeys>>, storage: TicketStorage) -> Self {
        Self { keys, storage }
    }

    /// The store of its tickets.
    pub(super) fn store(&self) -> Option<&KeyStore> {
        match &self.storage {
            TicketStorage::Redis(store, _) => Some(store),
            TicketStorage::Memory(_) => None,
        }
    }

    /// Makes a ticket that can be used for `ttl` seconds.
    ///
    /// # Errors
    /// See [`TicketIssueError`].
    pub async fn issue(&self, grant: &TicketGrant, ttl: u64) -> Result<TicketId, TicketIssueError> {
        let ticket = StoredTicket::new(grant).ok_or(TicketIssueError::Encoding)?;
        let value = ticket.to_value();
        if value.len() > TICKET_BYTES_MAX {
            return Err(TicketIssueError::TooLarge(value.len()));
        }
        let id = TicketId::from_random(random::bytes());
        match &self.storage {
            TicketStorage::Redis(store, key_prefix) => {
                let key = id.storage_key(key_prefix);
                store.set(key.as_bytes(), value.as_bytes(), Duration::from_secs(ttl)).await?;
            }
            TicketStorage::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                if !table.insert(id.clone(), ticket, ttl, unix_now()) {
                    return Err(TicketIssueError::Full);
                }
            }
        }
        Ok(id)
    }

    /// The login that a ticket makes. The ticket is spent then. `code` is the one of the client's last event id, with which
    /// a spent ticket is accepted.
    ///
    /// # Errors
    /// [`Denial::TokenExpired`]: with another ticket, the client may log in. [`Denial::LoginUnavailable`].
    pub(super) async fn redeem(&self, id: &TicketId, code: Option<&str>) -> Result<LoginResult, Denial> {
        let consumed = self.consume(id).await.map_err(|error| {
            tracing::debug!(%error, "ticket cannot be read");
            Denial::LoginUnavailable
        })?;
        let keys = self.keys.value();
        let admitted = consumed.and_then(|stored| {
            let grant = keys.admit(id, stored.as_ref(), code, unix_now())?;
            Ok((grant, stored.map(|stored| keys.resume_code(id, &stored)).unwrap_or_default()))
        });
        let (grant, code) = admitted.map_err(|error| {
            tracing::debug!(%error, "ticket rejected");
            Denial::TokenExpired
        })?;
        Ok(LoginResult {
            user: grant.user,
            fields: grant.fields.into_iter().collect(),
            source: Some(LoginSource::Ticket { event_id_suffix: event_id_suffix(&code).into() }),
            expires_at: grant.expires_at,
            issued_at: Some(grant.issued_at),
            info: grant.info.map(|info| info.into_bytes().into()),
            channels: TokenChannels::new(grant.channels),
        })
    }

    /// Marks a ticket as spent, and returns it as it was before.
    async fn consume(&self, id: &TicketId) -> Result<Result<Option<StoredTicket>, TicketError>, StoreError> {
        match &self.storage {
            TicketStorage::Redis(store, key_prefix) => {
                let value =
                    store.read_by_script(id.storage_key(key_prefix).as_bytes(), CONSUME_SCRIPT).await?;
                let Some(value) = value else { return Ok(Ok(None)) };
                let stored = std::str::from_utf8(&value).ok().and_then(StoredTicket::parse);
                Ok(stored.map(Some).ok_or(TicketError::Malformed))
            }
            TicketStorage::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Ok(table.consume(id, unix_now())))
            }
        }
    }
}
