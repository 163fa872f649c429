//! `kind` in a login, and the keys that each kind has.
//!
//! Owns these names. Must never read the value of another key.

use crate::auth::session::SessionKind;
use crate::config::reader::Section;
use crate::config::reader::setting::quote;

/// The kind of clients without a login.
const ANONYMOUS: &str = "anonymous";
/// The kind of tokens.
const JWT: &str = "jwt";
/// The kind of logins by a hook.
const HOOK: &str = "hook";
/// The kind of tickets.
const TICKET: &str = "ticket";

/// A value of `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginKind {
    /// The sessions of a library or framework.
    Session(SessionKind),
    /// JSON Web Tokens.
    Jwt,
    /// Tickets.
    Ticket,
    /// A hook of the application.
    Hook,
    /// No login.
    Anonymous,
}

/// Every key except `kind`.
pub(in crate::config) const KEYS: [&str; 20] = [
    "touch",
    "cookie",
    "secret_file",
    "secret",
    "redis",
    "key",
    "user",
    "fields",
    "hash",
    "user_key",
    "hmac_secret_file",
    "hmac_secret",
    "public_key_file",
    "jwks_url",
    "issuer",
    "audience",
    "user_claim",
    "leeway",
    "denied_key",
    "key_prefix",
];

impl LoginKind {
    fn all() -> impl Iterator<Item = Self> {
        let others = [Self::Jwt, Self::Ticket, Self::Hook, Self::Anonymous];
        SessionKind::ALL.into_iter().map(Self::Session).chain(others)
    }

    /// The value in the file.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Session(kind) => kind.name(),
            Self::Jwt => JWT,
            Self::Ticket => TICKET,
            Self::Hook => HOOK,
            Self::Anonymous => ANONYMOUS,
        }
    }

    /// All values, for messages.
    pub(super) fn names() -> String {
        Self::all().map(|kind| format!("\"{}\"", kind.as_str())).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(kind) = Self::all().find(|kind| kind.as_str() == text) {
            return Ok(kind);
        }
        let found = quote(&text.escape_debug().to_string(), "\"");
        Err(format!("unknown kind {found}; use one of {}", Self::names()))
    }

    /// Whether a login of this kind has the key.
    fn has_key(self, key: &str) -> bool {
        match (self, key) {
            (Self::Session(_), "cookie" | "redis" | "key" | "touch") => true,
            (Self::Session(kind), "secret_file" | "secret") => kind.is_signed(),
            (Self::Session(kind), "user" | "fields") => kind != SessionKind::Exists,
            (Self::Session(kind), "hash") => kind == SessionKind::Plain,
            (Self::Session(kind), "user_key") => kind == SessionKind::Exists,
            (Self::Jwt, "fields" | "hmac_secret_file" | "hmac_secret" | "public_key_file") => true,
            (Self::Jwt, "cookie" | "jwks_url" | "issuer" | "audience" | "user_claim" | "leeway") => true,
            (Self::Jwt, "denied_key" | "redis") => true,
            (Self::Ticket, "secret_file" | "secret" | "redis" | "key_prefix") => true,
            _ => false,
        }
    }
}

/// Rejects the keys that do not apply to the kind. If the kind is invalid, all keys are valid: another kind may have them.
pub(super) fn reject_inapplicable(section: &mut Section<'_>, kind: Option<LoginKind>) {
    for key in KEYS.into_iter().filter(|key| !kind.is_some_and(|kind| kind.has_key(key))) {
        // Marks the key as known.
        let (Some(found), Some(kind)) = (section.value(key), kind) else { continue };
        let reason = match kind {
            LoginKind::Session(kind) if key.starts_with("secret") && !kind.is_signed() => {
                ", whose cookies are not signed"
            }
            _ => "",
        };
        let what = format!("does not apply to kind = \"{}\"{reason}: remove it", kind.as_str());
        section.error(&found.location, what);
    }
}
