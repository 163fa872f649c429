//! Tokens that an application denies with keys in a store.
//!
//! Ends the identities of a token when its key appears. A key is watched while a client with its token is connected.

use std::fmt;
use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::Identities;
use crate::auth::identity::{Lease, LoginResult, LoginSource};
use crate::auth::jwt::DeniedKeyTemplate;
use crate::auth::{Denial, Identity};
use crate::store::{KeyEvents, KeyStore, KeyType, KeyValue, StoreError, WatchGuard};

/// The list of denied tokens that a login method reads.
#[derive(Clone, Debug)]
pub struct DeniedTokens {
    template: DeniedKeyTemplate,
    store: Arc<KeyStore>,
    keys: Arc<DeniedKeys>,
}

/// The keys in one store for tokens of connected clients.
pub struct DeniedKeys {
    entries: DashMap<Arc<[u8]>, Entry>,
    identities: Arc<Identities>,
}

#[derive(Default)]
struct Entry {
    /// Guards of the key.
    guards: usize,
    /// The key has appeared since the first guard was created.
    is_denied: bool,
    identities: Vec<Weak<Identity>>,
}

/// Keeps a key watched, as long as an identity depends on it.
#[derive(Debug)]
struct DeniedGuard {
    keys: Arc<DeniedKeys>,
    key: Arc<[u8]>,
    watch: Option<WatchGuard>,
}

impl DeniedTokens {
    /// The list with these keys in a store, which must report its changes to `keys`.
    pub fn new(template: DeniedKeyTemplate, store: Arc<KeyStore>, keys: Arc<DeniedKeys>) -> Self {
        Self { template, store, keys }
    }

    /// The store.
    pub(super) fn store(&self) -> &KeyStore {
        &self.store
    }

    /// The identity of a verified token, unless it is denied. The identity ends when the token is denied later.
    ///
    /// # Errors
    /// [`Denial::InvalidToken`] if the token lacks what the key requires, [`Denial::Revoked`],
    /// [`Denial::LoginUnavailable`].
    pub(super) async fn log_in(
        &self,
        identities: &Arc<Identities>,
        login: LoginResult,
    ) -> Result<Arc<Identity>, Denial> {
        let id = match &login.source {
            Some(LoginSource::Token { id }) => Some(&**id),
            _ => None,
        };
        let Some(key) = self.template.key(&login.user, id) else {
            tracing::debug!("token rejected: it lacks the claim that `denied_key` names, or it is too long");
            return Err(Denial::InvalidToken);
        };
        // Before the read, so that no change is missed.
        let mut guard = DeniedKeys::guard(&self.keys, &key);
        let (value, watch) =
            self.store.read_and_watch(&key, KeyType::Exists).await.map_err(|error| unavailable(&error))?;
        guard.watch = Some(watch);
        if value.is_some() {
            return Err(Denial::Revoked);
        }
        self.keys.log_in(identities, login, guard)
    }

    /// Checks that a subscription token is not denied. A token without an id is never denied.
    ///
    /// # Errors
    /// [`Denial::Revoked`], [`Denial::LoginUnavailable`].
    pub(super) async fn check_subscription(&self, user: &str, id: Option<&str>) -> Result<(), Denial> {
        let Some(key) = self.template.key(user, id) else { return Ok(()) };
        match self.store.read(&key, KeyType::Exists).await.map_err(|error| unavailable(&error))? {
            Some(_) => Err(Denial::Revoked),
            None => Ok(()),
        }
    }
}

impl DeniedKeys {
    /// Without any key.
    pub fn new(identities: Arc<Identities>) -> Arc<Self> {
        Arc::new(Self { entries: DashMap::new(), identities })
    }

    fn guard(self: &Arc<Self>, key: &[u8]) -> DeniedGuard {
        let key: Arc<[u8]> = key.into();
        self.entries.entry(Arc::clone(&key)).or_default().guards += 1;
        DeniedGuard { keys: Arc::clone(self), key, watch: None }
    }

    /// The identity of a login that depends on the key of a guard.
    fn log_in(
        &self,
        identities: &Arc<Identities>,
        login: LoginResult,
        guard: DeniedGuard,
    ) -> Result<Arc<Identity>, Denial> {
        let key = Arc::clone(&guard.key);
        let identity = identities.of_token(login, Some(Box::new(guard)));
        // The identity keeps the guard, and the guard keeps the entry.
        let is_denied = self.entries.get_mut(&key).is_none_or(|mut entry| {
            entry.identities.retain(|other| other.strong_count() > 0);
            entry.identities.push(Arc::downgrade(&identity));
            entry.is_denied
        });
        if is_denied { Err(Denial::Revoked) } else { Ok(identity) }
    }
}

impl Lease for DeniedGuard {}

impl Drop for DeniedGuard {
    fn drop(&mut self) {
        self.keys.entries.remove_if_mut(&self.key, |_, entry| {
            entry.guards -= 1;
            entry.guards == 0
        });
    }
}

impl KeyEvents for DeniedKeys {
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>) {
        let Some(mut entry) = self.entries.get_mut(key) else { return };
        entry.is_denied = value.is_some();
        if value.is_none() {
            return;
        }
        let identities: Vec<Arc<Identity>> = entry.identities.iter().filter_map(Weak::upgrade).collect();
        // Dropping the last reference to an identity locks the table.
        drop(entry);
        identities.iter().for_each(|identity| self.identities.end(identity));
    }
}

fn unavailable(error: &StoreError) -> Denial {
    tracing::debug!(%error, "denied tokens cannot be read");
    Denial::LoginUnavailable
}

impl fmt::Debug for DeniedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeniedKeys").field("keys", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_in(identities: &Arc<Identities>, guard: DeniedGuard) -> Result<Arc<Identity>, Denial> {
        let keys = Arc::clone(&guard.keys);
        keys.log_in(identities, LoginResult::default(), guard)
    }

    #[test]
    fn all_identities_of_a_token_end_when_its_key_appears() {
        let identities = Arc::<Identities>::default();
        let keys = DeniedKeys::new(Arc::clone(&identities));
        let first = log_in(&identities, keys.guard(b"a")).unwrap();
        let second = log_in(&identities, keys.guard(b"a")).unwrap();
        let other = log_in(&identities, keys.guard(b"b")).unwrap();
        keys.on_change(b"a", Some(&KeyValue::Present));
        assert!(first.has_ended() && second.has_ended() && !other.has_ended());
        drop((first, second, other));
        assert!(keys.entries.is_empty(), "the keys are no longer watched");
    }

    #[test]
    fn a_key_that_appears_during_the_check_denies_the_token() {
        let identities = Arc::<Identities>::default();
        let keys = DeniedKeys::new(Arc::clone(&identities));
        let guard = keys.guard(b"a");
        keys.on_change(b"a", Some(&KeyValue::Present));
        assert_eq!(log_in(&identities, guard).unwrap_err(), Denial::Revoked);
        let guard = keys.guard(b"a");
        keys.on_change(b"a", Some(&KeyValue::Present));
        keys.on_change(b"a", None);
        assert!(log_in(&identities, guard).is_ok());
    }
}
