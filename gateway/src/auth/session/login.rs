//! The login that a session contains.

use std::collections::BTreeMap;

use super::error::SessionError;
use super::id::SessionId;
use super::key::sha256_hex;
use super::value::{Resolved, TEXT_BYTES_MAX};

/// The number of hexadecimal digits in the user id of a session without a named user.
const UNNAMED_DIGITS: usize = 32;

/// A login that a session contains.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionLogin {
    /// The user id, not empty. A number is its decimal text.
    pub user: String,
    /// The configured fields that the session contains.
    pub fields: BTreeMap<String, FieldValue>,
}

/// The value of a field of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// A text; numbers and booleans as texts.
    Text(String),
    /// An array of such texts.
    List(Vec<String>),
}

impl SessionLogin {
    /// The login of a session whose value is not read. Its user id is derived from the session id, which it does not
    /// reveal.
    pub(super) fn unnamed(id: &SessionId) -> Self {
        let digest = sha256_hex(&format!("earshot session {}", id.as_str()));
        Self { user: format!("session-{}", &digest[..UNNAMED_DIGITS]), fields: BTreeMap::new() }
    }
}

impl std::fmt::Debug for SessionLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The user id: a number, or a text that is not empty.
///
/// # Errors
/// It is too long.
pub(super) fn user(resolved: Resolved) -> Result<Option<String>, SessionError> {
    match resolved {
        Resolved::Text(text) | Resolved::Number(text) if !text.is_empty() => Ok(Some(text)),
        Resolved::TooLong => Err(SessionError::UserTooLong(TEXT_BYTES_MAX)),
        Resolved::Text(_) | Resolved::Number(_) | Resolved::Bool(_) | Resolved::List(_) | Resolved::Other => {
            Ok(None)
        }
    }
}

/// The value of a field; `None` if it counts as absent.
pub(super) fn field(resolved: Resolved) -> Option<FieldValue> {
    match resolved {
        Resolved::List(elements) => Some(FieldValue::List(elements)),
        scalar => scalar.into_scalar().map(FieldValue::Text),
    }
}

/// The login of a key that contains only the user id.
///
/// # Errors
/// It is not UTF-8, or too long.
pub(super) fn from_text(user: Option<&[u8]>) -> Result<Option<SessionLogin>, SessionError> {
    let Some(user) = user else { return Ok(None) };
    let text = str::from_utf8(user).map_err(|_| SessionError::Malformed("UTF-8"))?;
    let user = self::user(Resolved::text(text))?;
    Ok(user.map(|user| SessionLogin { user, fields: BTreeMap::new() }))
}
