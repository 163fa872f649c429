//! Credentials and questions of connected clients, and the results of their checks.

use std::fmt;
use std::sync::Arc;

use earshot_protocol::ChannelName;

use crate::auth::{ClientMeta, Identity, UnixSeconds};
use crate::hooks::{HookOutcome, HookQuestion, HookRequest};

/// Credentials that a client sends on a WebSocket. Contains secrets.
pub enum Credentials {
    /// With the connect command.
    Connect {
        /// The request of the handshake.
        client: Option<Box<ClientMeta>>,
        /// The token; empty: none.
        token: String,
    },
    /// A new token for the connection of this user.
    Refresh {
        /// The token.
        token: String,
        /// The user that the token must name.
        user: String,
    },
    /// A token for a subscription.
    Subscription {
        /// The token.
        token: String,
        /// The channel that the token must name.
        channel: ChannelName,
        /// The user that the token must name.
        user: String,
        /// The id of the client, if the token names one.
        client: String,
    },
    /// A question that a hook answers.
    Hook(Box<HookRequest>),
}

/// The result of a successful check.
#[derive(Debug)]
pub enum LoginOutcome {
    /// The client has this identity.
    Identity(Arc<Identity>),
    /// The client may subscribe to the channel of its token.
    Subscription {
        /// When the subscription expires.
        expires_at: Option<UnixSeconds>,
    },
    /// The answer of a hook.
    Hook(HookOutcome),
}

impl Credentials {
    /// The user of the client, if they ask the publish hook.
    pub fn publishing_user(&self) -> Option<&str> {
        match self {
            Self::Hook(request) if matches!(request.question, HookQuestion::Publish { .. }) => {
                Some(request.client.identity.user())
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect { .. } => "Connect",
            Self::Refresh { .. } => "Refresh",
            Self::Subscription { .. } => "Subscription",
            Self::Hook(_) => "Hook",
        })
    }
}
