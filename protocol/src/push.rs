//! Pushes: messages that the server sends without a request.

use bytes::Bytes;

use crate::{ClientInfo, Disconnect, Publication, SubscribeResult, UnsubscribeCode};

/// A push for a channel, or for the connection if the channel is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The channel.
    pub channel: String,
    /// The content.
    pub body: PushBody,
}

/// The content of a push.
#[derive(Clone, Debug, PartialEq)]
pub enum PushBody {
    /// A publication.
    Publication(Publication),
    /// A client joined the channel.
    Join(JoinLeavePush),
    /// A client left the channel.
    Leave(JoinLeavePush),
    /// The server ended the subscription.
    Unsubscribe(UnsubscribePush),
    /// A message of the application to this client.
    Message(MessagePush),
    /// The server started a subscription.
    Subscribe(SubscribePush),
    /// The session started, on transports without commands.
    Connect(ConnectPush),
    /// The server closes the connection, on transports without close codes.
    Disconnect(DisconnectPush),
    /// The expiry of the connection changed.
    Refresh(RefreshPush),
}

/// A client joined or left a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct JoinLeavePush {
    /// The client.
    pub info: ClientInfo,
}

/// The server ended the subscription.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct UnsubscribePush {
    /// Below 2500: the client stays unsubscribed. 2500 and above: it resubscribes.
    pub code: u32,
    /// The reason text.
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

/// The server started a subscription.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribePush {
    /// Whether the client can recover after a reconnect.
    pub recoverable: bool,
    /// The epoch of the channel's sequence.
    pub epoch: String,
    /// The offset before the first live publication.
    pub offset: u64,
    /// Whether positions are checked.
    pub positioned: bool,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
}

/// The session started; the fields are those of [`crate::ConnectResult`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectPush {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions, by channel.
    pub subs: Vec<(String, SubscribeResult)>,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until the connection expires.
    pub ttl: u32,
    /// Seconds between the server's pings.
    pub ping: u32,
    /// Whether the server expects pongs.
    pub pong: bool,
    /// The session id, for transports that require it.
    pub session: String,
    /// The node id, for transports that require it.
    pub node: String,
    /// The server time in milliseconds since 1970.
    pub time: i64,
}

/// The server closes the connection.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DisconnectPush {
    /// See [`Disconnect`].
    pub code: u32,
    /// The reason text.
    pub reason: String,
    /// Whether the client should reconnect.
    pub reconnect: bool,
}

impl From<Disconnect> for DisconnectPush {
    fn from(disconnect: Disconnect) -> Self {
        Self {
            code: u32::from(disconnect.code()),
            reason: disconnect.reason().to_owned(),
            reconnect: disconnect.should_reconnect(),
        }
    }
}

/// The expiry of the connection changed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RefreshPush {
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until the connection expires.
    pub ttl: u32,
}
