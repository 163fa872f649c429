//! Revocations on all nodes: stores the requests of the API, and reads those that other nodes have stored.
//!
//! All revocations are fields of one Redis hash, which each node watches and keeps in memory. Owns that hash. Must never
//! know a connection: commands for connected clients are returned by [`Revocations::next_commands`].

mod script;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;

use super::Identities;
use crate::auth::revocation::{
    ClientCommand, MergeResult, Record, RevocationTable, RevokedLogin, command_field,
};
use crate::auth::{Denial, Identity, UnixSeconds, unix_milliseconds, unix_now};
use crate::drain::Drain;
use crate::random;
use crate::store::{KeyEvents, KeyStore, KeyType, KeyValue, StoreError, TrackingMode, WatchGuard};

/// How long a command is stored. A node that cannot read it for longer does not execute it.
const COMMAND_TTL: Duration = Duration::from_secs(60);

/// How often the hash is read while Redis does not report its changes.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Which nodes a revocation reaches, and its bounds.
#[derive(Clone, Debug)]
pub struct RevocationSettings {
    /// The key of the hash.
    pub key: String,
    /// Maximum number of revocations and commands in effect at a time (`limits.revocations`).
    pub entries_max: usize,
    /// How long a revocation is in effect by default.
    pub default_ttl: Duration,
    /// Why revocations are not available, if they are not.
    pub unavailable: Option<&'static str>,
}

impl Default for RevocationSettings {
    /// Revocations of a single node, with the default limits.
    fn default() -> Self {
        Self {
            key: "earshot:revocations".to_owned(),
            entries_max: 10_000,
            default_ttl: Duration::from_secs(24 * 60 * 60),
            unavailable: None,
        }
    }
}

/// The revocations in effect.
pub struct Revocations {
    settings: RevocationSettings,
    identities: Arc<Identities>,
    table: RwLock<RevocationTable>,
    /// The hash was read.
    is_loaded: AtomicBool,
    shared: OnceLock<SharedHash>,
    commands: Mutex<Vec<ClientCommand>>,
    has_commands: Notify,
}

/// The hash of all nodes.
struct SharedHash {
    store: Arc<KeyStore>,
    _watch: WatchGuard,
}

/// Why a revocation or command is not in effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RevocationError {
    /// No place to store them is configured.
    #[error("revocations are not available: {0}")]
    NotAvailable(&'static str),
    /// Too many are in effect.
    #[error(
        "{0} revocations are in effect, the most that `limits.revocations` permits: repeat it when some have expired"
    )]
    Full(usize),
    /// Redis did not confirm it.
    #[error("{0}; the request may be in effect nevertheless: repeat it")]
    Store(#[from] StoreError),
}

