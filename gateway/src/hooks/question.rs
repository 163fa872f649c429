//! The questions for hooks, and their answers.

use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode};

use crate::auth::identity::LoginResult;
use crate::auth::{HookAnswer, Identity};

/// The client that a question is about. It contains secrets.
#[derive(Clone)]
pub struct HookedClient {
    /// Its id; empty before the connect command and for event streams.
    pub id: String,
    /// `websocket` or `sse`.
    pub transport: &'static str,
    /// Whether its payloads are bytes instead of JSON.
    pub is_binary: bool,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The fields of its request that are forwarded to hooks.
    pub forwarded: HeaderMap,
}

/// A question about a client.
#[derive(Debug)]
pub struct HookRequest {
    /// The client.
    pub client: HookedClient,
    /// The question.
    pub question: HookQuestion,
}

/// A question. It contains what the client sent.
pub enum HookQuestion {
    /// Who the client is.
    Connect {
        /// The token that the client sent; empty: none.
        token: String,
    },
    /// Whether the client may subscribe to each of these channels.
    Subscribe(Vec<ChannelQuestion>),
    /// Whether the client may publish, and with which payload.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The payload.
        data: Bytes,
    },
    /// The result of a method.
    Rpc {
        /// The method.
        method: String,
        /// The argument.
        data: Bytes,
    },
}

/// A channel that a client requests.
#[derive(Clone)]
pub struct ChannelQuestion {
    /// The channel.
    pub channel: ChannelName,
    /// The token that the client sent for it; empty: none.
    pub token: String,
    /// The data that the client sent for it.
    pub data: Option<Bytes>,
}

/// The answer to a question.
#[derive(Debug)]
pub enum HookOutcome {
    /// To [`HookQuestion::Connect`]: the login; without a user, it is none.
    Login(HookReply<LoginResult>),
    /// To [`HookQuestion::Subscribe`].
    Channels(ChannelAnswers),
    /// For [`HookQuestion::Publish`]: the replacement for the payload, if any.
    Publish(HookReply<Option<Bytes>>),
    /// To [`HookQuestion::Rpc`]: the result.
    Rpc(HookReply<Bytes>),
}

/// The reply of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookReply<T> {
    /// The hook permits it, or `T` states what it permits.
    Result(T),
    /// The hook denies it.
    Denied,
    /// The hook denies it, with an error for the client.
    Failed(HookFailure),
    /// The client is to be disconnected.
    Disconnect(HookDisconnect),
    /// There is no valid reply.
    Unavailable,
}

/// An error for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFailure {
    /// The code: one of the gateway (100 to 112), or one of the application (400 to 1999).
    pub code: u32,
    /// The text.
    pub message: String,
    /// Whether the same request may succeed later.
    pub is_temporary: bool,
}

/// A disconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookDisconnect {
    /// The close code: 3000 to 4999.
    pub code: u16,
    /// The reason; not empty.
    pub reason: String,
}

/// The answers for several channels.
#[derive(Clone, Debug, Default)]
pub struct ChannelAnswers(Vec<(ChannelName, HookReply<()>)>);

impl From<ErrorCode> for HookFailure {
    fn from(code: ErrorCode) -> Self {
        Self { code: code.code(), message: code.message().to_owned(), is_temporary: code.is_temporary() }
    }
}

impl<T> HookReply<T> {
    /// The answer as an input for the permission check.
    pub fn answer(&self) -> HookAnswer {
        match self {
            Self::Result(_) => HookAnswer::Allowed,
            Self::Denied | Self::Failed(_) | Self::Disconnect(_) => HookAnswer::Denied,
            Self::Unavailable => HookAnswer::Unavailable,
        }
    }
}

impl ChannelAnswers {
    /// Adds an answer.
    pub(super) fn push(&mut self, channel: ChannelName, reply: HookReply<()>) {
        self.0.push((channel, reply));
    }

    /// The reply for a channel, if the hook was asked.
    pub fn reply(&self, channel: &ChannelName) -> Option<&HookReply<()>> {
        self.0.iter().find(|(name, _)| name == channel).map(|(_, reply)| reply)
    }

    /// The answer for a channel, if the hook was asked.
    pub fn answer(&self, channel: &ChannelName) -> Option<HookAnswer> {
        self.reply(channel).map(HookReply::answer)
    }

    /// The first disconnect among the replies.
    pub fn disconnect(&self) -> Option<&HookDisconnect> {
        self.0.iter().find_map(|(_, reply)| match reply {
            HookReply::Disconnect(disconnect) => Some(disconnect),
            _ => None,
        })
    }
}

impl fmt::Debug for HookedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookedClient")
            .field("id", &self.id)
            .field("transport", &self.transport)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HookQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect { .. } => "Connect",
            Self::Subscribe(_) => "Subscribe",
            Self::Publish { .. } => "Publish",
            Self::Rpc { .. } => "Rpc",
        })
    }
}

impl fmt::Debug for ChannelQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelQuestion").field(&self.channel).finish()
    }
}
