//! Owns what the server tells a client unasked, as values.
//! Must never know how many clients are told.

use bytes::Bytes;

use crate::{ClientInfo, Disconnect, Publication, SubscribeResult, UnsubscribeCode};

/// News of a channel, or of the connection where the channel is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The channel.
    pub channel: String,
    /// The news.
    pub body: PushBody,
}

/// The news in a push.
#[derive(Clone, Debug, PartialEq)]
pub enum PushBody {
    /// A publication.
    Publication(Publication),
    /// A client came into the channel.
    Join(MemberPush),
    /// A client left the channel.
    Leave(MemberPush),
    /// The subscription has ended.
    Unsubscribe(UnsubscribePush),
    /// A message of the application to this client.
    Message(MessagePush),
    /// A server-side subscription has begun.
    Subscribe(SubscribePush),
    /// The session has begun, on transports without commands.
    Connect(ConnectPush),
    /// The connection is about to end, on transports without close codes.
    Disconnect(DisconnectPush),
    /// The connection's lifetime has changed.
    Refresh(RefreshPush),
}

/// A client came or went.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MemberPush {
    /// The client.
    pub info: ClientInfo,
}

/// The subscription has ended.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct UnsubscribePush {
    /// Below 2500 the client leaves the channel; from 2500 on it subscribes again.
    pub code: u32,
    /// The same in words.
    pub reason: String,
}

impl From<UnsubscribeCode> for UnsubscribePush {
    fn from(code: UnsubscribeCode) -> Self {
        Self { code: code.code(), reason: code.reason().to_owned() }
    }
}

/// A message of the application.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MessagePush {
    /// The message: JSON in the JSON encoding.
    pub data: Bytes,
}

/// A server-side subscription has begun.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribePush {
    /// Whether a lost connection can be recovered from.
    pub recoverable: bool,
    /// The epoch of the channel's log.
    pub epoch: String,
    /// The position that live publications follow on.
    pub offset: u64,
    /// Whether positions are checked.
    pub positioned: bool,
    /// From the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
}

/// The session has begun; the fields are those of [`crate::ConnectResult`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectPush {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// From the application: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions, by channel.
    pub subs: Vec<(String, SubscribeResult)>,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
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

/// The connection is about to end.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DisconnectPush {
    /// See [`Disconnect`].
    pub code: u32,
    /// The same in words.
    pub reason: String,
    /// Whether the client should come back.
    pub reconnect: bool,
}

impl From<Disconnect> for DisconnectPush {
    fn from(disconnect: Disconnect) -> Self {
        Self {
            code: u32::from(disconnect.code()),
            reason: disconnect.reason().to_owned(),
            reconnect: disconnect.reconnects(),
        }
    }
}

/// The connection's lifetime has changed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RefreshPush {
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until it does.
    pub ttl: u32,
}
