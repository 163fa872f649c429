//! Sessions that applications keep in Redis: the formats of cookies, keys and values.
//!
//! Pure: no Redis, no clock. A [`SessionFormat`] finds the session id in the cookies of a request, names its key, and
//! reads the value of the key. An existing session is not a login by itself: its user must resolve.
//!
//! - [`SessionKind`]: the libraries and frameworks, with their default settings.
//! - [`Secrets`]: verifies the signatures of cookies.
//! - `signed`, `id`, `key`: from the value of the cookie to the key.
//! - `json`, `msgpack`, `pickle`, `php`, `java`: readers of data. They execute nothing, build no object, and are bounded
//!   in size, depth and memory. `serialization` detects the format.
//! - `compression`, `laravel`, `spring`, `hash`: the envelopes of the data.

mod compression;
mod error;
#[cfg(test)]
mod fixtures;
mod hash;
mod id;
mod java;
#[cfg(test)]
mod java_fixtures;
mod json;
mod key;
mod kind;
mod laravel;
mod login;
mod msgpack;
mod php;
mod pickle;
mod secrets;
mod serialization;
mod signed;
mod spring;
mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::cookie;
use super::pointer::Pointer;
use hash::Hash;
use json::Json;
use key::KeyTemplate;
use serialization::Document;
use value::{Resolved, SESSION_BYTES_MAX};

pub use error::{SessionError, SessionFormatError};
pub use id::SessionId;
pub use kind::{SessionDefaults, SessionKind};
pub use login::{FieldValue, SessionLogin};
pub use secrets::Secrets;

/// The settings of a [`SessionFormat`], as configured. `None` means the default of the kind.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The library or framework.
    pub kind: SessionKind,
    /// The name of the cookie.
    pub cookie: Option<String>,
    /// The key, with `{sid}` for the session id, or `{sid_sha256}` for its SHA-256 in hexadecimal digits.
    pub key: Option<String>,
    /// The JSON pointer to the user id.
    pub user: Option<String>,
    /// Names of fields, and the JSON pointers to their values.
    pub fields: BTreeMap<String, String>,
    /// Whether the sessions of kind `plain` are hashes.
    pub is_hash: bool,
    /// For the kind `exists`, the key of a text that is the user id, with `{sid}`.
    pub user_key: Option<String>,
}

impl SessionSettings {
    /// The default settings of a kind.
    pub fn new(kind: SessionKind) -> Self {
        Self {
            kind,
            cookie: None,
            key: None,
            user: None,
            fields: BTreeMap::new(),
            is_hash: false,
            user_key: None,
        }
    }
}

/// How the value of a session's key is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// By GET.
    Get,
    /// By HGETALL.
    HashGetAll,
    /// By EXISTS, and GET of [`SessionFormat::user_key`] if there is one.
    Exists,
}