impl Revocations {
    /// The revocations for these identities: of this node only, until [`Revocations::share`].
    pub fn new(settings: RevocationSettings, identities: Arc<Identities>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            identities,
            table: RwLock::default(),
            is_loaded: AtomicBool::new(true),
            shared: OnceLock::new(),
            commands: Mutex::default(),
            has_commands: Notify::new(),
        })
    }

    /// Shares the revocations with the other nodes that use the store, which must report to [`Revocations`] as well.
    /// Logins cannot be checked until the hash was read.
    pub fn share(self: &Arc<Self>, store: &Arc<KeyStore>, drain: &Drain) {
        self.is_loaded.store(false, Ordering::Release);
        let watch = store.watch(self.settings.key.as_bytes(), KeyType::Hash);
        if self.shared.set(SharedHash { store: Arc::clone(store), _watch: watch }).is_err() {
            return;
        }
        let (revocations, store, stop) = (Arc::clone(self), Arc::clone(store), drain.clone());
        drain.spawn(async move {
            tokio::select! {
                () = revocations.sweep(&store) => {}
                () = stop.stopped() => {}
            }
        });
    }

    /// The key of the hash.
    pub fn key(&self) -> &str {
        &self.settings.key
    }

    /// The store of the hash, if other nodes share it.
    pub fn store(&self) -> Option<&KeyStore> {
        self.shared.get().map(|shared| &*shared.store)
    }

    /// Whether logins can be checked: the hash was read once since the start.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    /// The number of revocations and commands in effect.
    pub fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is in effect.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of revocations and commands that have not expired.
    fn count(&self) -> usize {
        self.merge(std::iter::empty(), false);
        self.len()
    }

    /// How long a revocation is in effect by default.
    pub fn default_ttl(&self) -> Duration {
        self.settings.default_ttl
    }

    /// Whether the login of a client is revoked. `None`: not known yet.
    pub fn is_revoked(&self, identity: &Identity) -> Option<bool> {
        self.look_up(|table, now| table.is_revoked(identity, now))
    }

    /// Whether the token of a user with this id and time of issue is revoked. `None`: not known yet.
    pub fn is_token_revoked(
        &self,
        user: &str,
        id: Option<&str>,
        issued_at: Option<UnixSeconds>,
    ) -> Option<bool> {
        self.look_up(|table, now| table.is_token_revoked(user, id, issued_at, now))
    }

    fn look_up(&self, decide: impl FnOnce(&RevocationTable, UnixSeconds) -> bool) -> Option<bool> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        self.is_loaded().then(|| decide(&table, unix_now()))
    }

    /// Revokes logins on all nodes, for `ttl`. Either all logins are revoked or none.
    ///
    /// # Errors
    /// See [`RevocationError`].
    pub async fn revoke(&self, logins: &[RevokedLogin], ttl: Duration) -> Result<(), RevocationError> {
        let fields = logins.iter().map(RevokedLogin::field).collect();
        self.store_fields(fields, None, ttl).await
    }

    /// Requests a command from all nodes, once.
    ///
    /// # Errors
    /// See [`RevocationError`].
    pub async fn command(&self, command: ClientCommand) -> Result<(), RevocationError> {
        let field = command_field(&random::uuid().to_string());
        self.store_fields(vec![field], Some(command), COMMAND_TTL).await
    }

    async fn store_fields(
        &self,
        fields: Vec<Vec<u8>>,
        command: Option<ClientCommand>,
        ttl: Duration,
    ) -> Result<(), RevocationError> {
        if let Some(reason) = self.settings.unavailable {
            return Err(RevocationError::NotAvailable(reason));
        }
        let entries_max = self.settings.entries_max;
        let at = match self.shared.get() {
            Some(shared) => {
                let arguments = script::arguments(entries_max, ttl, command.as_ref(), &fields);
                let at = shared.store.run(script::STORE, self.settings.key.as_bytes(), arguments).await?;
                u64::try_from(at).unwrap_or_default()
            }
            None if self.count() + fields.len() > entries_max => 0,
            None => unix_milliseconds(),
        };
        if at == 0 {
            return Err(RevocationError::Full(entries_max));
        }
        // In effect on this node before the reply; the others, and this one again, read the hash.
        let value = Record { until: (at / 1000).saturating_add(ttl.as_secs()), at, command }.to_json();
        self.merge(fields.iter().map(|field| (&field[..], &value[..])), true);
        Ok(())
    }

    /// Adds fields of the hash, and ends the logins that they revoke.
    fn merge<'f>(&self, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, with_commands: bool) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let found = table.merge(fields, unix_now());
        drop(table);
        if found.is_empty() {
            return;
        }
        if !found.revoked.is_empty() {
            self.end_revoked(&found);
        }
        if with_commands && !found.commands.is_empty() {
            let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.extend(found.commands);
            self.has_commands.notify_one();
        }
    }

    /// Ends the connected logins that are revoked. The table is updated first, so a login that is checked concurrently
    /// is rejected.
    fn end_revoked(&self, found: &MergeResult) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let now = unix_now();
        let ended = self
            .identities
            .end_if(|identity| table.is_revoked(identity, now) || found.ends_session(identity));
        drop(table);
        tracing::info!(revocations = found.revoked.len(), logins = ended, "logins revoked");
    }

    /// Waits for commands to connected clients of this node, and returns them.
    pub async fn next_commands(&self) -> Vec<ClientCommand> {
        loop {
            self.has_commands.notified().await;
            let commands = std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner));
            if !commands.is_empty() {
                return commands;
            }
        }
    }

    /// Reads the hash at an interval while Redis does not report its changes. Never resolves.
    async fn sweep(&self, store: &KeyStore) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let status = store.status();
            if !status.connected || status.tracking == TrackingMode::Active {
                continue;
            }
            match store.read(self.key().as_bytes(), KeyType::Hash).await {
                // The watch of the key decides when it is loaded.
                Ok(Some(value)) => self.merge_value(&value, self.is_loaded()),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "revocations cannot be read"),
            }
        }
    }

    fn merge_value(&self, value: &KeyValue, with_commands: bool) {
        if let KeyValue::Hash(fields) = value {
            self.merge(fields.iter().map(|(field, value)| (&field[..], &value[..])), with_commands);
        }
    }
}

impl KeyEvents for Revocations {
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>) {
        // A key of another type contains no revocations, and does not count as read.
        if key != self.key().as_bytes() || value == Some(&KeyValue::OtherType) {
            return;
        }
        // Commands that were stored before this node started concern earlier connections.
        let was_loaded = self.is_loaded();
        if let Some(value) = value {
            self.merge_value(value, was_loaded);
        }
        if !was_loaded {
            self.is_loaded.store(true, Ordering::Release);
            tracing::info!(revocations = self.len(), "revocations read");
        }
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Permits a login that is known not to be revoked.
pub(super) fn permit(is_revoked: Option<bool>) -> Result<(), Denial> {
    match is_revoked {
        Some(false) => Ok(()),
        Some(true) => Err(Denial::Revoked),
        None => Err(Denial::LoginUnavailable),
    }
}

#[cfg(test)]
mod tests;
