//! Owns what the server answers, as values. A push is a reply that nobody asked for.
//! Must never decide what to answer.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{ClientInfo, ErrorCode, Publication, Push};

/// One reply of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The id of the command, 0 for pushes. A [`ReplyBody::Ping`] has none on the wire.
    pub id: u32,
    /// The answer.
    pub body: ReplyBody,
}

/// The answer in a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyBody {
    /// The server's ping: an empty reply.
    Ping,
    /// The request failed.
    Error(ReplyError),
    /// News for the client.
    Push(Push),
    /// The session has begun.
    Connect(ConnectResult),
    /// The subscription has begun.
    Subscribe(SubscribeResult),
    /// The subscription has ended.
    Unsubscribe,
    /// The publication is accepted.
    Publish(PublishResult),
    /// Who is in the channel.
    Presence(PresenceResult),
    /// How many are in the channel.
    PresenceStats(PresenceStatsResult),
    /// Past publications.
    History(HistoryResult),
    /// The answer to a client's ping.
    Pong,
    /// The application's answer.
    Rpc(RpcResult),
    /// The connection goes on.
    Refresh(RefreshResult),
    /// The subscription goes on.
    SubRefresh(SubRefreshResult),
}

/// The answer to a publish.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PublishResult {
    /// It reached the clients of this node alone: what is behind it is away. An addition to the Centrifuge protocol.
    pub local: bool,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ReplyError {
    /// See [`ErrorCode`]; 400 to 1999 are the application's own.
    pub code: u32,
    /// The same in words.
    pub message: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub temporary: bool,
}

impl From<ErrorCode> for ReplyError {
    fn from(code: ErrorCode) -> Self {
        Self { code: code.code(), message: Cow::Borrowed(code.message()), temporary: code.temporary() }
    }
}

/// The session has begun.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectResult {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
    /// From the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions, by channel.
    pub subs: Vec<(String, SubscribeResult)>,
    /// Seconds between the server's pings.
    pub ping: u32,
    /// Whether the server expects pongs.
    pub pong: bool,
    /// The session, for transports that need to name it.
    pub session: String,
    /// The node, for transports that need to name it.
    pub node: String,
    /// The server's clock, in milliseconds since 1970.
    pub time: i64,
}

/// The subscription has begun.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribeResult {
    /// Whether the subscription expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
    /// Whether a lost connection can be recovered from.
    pub recoverable: bool,
    /// The epoch of the channel's log.
    pub epoch: String,
    /// What was missed.
    pub publications: Vec<Publication>,
    /// Whether nothing else was missed.
    pub recovered: bool,
    /// The position that live publications follow on, or, after a recovery, the one asked from.
    pub offset: u64,
    /// Whether positions are checked.
    pub positioned: bool,
    /// From the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Whether a recovery was tried.
    pub was_recovering: bool,
    /// Whether publications may be deltas.
    pub delta: bool,
}

/// Who is in the channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceResult {
    /// The clients, by connection id.
    pub presence: Vec<(String, ClientInfo)>,
}

/// How many are in the channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceStatsResult {
    /// Connections.
    pub num_clients: u32,
    /// Users.
    pub num_users: u32,
}

/// Past publications.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HistoryResult {
    /// The publications.
    pub publications: Vec<Publication>,
    /// The epoch of the channel's log.
    pub epoch: String,
    /// The top of the log.
    pub offset: u64,
}

/// The application's answer.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RpcResult {
    /// The answer: JSON in the JSON encoding. Empty if there is none.
    pub data: Bytes,
}

/// The connection goes on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RefreshResult {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
}

/// The subscription goes on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubRefreshResult {
    /// Whether the subscription expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
}