/// The content of a session's key in Redis. A key that does not exist is not parsed: it is not a session.
#[derive(Clone, Copy, Debug)]
pub enum SessionValue<'v> {
    /// A string.
    String(&'v [u8]),
    /// The fields and values of a hash.
    Hash(&'v [(Vec<u8>, Vec<u8>)]),
    /// Anything, for [`ReadKind::Exists`].
    Exists {
        /// The session id.
        id: &'v SessionId,
        /// The content of [`SessionFormat::user_key`].
        user: Option<&'v [u8]>,
    },
}

/// How the sessions of one `[[login]]` are found and read. Immutable, without secrets.
#[derive(Clone, Debug)]
pub struct SessionFormat {
    kind: SessionKind,
    /// The configured name, and the names that the library derives from it.
    cookies: Vec<String>,
    key: KeyTemplate,
    user_key: Option<KeyTemplate>,
    /// The first of these that resolves is the user.
    users: Vec<Pointer>,
    fields: Vec<(String, Pointer)>,
    is_hash: bool,
}

impl SessionFormat {
    /// Checks settings, and completes them with the defaults of the kind.
    ///
    /// # Errors
    /// A setting is invalid, missing, or does not apply to the kind.
    pub fn new(settings: SessionSettings) -> Result<Self, SessionFormatError> {
        let SessionSettings { kind, cookie, key, user, fields, is_hash, user_key } = settings;
        let defaults = kind.defaults();
        let required = |value: Option<String>, default: Option<&str>, setting| {
            let value = value.or_else(|| default.map(str::to_owned));
            value.ok_or(SessionFormatError::Missing { setting, kind: kind.name() })
        };
        let not_applicable = |setting| Err(SessionFormatError::NotApplicable { setting, kind: kind.name() });
        let exists = kind == SessionKind::Exists;
        match () {
            () if is_hash && kind != SessionKind::Plain => return not_applicable("hash"),
            () if user_key.is_some() && !exists => return not_applicable("user_key"),
            () if user.is_some() && exists => return not_applicable("user"),
            () if !fields.is_empty() && exists => return not_applicable("fields"),
            () => {}
        }
        let cookie = required(cookie, defaults.cookie, "cookie")?;
        if !cookie::is_name(&cookie) {
            return Err(SessionFormatError::CookieName(cookie));
        }
        let template = |text: &str| KeyTemplate::parse(text, kind.is_signed());
        let key = template(&required(key, defaults.key, "key")?)?;
        let users: Vec<&str> = user.as_deref().map_or(defaults.user.to_vec(), |user| vec![user]);
        if users.is_empty() && !exists {
            return Err(SessionFormatError::Missing { setting: "user", kind: kind.name() });
        }
        let fields =
            fields.into_iter().map(|(name, pointer)| Pointer::parse(&pointer).map(|pointer| (name, pointer)));
        Ok(Self {
            kind,
            cookies: cookie_names(kind, cookie),
            key,
            user_key: user_key.as_deref().map(template).transpose()?,
            users: users.into_iter().map(Pointer::parse).collect::<Result<_, _>>()?,
            fields: fields.collect::<Result<_, _>>()?,
            is_hash,
        })
    }

    /// The kind of the sessions.
    pub fn kind(&self) -> SessionKind {
        self.kind
    }

    /// Whether a request has a cookie that may name a session. Costs no cryptography.
    ///
    /// `cookies` are the values of the `Cookie` header fields.
    pub fn has_cookie<'c>(&self, cookies: impl Iterator<Item = &'c [u8]>) -> bool {
        cookie::values(cookies, &self.cookies).next().is_some()
    }

    /// The id of the session that the cookies of a request name: of the cookies of the configured name, the first whose
    /// signature is verified, or whose unsigned id has the right form.
    ///
    /// `cookies` are the values of the `Cookie` header fields.
    pub fn session_id<'c>(
        &self,
        cookies: impl Iterator<Item = &'c [u8]>,
        secrets: &Secrets,
    ) -> Option<SessionId> {
        cookie::values(cookies, &self.cookies).find_map(|(name, value)| {
            let value = cookie::decode(value)?;
            match self.kind {
                SessionKind::Express => signed::express(&value, secrets),
                SessionKind::Fastify => signed::fastify(&value, secrets),
                SessionKind::BetterAuth => signed::better_auth(&value, secrets),
                SessionKind::Django => SessionId::django(&value),
                SessionKind::Plain | SessionKind::Exists => SessionId::open(&value),
                SessionKind::Laravel => laravel::session_id(name, &value, secrets),
                SessionKind::Spring => spring::session_id(&value),
            }
        })
    }

    /// The Redis key of a session.
    pub fn key(&self, id: &SessionId) -> Vec<u8> {
        self.key.key(id)
    }

    /// The Redis key of the session with this id, as its application knows it. `None` if no id has this form.
    pub fn key_of(&self, id: &str) -> Option<Vec<u8>> {
        SessionId::new(id).map(|id| self.key.key(&id))
    }

    /// The common prefix of all session keys. Empty if the configured key starts with the placeholder.
    pub fn key_prefix(&self) -> &str {
        self.key.prefix()
    }

    /// The Redis key of a text that is the user id of a session, for the kind `exists`, if it is configured.
    pub fn user_key(&self, id: &SessionId) -> Option<Vec<u8>> {
        self.user_key.as_ref().map(|template| template.key(id))
    }

    /// How the value of the key is read.
    pub fn read(&self) -> ReadKind {
        match self.kind {
            SessionKind::Exists => ReadKind::Exists,
            SessionKind::Spring => ReadKind::HashGetAll,
            SessionKind::Plain if self.is_hash => ReadKind::HashGetAll,
            _ => ReadKind::Get,
        }
    }

    /// Reads the value of a session's key; `None` if the session has no user, as before a login.
    ///
    /// # Errors
    /// The value is unreadable, which is not a login either. The error has no content of the session.
    pub fn parse(
        &self,
        value: &SessionValue<'_>,
        secrets: &Secrets,
    ) -> Result<Option<SessionLogin>, SessionError> {
        match (value, self.read()) {
            (SessionValue::Exists { id, user }, ReadKind::Exists) => match self.user_key {
                Some(_) => login::from_text(*user),
                None => Ok(Some(SessionLogin::unnamed(id))),
            },
            (SessionValue::Hash(fields), ReadKind::HashGetAll) => self.parse_hash(fields),
            (SessionValue::String(bytes), ReadKind::Get) => self.parse_string(bytes, secrets),
            (_, ReadKind::Exists) => Err(SessionError::RedisType("any")),
            (_, ReadKind::HashGetAll) => Err(SessionError::RedisType("hash")),
            (_, ReadKind::Get) => Err(SessionError::RedisType("string")),
        }
    }

    fn parse_string(&self, bytes: &[u8], secrets: &Secrets) -> Result<Option<SessionLogin>, SessionError> {
        if bytes.len() > SESSION_BYTES_MAX {
            return Err(SessionError::TooLarge(SESSION_BYTES_MAX));
        }
        let bytes = match self.kind {
            SessionKind::Django => compression::decompress(bytes)?,
            SessionKind::Laravel => laravel::session(bytes, secrets)?,
            _ => Cow::Borrowed(bytes),
        };
        let document = match self.kind {
            SessionKind::Django | SessionKind::Plain => Document::detect(&bytes)?,
            SessionKind::Laravel if !bytes.starts_with(b"{") => Document::Decoded(php::decode(&bytes)?),
            _ => Document::Json(Json::parse(&bytes)?),
        };
        self.login(|pointer| Ok(document.resolve(pointer)))
    }

    fn parse_hash(&self, fields: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<SessionLogin>, SessionError> {
        let hash = Hash::new(fields)?;
        match self.kind {
            SessionKind::Spring if spring::is_deleted(&hash)? => Ok(None),
            SessionKind::Spring => self.login(|pointer| spring::resolve(&hash, pointer)),
            _ => self.login(|pointer| hash.resolve(pointer)),
        }
    }

    fn login(
        &self,
        resolve: impl Fn(&Pointer) -> Result<Option<Resolved>, SessionError>,
    ) -> Result<Option<SessionLogin>, SessionError> {
        for pointer in &self.users {
            let Some(user) = resolve(pointer)?.map(login::user).transpose()?.flatten() else { continue };
            // A field that is unreadable is absent.
            let field = |pointer| login::field(resolve(pointer).ok()??);
            let fields =
                self.fields.iter().filter_map(|(name, pointer)| Some((name.clone(), field(pointer)?)));
            return Ok(Some(SessionLogin { user, fields: fields.collect() }));
        }
        Ok(None)
    }
}

/// The names under which the cookie is sent: better-auth adds a prefix where the site uses HTTPS.
fn cookie_names(kind: SessionKind, cookie: String) -> Vec<String> {
    let is_prefixed = cookie.starts_with("__Secure-") || cookie.starts_with("__Host-");
    match kind {
        SessionKind::BetterAuth if !is_prefixed => vec![format!("__Secure-{cookie}"), cookie],
        _ => vec![cookie],
    }
}

#[cfg(test)]
mod tests;
