//! Revocations: logins that are no longer valid, and API commands to connected clients.  Owns their form in the shared
//! hash, and which login each revocation concerns. Pure.
//!
//! - [`RevokedLogin`]: the login that a revocation names, and its field in the hash; [`Record`]: the value of a field.
//! - [`ClientCommand`]: a command of the API to connected clients, executed once.
//! - [`RevocationTable`]: all revocations that are in effect.

mod command;
mod record;
mod table;
#[cfg(test)]
mod tests;

pub use command::{ClientAction, ClientCommand, ClientSelector};
pub use record::Record;
pub use table::{MergeResult, RevocationTable};

use std::fmt;

use ring::digest;

/// Starts the field of a user.
const USER: &str = "user:";
/// Starts the field of a token.
const TOKEN: &str = "token:";
/// Starts the field of a session.
const SESSION: &str = "session:";
/// Starts the field of a command.
const COMMAND: &str = "command:";

/// The logins that one revocation concerns.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum RevokedLogin {
    /// All logins of a user before the revocation.
    User(Box<str>),
    /// The token with this id (`jti`).
    Token(Box<str>),
    /// The session whose key has this SHA-256. The key itself is a secret, and is not stored.
    Session(Box<[u8]>),
}

impl RevokedLogin {
    /// The session with this key.
    pub fn session(key: &[u8]) -> Self {
        Self::Session(digest::digest(&digest::SHA256, key).as_ref().into())
    }

    /// Its field in the hash.
    pub fn field(&self) -> Vec<u8> {
        match self {
            Self::User(user) => [USER, user].concat().into_bytes(),
            Self::Token(id) => [TOKEN, id].concat().into_bytes(),
            Self::Session(digest) => [SESSION.as_bytes(), digest].concat(),
        }
    }

    /// Parses a field. `None` for the field of a command, and for one of another version.
    fn from_field(field: &[u8]) -> Option<Self> {
        if let Some(digest) = field.strip_prefix(SESSION.as_bytes()) {
            return Some(Self::Session(digest.into()));
        }
        let text = std::str::from_utf8(field).ok()?;
        let user = text.strip_prefix(USER).map(|user| Self::User(user.into()));
        user.or_else(|| text.strip_prefix(TOKEN).map(|id| Self::Token(id.into())))
    }
}

impl fmt::Debug for RevokedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "User({user:?})"),
            Self::Token(id) => write!(f, "Token({id:?})"),
            Self::Session(_) => f.write_str("Session(***)"),
        }
    }
}

/// The field of a command with this number, which must be different for each command.
pub fn command_field(number: &str) -> Vec<u8> {
    [COMMAND, number].concat().into_bytes()
}
