//! The identities of connected clients.
//!
//! Owns the rule that the connections of one session share one identity, and that an identity ends when its session
//! ends or names another user. Must never read a session.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use tokio::sync::Notify;

use super::SessionLogin;
use crate::auth::Identity;
use crate::auth::identity::{Lease, LoginResult};
use crate::store::{KeyEvents, KeyValue, WatchGuard};

/// The source of an identity.
#[derive(Clone, PartialEq, Eq, Hash)]
enum LoginKey {
    /// A session: the index of its login method, and its key in the store.
    Session(usize, Arc<[u8]>),
    /// A token. The number is different for each login.
    Token(u64),
}

/// The identities of connected clients.
#[derive(Debug, Default)]
pub struct Identities {
    logins: DashMap<LoginKey, Entry>,
    last_token: AtomicU64,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    identity: Weak<Identity>,
    /// Reads of the session in progress.
    reads: u32,
    /// The number of changes of the session since its entry was created.
    changes: u64,
}

/// A read of a session in progress. Without [`SessionRead::finish`] it has no effect.
#[derive(Debug)]
pub struct SessionRead {
    identities: Arc<Identities>,
    key: LoginKey,
    /// The number of changes of the session when the read began.
    changes: u64,
}

/// The result of [`SessionRead::finish`].
#[derive(Debug)]
pub enum SessionReadResult {
    /// The identity of the session; it exists already.
    Known(Arc<Identity>),
    /// The new identity of the session.
    New(Arc<Identity>),
    /// The session has changed in the meantime: read it again.
    Changed,
}

/// Keeps the entry of an identity, and its session watched, as long as it exists.
struct EntryLease {
    identities: Weak<Identities>,
    key: LoginKey,
    _watch: Option<WatchGuard>,
    _lease: Option<Box<dyn Lease>>,
}

/// The key of a session is a secret.
impl fmt::Debug for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(method, _) => write!(f, "Session({method}, ***)"),
            Self::Token(number) => write!(f, "Token({number})"),
        }
    }
}

impl Identities {
    /// Begins to read a session.
    pub fn begin_read(self: &Arc<Self>, method: usize, key: &[u8]) -> SessionRead {
        let key = LoginKey::Session(method, key.into());
        let mut entry = self.logins.entry(key.clone()).or_default();
        entry.reads += 1;
        let changes = entry.changes;
        drop(entry);
        SessionRead { identities: Arc::clone(self), key, changes }
    }

    /// The identity of a token; `lease` is dropped with it.
    pub fn of_token(self: &Arc<Self>, login: LoginResult, lease: Option<Box<dyn Lease>>) -> Arc<Identity> {
        let key = LoginKey::Token(self.last_token.fetch_add(1, Ordering::Relaxed));
        let lease =
            EntryLease { identities: Arc::downgrade(self), key: key.clone(), _watch: None, _lease: lease };
        let identity = Arc::new(Identity::leased(login, Box::new(lease)));
        self.logins.entry(key).or_default().identity = Arc::downgrade(&identity);
        identity
    }

    /// A session has changed; `login` is its current content, `None` if it is no longer a login. Its identity ends
    /// unless the login is unchanged.
    fn on_change(&self, key: &LoginKey, login: Option<&LoginResult>) {
        let Some(mut entry) = self.logins.get_mut(key) else { return };
        entry.changes += 1;
        let Some(identity) = entry.identity.upgrade() else { return };
        drop(entry);
        let is_same = login.is_some_and(|login| identity.has(&login.user, &login.fields));
        if !is_same {
            identity.end();
            self.ended.notify_one();
        }
    }

    /// Ends an identity.
    pub(super) fn end(&self, identity: &Identity) {
        identity.end();
        self.ended.notify_one();
    }

    /// Ends the identities that satisfy a condition, and returns their number.
    pub(super) fn end_if(&self, condition: impl Fn(&Identity) -> bool) -> usize {
        // Collected first: dropping the last reference to an identity locks the map.
        let identities: Vec<Arc<Identity>> =
            self.logins.iter().filter_map(|entry| entry.identity.upgrade()).collect();
        let ends = |identity: &&Arc<Identity>| !identity.has_ended() && condition(identity);
        let ended: Vec<_> = identities.iter().filter(ends).inspect(|identity| identity.end()).collect();
        if !ended.is_empty() {
            self.ended.notify_one();
        }
        ended.len()
    }

    /// Waits until an identity has ended since the last call.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    fn release(&self, key: &LoginKey, release: impl FnOnce(&mut Entry)) {
        self.logins.remove_if_mut(key, |_, entry| {
            release(entry);
            entry.reads == 0 && entry.identity.strong_count() == 0
        });
    }
}

impl SessionRead {
    /// The session was read, and contains this login. Connections of the same session get the same identity; if the login
    /// differs, the earlier identity ends.
    pub fn finish(self, login: LoginResult, watch: WatchGuard) -> SessionReadResult {
        let identities = &self.identities;
        // Declared before the entry, which is unlocked first: dropping the last reference to an identity locks the map.
        let earlier;
        let mut entry = identities.logins.entry(self.key.clone()).or_default();
        if entry.changes != self.changes {
            return SessionReadResult::Changed;
        }
        earlier = entry.identity.upgrade();
        if let Some(identity) = earlier.as_ref().filter(|identity| !identity.has_ended()) {
            if identity.has(&login.user, &login.fields) {
                return SessionReadResult::Known(Arc::clone(identity));
            }
            identity.end();
            identities.ended.notify_one();
        }
        let lease = EntryLease {
            identities: Arc::downgrade(identities),
            key: self.key.clone(),
            _watch: Some(watch),
            _lease: None,
        };
        let identity = Arc::new(Identity::leased(login, Box::new(lease)));
        entry.identity = Arc::downgrade(&identity);
        SessionReadResult::New(identity)
    }
}

impl Drop for SessionRead {
    fn drop(&mut self) {
        self.identities.release(&self.key, |entry| entry.reads = entry.reads.saturating_sub(1));
    }
}

impl Lease for EntryLease {}

impl Drop for EntryLease {
    fn drop(&mut self) {
        if let Some(identities) = self.identities.upgrade() {
            identities.release(&self.key, |_| {});
        }
    }
}

/// Receives the changes of the sessions in one store.
#[derive(Debug)]
pub struct SessionEvents {
    identities: Arc<Identities>,
    /// The login methods of this store.
    methods: Vec<Arc<SessionLogin>>,
}

impl SessionEvents {
    /// Passes changes of sessions of these methods on to the identities.
    pub fn new(identities: Arc<Identities>, methods: Vec<Arc<SessionLogin>>) -> Self {
        Self { identities, methods }
    }
}

impl KeyEvents for SessionEvents {
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>) {
        let key: Arc<[u8]> = key.into();
        for method in &self.methods {
            if !key.starts_with(method.key_prefix().as_bytes()) {
                continue;
            }
            if value.is_some_and(|value| !method.depends_on(value)) {
                continue;
            }
            let login = value.and_then(|value| method.read_value(value));
            let key = LoginKey::Session(method.index(), Arc::clone(&key));
            self.identities.on_change(&key, login.as_ref());
        }
    }
}
