//! The identity of a client, as established by its login.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wildmatch::WildMatch;

use super::UnixSeconds;

/// The name of the placeholder for the user in channel patterns.
pub const USER: &str = "user";

/// How a client logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Not logged in, and clients without a login do not count as `anyone`.
    Guest,
    /// Not logged in, and clients without a login count as `anyone`.
    Anonymous,
    /// By a session, a token or a ticket.
    Verified,
    /// By an API key: a backend.
    Backend,
}

/// The identity of a client. All connections of one login share it. It never changes, but it may end.
pub struct Identity {
    login: Login,
    /// Empty: the login names no user.
    user: Box<str>,
    fields: Fields,
    /// The session or token that it comes from; for revocation.
    source: Option<LoginSource>,
    expires_at: Option<UnixSeconds>,
    /// When its token was issued.
    issued_at: Option<UnixSeconds>,
    /// Information for other clients, in addition to the user: JSON.
    info: Option<Bytes>,
    /// Channels that its token names.
    channels: TokenChannels,
    ended: AtomicBool,
    /// Dropped with the identity.
    #[expect(dead_code, reason = "it is dropped, not read")]
    lease: Option<Box<dyn Lease>>,
}

/// A resource that is released with the identity, such as the watch on its session.
pub trait Lease: Send + Sync {}

/// The fields of a session or the claims of a token that the configuration selects; each has one value or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<Box<str>, Box<[Box<str>]>>);

/// The session or token that a login depends on.
#[derive(Clone, PartialEq, Eq)]
pub enum LoginSource {
    /// A session in Redis.
    Session {
        /// The index of the login method.
        method: usize,
        /// The key. It is a secret: it names the session.
        key: Arc<[u8]>,
    },
    /// The token with this id (`jti`).
    Token {
        /// The id.
        id: Box<str>,
    },
    /// A ticket.
    Ticket {
        /// What the event ids of the stream contain after the cursor. It is a secret: with it, the spent ticket is
        /// accepted again.
        event_id_suffix: Box<str>,
    },
}

/// Channels that a token names: exact names, and globs that only grant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenChannels {
    names: Box<[Box<str>]>,
    globs: Box<[WildMatch]>,
}

/// The result of a login.
#[derive(Clone, Default)]
pub struct LoginResult {
    /// The user; empty: none.
    pub user: String,
    /// The selected fields.
    pub fields: Fields,
    /// The session or token.
    pub source: Option<LoginSource>,
    /// When it expires; `None` if it does not.
    pub expires_at: Option<UnixSeconds>,
    /// When the token was issued.
    pub issued_at: Option<UnixSeconds>,
    /// Information for other clients, in addition to the user: JSON.
    pub info: Option<Bytes>,
    /// Channels that the token names.
    pub channels: TokenChannels,
}

impl Identity {
    fn new(login: Login, result: LoginResult) -> Self {
        let LoginResult { user, fields, source, expires_at, issued_at, info, channels } = result;
        let (user, ended) = (user.into_boxed_str(), AtomicBool::new(false));
        Self { login, user, fields, source, expires_at, issued_at, info, channels, ended, lease: None }
    }

    /// A client without a login. `is_anyone`: the configuration contains `anonymous`, or no login at all.
    pub fn guest(is_anyone: bool) -> Self {
        let login = if is_anyone { Login::Anonymous } else { Login::Guest };
        Self::new(login, LoginResult::default())
    }

    /// A client without a login that counts as `anyone`, for tests.
    #[cfg(test)]
    pub(crate) fn anonymous() -> Arc<Self> {
        Arc::new(Self::guest(true))
    }

    /// A backend that uses the API.
    pub fn backend() -> Self {
        Self::new(Login::Backend, LoginResult::default())
    }

    /// The identity of a verified login; `lease` is dropped with it.
    pub fn leased(result: LoginResult, lease: Box<dyn Lease>) -> Self {
        Self { lease: Some(lease), ..Self::verified(result) }
    }

    /// The identity of a verified login.
    pub fn verified(result: LoginResult) -> Self {
        Self::new(Login::Verified, result)
    }

    /// How the client logged in.
    pub fn login(&self) -> Login {
        self.login
    }

    /// The user; empty if the login names none.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether the login names a user.
    pub fn is_authenticated(&self) -> bool {
        self.login == Login::Verified && !self.user.is_empty()
    }

    /// The session or token that the login depends on.
    pub fn source(&self) -> Option<&LoginSource> {
        self.source.as_ref()
    }

    /// Whether it comes from a ticket.
    pub fn is_ticket(&self) -> bool {
        matches!(self.source, Some(LoginSource::Ticket { .. }))
    }

    /// What the event ids of the client's streams contain after the cursor; empty: nothing.
    pub fn event_id_suffix(&self) -> &str {
        match &self.source {
            Some(LoginSource::Ticket { event_id_suffix }) => event_id_suffix,
            _ => "",
        }
    }

    /// When the login expires; `None` if it does not.
    pub fn expires_at(&self) -> Option<UnixSeconds> {
        self.expires_at
    }

    /// When its token was issued.
    pub fn issued_at(&self) -> Option<UnixSeconds> {
        self.issued_at
    }

    /// Information for other clients, in addition to the user: JSON.
    pub fn info(&self) -> Option<&Bytes> {
        self.info.as_ref()
    }

