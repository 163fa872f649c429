//! Commands of the API to connected clients.

use serde::{Deserialize, Serialize};

use super::super::UnixSeconds;

/// A command of the API to the connected clients of every node; executed once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCommand {
    /// The clients.
    #[serde(flatten)]
    pub selector: ClientSelector,
    /// The action for these clients.
    #[serde(flatten)]
    pub action: ClientAction,
}

/// The clients that a command applies to: those that match all given conditions. At least one condition is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSelector {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The client id, which only WebSocket clients have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// The action for the selected clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAction {
    /// Close the connection.
    Disconnect {
        /// The close code.
        code: u16,
        /// The reason, which fits a close frame.
        reason: String,
        /// Client ids that stay connected.
        #[serde(default)]
        whitelist: Vec<String>,
    },
    /// End the subscription to a channel.
    Unsubscribe {
        /// The channel.
        channel: String,
    },
    /// Change the expiry of the login.
    Refresh {
        /// The new time; one in the past ends the connection.
        expire_at: UnixSeconds,
    },
}

impl ClientSelector {
    /// Whether a client is selected; `client` is empty for an event stream.
    pub fn selects(&self, user: &str, client: &str) -> bool {
        let is = |expected: &Option<String>, found: &str| {
            expected.as_ref().is_none_or(|expected| !found.is_empty() && expected == found)
        };
        (self.user.is_some() || self.client.is_some()) && is(&self.user, user) && is(&self.client, client)
    }
}
