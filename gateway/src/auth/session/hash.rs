//! Sessions that are hashes: the first token of a pointer names a field, whose value is text or JSON.

use super::super::pointer::Pointer;
use super::error::SessionError;
use super::json::Json;
use super::value::{ITEMS_MAX, Resolved, SESSION_BYTES_MAX};

/// The fields of a hash, within the limits of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash<'v>(&'v [(Vec<u8>, Vec<u8>)]);

impl<'v> Hash<'v> {
    /// Checks the size.
    ///
    /// # Errors
    /// The hash has too many fields or bytes.
    pub(super) fn new(fields: &'v [(Vec<u8>, Vec<u8>)]) -> Result<Self, SessionError> {
        if fields.len() > ITEMS_MAX {
            return Err(SessionError::TooManyItems(ITEMS_MAX));
        }
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > SESSION_BYTES_MAX {
            Err(SessionError::TooLarge(SESSION_BYTES_MAX))
        } else {
            Ok(Self(fields))
        }
    }

    /// The value of the field whose name is `prefix` followed by `name`.
    pub(super) fn field(&self, prefix: &str, name: &str) -> Option<&'v [u8]> {
        let is_field =
            |field: &[u8]| field.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest == name.as_bytes());
        self.0.iter().find(|(field, _)| is_field(field)).map(|(_, value)| &value[..])
    }

    /// The value that a pointer names; `None` if there is none. A pointer of one token names the text of a field.
    ///
    /// # Errors
    /// The field is unreadable.
    pub(super) fn resolve(&self, pointer: &Pointer) -> Result<Option<Resolved>, SessionError> {
        let Some((name, rest)) = pointer.tokens().split_first() else { return Ok(None) };
        let Some(value) = self.field("", name) else { return Ok(None) };
        if rest.is_empty() {
            let text = str::from_utf8(value).map_err(|_| SessionError::Malformed("UTF-8"))?;
            return Ok(Some(Resolved::text(text)));
        }
        Ok(Json::parse(value)?.resolve_tokens(rest))
    }
}
