//! Results of commands, in replies and pushes.

use bytes::Bytes;

use crate::{ClientInfo, Publication};

/// The publication was accepted.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PublishResult {
    /// The publication reached only the clients of this node, because the broker is unavailable. An extension of the
    /// Centrifuge protocol.
    pub local: bool,
}

/// The session started.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectResult {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until the connection expires.
    pub ttl: u32,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Server-side subscriptions, by channel.
    pub subs: Vec<(String, SubscribeResult)>,
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

/// The subscription started.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubscribeResult {
    /// Whether the subscription expires.
    pub expires: bool,
    /// Seconds until the subscription expires.
    pub ttl: u32,
    /// Whether the client can recover after a reconnect.
    pub recoverable: bool,
    /// The epoch of the channel's sequence.
    pub epoch: String,
    /// The recovered publications.
    pub publications: Vec<Publication>,
    /// Whether the recovery is complete.
    pub recovered: bool,
    /// The offset before the first live publication; after a recovery, the offset that the client recovered from.
    pub offset: u64,
    /// Whether positions are checked.
    pub positioned: bool,
    /// Application data: JSON in the JSON encoding.
    pub data: Option<Bytes>,
    /// Whether the client requested a recovery.
    pub was_recovering: bool,
    /// Whether publications may be deltas.
    pub delta: bool,
}

/// The subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceResult {
    /// The clients by connection id.
    pub presence: Vec<(String, ClientInfo)>,
}

/// The number of subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PresenceStatsResult {
    /// The number of connections.
    pub num_clients: u32,
    /// The number of distinct users.
    pub num_users: u32,
}

/// Past publications.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HistoryResult {
    /// The publications.
    pub publications: Vec<Publication>,
    /// The epoch of the channel's sequence.
    pub epoch: String,
    /// The offset of the last publication.
    pub offset: u64,
}

/// The result of an application method.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RpcResult {
    /// The result: JSON in the JSON encoding; may be empty.
    pub data: Bytes,
}

/// The connection was extended.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RefreshResult {
    /// The id of the connection.
    pub client: String,
    /// The server's version.
    pub version: String,
    /// Whether the connection expires.
    pub expires: bool,
    /// Seconds until the connection expires.
    pub ttl: u32,
}

/// The subscription was extended.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubRefreshResult {
    /// Whether the subscription expires.
    pub expires: bool,
    /// Seconds until the subscription expires.
    pub ttl: u32,
}
