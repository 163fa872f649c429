//! The value of a field in the hash of revocations.

use serde::{Deserialize, Serialize};

use super::super::UnixSeconds;
use super::ClientCommand;

/// The value of a field: JSON. The script that stores it writes the first two members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it is no longer in effect.
    pub until: UnixSeconds,
    /// When it was stored, in milliseconds since 1970.
    pub at: u64,
    /// For the field of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<ClientCommand>,
}

impl Record {
    /// The value of the field.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers only, so serialization cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Parses the value of a field. `None` if another version wrote it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}
