//! Login by a session that an application keeps in Redis.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;

use super::{FileBacked, SessionTouch};
use crate::auth::identity::{LoginResult, LoginSource};
use crate::auth::session::{FieldValue, ReadKind, Secrets, SessionFormat, SessionId, SessionValue};
use crate::auth::{ClientMeta, Identity};
use crate::store::{KeyStore, KeyType, KeyValue, StoreError, WatchGuard};

/// A login method whose sessions are in a store.
#[derive(Debug)]
pub struct SessionLogin {
    /// The index of the method.
    index: usize,
    format: SessionFormat,
    /// Empty for kinds that are not signed.
    secrets: Arc<FileBacked<Secrets>>,
    /// Keeps its sessions alive, if configured.
    touch: Option<Arc<SessionTouch>>,
}

/// A session that was read.
#[derive(Debug)]
pub(super) struct FoundSession {
    pub(super) login: LoginResult,
    pub(super) watch: WatchGuard,
    /// The TTL of its key; `None` if it does not expire.
    pub(super) expires_in: Option<Duration>,
}

impl SessionLogin {
    /// The login method with this index. `touch` keeps its sessions alive.
    pub fn new(
        index: usize,
        format: SessionFormat,
        secrets: Arc<FileBacked<Secrets>>,
        touch: Option<Arc<SessionTouch>>,
    ) -> Self {
        Self { index, format, secrets, touch }
    }

    /// Keeps the session of a new identity alive, if that is configured.
    pub(super) fn keep_alive(
        &self,
        store: &Arc<KeyStore>,
        key: Vec<u8>,
        expires_in: Option<Duration>,
        identity: &Arc<Identity>,
    ) {
        if let (Some(touch), Some(ttl)) = (&self.touch, expires_in) {
            touch.keep_alive(store, key, ttl, identity);
        }
    }

    /// The index of the method.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The common prefix of the keys of its sessions.
    pub fn key_prefix(&self) -> &str {
        self.format.key_prefix()
    }

    /// Whether a client has a cookie that may name a session.
    pub(super) fn finds_cookie(&self, client: &ClientMeta) -> bool {
        self.format.has_cookie(client.cookies().map(HeaderValue::as_bytes))
    }

    /// The session that the cookies of a client name, if its signature and form are valid.
    pub(super) fn session_id(&self, client: &ClientMeta) -> Option<SessionId> {
        let cookies = client.cookies().map(HeaderValue::as_bytes);
        self.format.session_id(cookies, &self.secrets.value())
    }

    /// The key of the session with this id, as its application knows it.
    pub(super) fn key_of(&self, id: &str) -> Option<Vec<u8>> {
        self.format.key_of(id)
    }

    /// The key of a session.
    pub(super) fn key(&self, id: &SessionId) -> Vec<u8> {
        self.format.key(id)
    }

    /// Reads a session and watches it. `None` if it does not exist or is not a login.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) async fn read(
        &self,
        store: &KeyStore,
        id: &SessionId,
        key: &[u8],
    ) -> Result<Option<FoundSession>, StoreError> {
        let (value, expires_in, watch) = match store.read_and_watch_with_ttl(key, self.key_type()).await {
            // A key of another type is not a session of this method.
            Err(StoreError::WrongType) => return Ok(None),
            read => read?,
        };
        let Some(value) = value else { return Ok(None) };
        let login = match self.format.user_key(id) {
            Some(user_key) => {
                let user = store.read(&user_key, KeyType::String).await?;
                let user = user.as_ref().and_then(as_bytes);
                self.parse(&SessionValue::Exists { id, user })
            }
            None if self.format.read() == ReadKind::Exists => {
                self.parse(&SessionValue::Exists { id, user: None })
            }
            None => self.read_value(&value),
        };
        Ok(login.map(|login| {
            let source = Some(LoginSource::Session { method: self.index, key: key.into() });
            FoundSession { login: LoginResult { source, ..login }, watch, expires_in }
        }))
    }

    /// The login that the value of a key contains. `None` if it is not a login.
    pub(super) fn read_value(&self, value: &KeyValue) -> Option<LoginResult> {
        match value {
            KeyValue::Bytes(bytes) => self.parse(&SessionValue::String(bytes)),
            KeyValue::Hash(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                self.parse(&SessionValue::Hash(&fields))
            }
            KeyValue::Present | KeyValue::OtherType => None,
        }
    }

    /// Whether this value decides who is logged in: a method that cannot read values depends only on the key's existence,
    /// and for the others a key that exists with an unknown value is no change.
    pub(super) fn depends_on(&self, value: &KeyValue) -> bool {
        self.format.read() != ReadKind::Exists && *value != KeyValue::Present
    }

    fn key_type(&self) -> KeyType {
        match self.format.read() {
            ReadKind::Get => KeyType::String,
            ReadKind::HashGetAll => KeyType::Hash,
            ReadKind::Exists => KeyType::Exists,
        }
    }

    fn parse(&self, value: &SessionValue<'_>) -> Option<LoginResult> {
        let parsed = self.format.parse(value, &self.secrets.value());
        let login = parsed.unwrap_or_else(|error| {
            let kind = self.format.kind();
            tracing::debug!(%kind, %error, "session cannot be read and counts as no login");
            None
        })?;
        let values = |value| match value {
            FieldValue::Text(text) => vec![text],
            FieldValue::List(texts) => texts,
        };
        let fields = login.fields.into_iter().map(|(name, value)| (name, values(value))).collect();
        Some(LoginResult { user: login.user, fields, ..LoginResult::default() })
    }
}

fn as_bytes(value: &KeyValue) -> Option<&[u8]> {
    match value {
        KeyValue::Bytes(bytes) => Some(bytes),
        KeyValue::Hash(_) | KeyValue::Present | KeyValue::OtherType => None,
    }
}