    /// The channels that its token names.
    pub fn token_channels(&self) -> &TokenChannels {
        &self.channels
    }

    /// The values of a field; `user` is the user. Empty if there are none.
    pub fn values<'a>(&'a self, name: &str) -> &'a [Box<str>] {
        match name {
            USER if !self.is_authenticated() => &[],
            USER => std::slice::from_ref(&self.user),
            name => self.fields.values(name),
        }
    }

    /// The fields that the configuration selects.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether it has this user and these fields.
    pub fn has(&self, user: &str, fields: &Fields) -> bool {
        *self.user == *user && self.fields == *fields
    }

    /// Passes everything that distinguishes logins to `add`, in parts. Two logins are equal only if their parts are.
    pub fn describe(&self, add: &mut impl FnMut(&[u8])) {
        add(&[self.login as u8]);
        add(self.user.as_bytes());
        match &self.source {
            None => add(b"none"),
            Some(LoginSource::Session { method, key }) => {
                add(b"session");
                add(&method.to_be_bytes());
                add(key);
            }
            Some(LoginSource::Token { id }) => {
                add(b"token");
                add(id.as_bytes());
            }
            Some(LoginSource::Ticket { event_id_suffix }) => {
                add(b"ticket");
                add(event_id_suffix.as_bytes());
            }
        }
        add(&self.expires_at.unwrap_or_default().to_be_bytes());
        add(self.info.as_deref().unwrap_or_default());
        for (name, values) in &self.fields.0 {
            add(name.as_bytes());
            add(&values.len().to_be_bytes());
            values.iter().for_each(|value| add(value.as_bytes()));
        }
        add(b"");
    }

    /// Whether another token with this identity grants exactly the same permissions.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.has(&other.user, &other.fields) && self.channels == other.channels
    }

    /// Whether it comes from a token, which can be replaced by another one.
    pub fn is_refreshable(&self) -> bool {
        self.login == Login::Verified && matches!(self.source, None | Some(LoginSource::Token { .. }))
    }

    /// The login has ended: the session is gone, or it was revoked.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the login has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sessions and claims are secrets of the client.
        f.debug_struct("Identity")
            .field("login", &self.login)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LoginSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { method, .. } => {
                f.debug_struct("Session").field("method", method).finish_non_exhaustive()
            }
            Self::Token { id } => f.debug_struct("Token").field("id", id).finish(),
            Self::Ticket { .. } => f.debug_struct("Ticket").finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for LoginResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginResult").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Fields {
    /// The values of a field.
    pub fn values(&self, name: &str) -> &[Box<str>] {
        self.0.get(name).map_or(&[], |values| values)
    }

    /// The fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Box<str>])> {
        self.0.iter().map(|(name, values)| (&**name, &**values))
    }
}

impl FromIterator<(String, Vec<String>)> for Fields {
    fn from_iter<T: IntoIterator<Item = (String, Vec<String>)>>(fields: T) -> Self {
        let boxed = |values: Vec<String>| values.into_iter().map(String::into_boxed_str).collect();
        Self(fields.into_iter().map(|(name, values)| (name.into_boxed_str(), boxed(values))).collect())
    }
}

impl TokenChannels {
    /// The channels of a claim: a name with `*` or `?` is a glob.
    pub fn new(channels: impl IntoIterator<Item = String>) -> Self {
        let (globs, names): (Vec<String>, Vec<String>) =
            channels.into_iter().partition(|name| name.contains(['*', '?']));
        let globs = globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { names: names.into_iter().map(String::into_boxed_str).collect(), globs }
    }

    /// Whether the token grants a channel.
    pub fn grant(&self, channel: &str) -> bool {
        self.names.iter().any(|name| **name == *channel)
            || self.globs.iter().any(|glob| glob.matches(channel))
    }

    /// The exact names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verified_user_has_the_value_user() {
        let result = LoginResult {
            user: "42".to_owned(),
            fields: [("tenant".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into_iter().collect(),
            ..LoginResult::default()
        };
        let identity = Identity::verified(result);
        assert_eq!(identity.values(USER).iter().map(|value| &**value).collect::<Vec<_>>(), ["42"]);
        assert_eq!(identity.values("tenant").len(), 2);
        assert!(identity.values("roles").is_empty());
        for identity in [
            Identity::guest(true),
            Identity::guest(false),
            Identity::backend(),
            Identity::verified(LoginResult::default()),
        ] {
            assert!(!identity.is_authenticated() && identity.values(USER).is_empty(), "{identity:?}");
        }
    }

    #[test]
    fn debug_output_contains_no_session() {
        let source = LoginSource::Session { method: 0, key: b"sess:secret"[..].into() };
        let identity =
            Identity::verified(LoginResult { source: Some(source.clone()), ..LoginResult::default() });
        assert!(!format!("{identity:?} {source:?}").contains("secret"));
    }

    #[test]
    fn a_token_grants_names_and_globs() {
        let channels = TokenChannels::new(["a".to_owned(), "room:*".to_owned()]);
        assert!(channels.grant("a") && channels.grant("room:1") && !channels.grant("ab"));
        assert_eq!(channels.names().collect::<Vec<_>>(), ["a"]);
    }
}
