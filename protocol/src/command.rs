//! Commands of a client. Channel names are plain text here: an invalid name fails its command, not the frame.
//! Commands are validated by the session.

use bytes::Bytes;

/// One command of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Repeated in the reply; 0 if no reply is expected. A [`Request::Pong`] has no id on the wire.
    pub id: u32,
    /// The request.
    pub request: Request,
}

/// The request in a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Replies to a ping of the server: an empty command.
    Pong,
    /// Starts the session; always the first command.
    Connect(ConnectRequest),
    /// Subscribes to a channel.
    Subscribe(SubscribeRequest),
    /// Unsubscribes from a channel.
    Unsubscribe(UnsubscribeRequest),
    /// Publishes to a channel.
    Publish(PublishRequest),
    /// Requests the subscribers of a channel.
    Presence(PresenceRequest),
    /// Requests the number of subscribers of a channel.
    PresenceStats(PresenceStatsRequest),
    /// Requests past publications of a channel.
    History(HistoryRequest),
    /// Requests a pong.
    Ping,
    /// Sends a message to the application; no reply.
    Send(SendRequest),
    /// Calls a method of the application.
    Rpc(RpcRequest),
    /// Presents a new token for the connection.
    Refresh(RefreshRequest),
    /// Presents a new token for a subscription.
    SubRefresh(SubRefreshRequest),
}

/// Starts a session.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectRequest {
    /// The connection token.
    pub token: String,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions to recover, by channel, in the order received; a channel may occur twice.
    pub subs: Vec<(String, SubscribeRequest)>,
    /// The name of the client library, such as `js`.
    pub name: String,
    /// The client's version.
    pub version: String,
    /// Headers that the client could not set on the handshake.
    pub headers: Vec<(String, String)>,
}

/// Subscribes to a channel, optionally from a position.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribeRequest {
    /// The channel; empty inside [`ConnectRequest::subs`].
    pub channel: String,
    /// The subscription token.
    pub token: String,
    /// Whether `epoch` and `offset` are a position to recover from.
    pub recover: bool,
    /// The last epoch received.
    pub epoch: String,
    /// The last offset received.
    pub offset: u64,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Requests position checks.
    pub positioned: bool,
    /// Requests positions for recovery.
    pub recoverable: bool,
    /// Requests join and leave pushes.
    pub join_leave: bool,
    /// A delta compression that the client supports, such as `fossil`.
    pub delta: String,
    /// A filter by tags.
    pub tf: Option<TagsFilter>,
    /// Option bits of newer clients.
    pub flag: i64,
    /// The subscription type (`type`); 0 is a stream subscription.
    pub kind: i32,
}

/// A filter by tags. Only its presence is decoded: filters are not evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TagsFilter {}

/// Unsubscribes from a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct UnsubscribeRequest {
    /// The channel.
    pub channel: String,
}

/// Publishes to a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PublishRequest {
    /// The channel.
    pub channel: String,
    /// The payload: the JSON text unchanged, or the bytes. Empty if the field is missing.
    pub data: Bytes,
    /// The publication type (`type`); 0 is a stream publication.
    pub kind: i32,
}

/// Requests the subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceRequest {
    /// The channel.
    pub channel: String,
}

/// Requests the number of subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceStatsRequest {
    /// The channel.
    pub channel: String,
}

/// Requests past publications of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HistoryRequest {
    /// The channel.
    pub channel: String,
    /// The maximum number of publications; 0: only the top position; -1: the maximum of the server.
    pub limit: i32,
    /// The position to start after.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// A position as received from a client; the epoch is not validated.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Since {
    /// The offset.
    pub offset: u64,
    /// The epoch.
    pub epoch: String,
}

/// A message to the application.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SendRequest {
    /// The message: the JSON text unchanged, or the bytes.
    pub data: Bytes,
}

/// A call of an application method.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RpcRequest {
    /// The argument: the JSON text unchanged, or the bytes.
    pub data: Bytes,
    /// The name of the method.
    pub method: String,
}

/// A new token for the connection.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RefreshRequest {
    /// The token.
    pub token: String,
}

/// A new token for a subscription.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubRefreshRequest {
    /// The channel.
    pub channel: String,
    /// The token.
    pub token: String,
}
