//! Replies of the server. A push is a reply without a request.

use std::borrow::Cow;

use crate::{
    ConnectResult, ErrorCode, HistoryResult, PresenceResult, PresenceStatsResult, PublishResult, Push,
    RefreshResult, RpcResult, SubRefreshResult, SubscribeResult,
};

/// One reply of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The id of the command; 0 for pushes. A [`ReplyBody::Ping`] has no id on the wire.
    pub id: u32,
    /// The content.
    pub body: ReplyBody,
}

/// The content of a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyBody {
    /// The server's ping: an empty reply.
    Ping,
    /// The request failed.
    Error(ReplyError),
    /// A push.
    Push(Push),
    /// The session started.
    Connect(ConnectResult),
    /// The subscription started.
    Subscribe(SubscribeResult),
    /// The subscription ended.
    Unsubscribe,
    /// The publication was accepted.
    Publish(PublishResult),
    /// The subscribers of the channel.
    Presence(PresenceResult),
    /// The number of subscribers of the channel.
    PresenceStats(PresenceStatsResult),
    /// Past publications.
    History(HistoryResult),
    /// The reply to a client's ping.
    Pong,
    /// The result of an application method.
    Rpc(RpcResult),
    /// The connection was extended.
    Refresh(RefreshResult),
    /// The subscription was extended.
    SubRefresh(SubRefreshResult),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ReplyError {
    /// See [`ErrorCode`]; 400 to 1999 are defined by the application.
    pub code: u32,
    /// The message text.
    pub message: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub temporary: bool,
}

impl From<ErrorCode> for ReplyError {
    fn from(code: ErrorCode) -> Self {
        Self { code: code.code(), message: Cow::Borrowed(code.message()), temporary: code.is_temporary() }
    }
}
