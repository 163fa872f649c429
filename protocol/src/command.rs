//! Owns what a client asks for, as values. Channel names are plain text here: whether one is well
//! formed is a matter of the reply, not of the frame.
//! Must never judge a request; that is for the rules of the session.

use bytes::Bytes;

/// One command of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Repeated in the reply; 0 where none is due. A [`Request::Pong`] has none on the wire.
    pub id: u32,
    /// What is asked for.
    pub request: Request,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The answer to a ping of the server: an empty command.
    Pong,
    /// Begins the session; always the first command.
    Connect(ConnectRequest),
    /// Begins to hear a channel.
    Subscribe(SubscribeRequest),
    /// Ceases to hear a channel.
    Unsubscribe(UnsubscribeRequest),
    /// Publishes into a channel.
    Publish(PublishRequest),
    /// Who is in a channel.
    Presence(PresenceRequest),
    /// How many are in a channel.
    PresenceStats(PresenceStatsRequest),
    /// Past publications of a channel.
    History(HistoryRequest),
    /// A sign of life that is answered.
    Ping,
    /// A message to the application that is not answered.
    Send(SendRequest),
    /// A call to the application.
    Rpc(RpcRequest),
    /// A new token for the connection.
    Refresh(RefreshRequest),
    /// A new token for a subscription.
    SubRefresh(SubRefreshRequest),
}

/// The session's beginning.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectRequest {
    /// The connection token.
    pub token: String,
    /// For the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions to recover, by channel, in the order as written; a channel may come twice.
    pub subs: Vec<(String, SubscribeRequest)>,
    /// What kind of client this is, such as `js`.
    pub name: String,
    /// The client's version.
    pub version: String,
    /// Headers that the client could not set on the handshake.
    pub headers: Vec<(String, String)>,
}

/// A subscription, perhaps with the position to take up from.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribeRequest {
    /// The channel; empty inside [`ConnectRequest::subs`].
    pub channel: String,
    /// The subscription token.
    pub token: String,
    /// Whether `epoch` and `offset` are a position to recover from.
    pub recover: bool,
    /// The epoch last seen.
    pub epoch: String,
    /// The offset last seen.
    pub offset: u64,
    /// For the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Asks for positions to be checked.
    pub positioned: bool,
    /// Asks for positions that can be recovered from.
    pub recoverable: bool,
    /// Asks for join and leave pushes.
    pub join_leave: bool,
    /// A compression that the client offers, such as `fossil`.
    pub delta: String,
    /// A filter by tags.
    pub tf: Option<TagsFilter>,
    /// Bits that newer clients set.
    pub flag: i64,
    /// What kind of subscription (`type`): 0 for an ordinary one.
    pub kind: i32,
}

/// A filter by tags. Only its presence is kept: no filter is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TagsFilter {}

/// A subscription's end.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct UnsubscribeRequest {
    /// The channel.
    pub channel: String,
}

/// A publication by a client.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PublishRequest {
    /// The channel.
    pub channel: String,
    /// What to publish: the JSON text as written, or the bytes. Empty if there was none.
    pub data: Bytes,
    /// What kind of publication (`type`): 0 for an ordinary one.
    pub kind: i32,
}

/// A question for who is in a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceRequest {
    /// The channel.
    pub channel: String,
}

/// A question for how many are in a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceStatsRequest {
    /// The channel.
    pub channel: String,
}

/// A question for past publications.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HistoryRequest {
    /// The channel.
    pub channel: String,
    /// How many at most; 0: only the top position; -1: as many as the server gives.
    pub limit: i32,
    /// From where on.
    pub since: Option<Since>,
    /// From new to old.
    pub reverse: bool,
}

/// A position as a client gives it, whose epoch may be of any form.
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
    /// The message: the JSON text as written, or the bytes.
    pub data: Bytes,
}

/// A call to the application.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RpcRequest {
    /// The argument: the JSON text as written, or the bytes.
    pub data: Bytes,
    /// The name of what is called.
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
