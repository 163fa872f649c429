//! A publication on the wire, and the client that published it.

use bytes::Bytes;

use crate::Payload;

/// A publication of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Publication {
    /// The payload.
    pub data: Payload,
    /// The offset in the channel's sequence; 0 if the channel has none.
    pub offset: u64,
    /// Tags; each key occurs once. In the JSON encoding a binary payload sets `encoding` to `base64`.
    pub tags: Vec<(String, String)>,
    /// The client that published, if it was a client.
    pub info: Option<ClientInfo>,
    /// The time of publication in milliseconds since 1970; 0 if unknown.
    pub time: i64,
}

/// Information about a client that other clients receive.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClientInfo {
    /// The user id; empty if anonymous.
    pub user: String,
    /// The id of the connection.
    pub client: String,
    /// Application data of the connection: JSON in the JSON encoding.
    pub conn_info: Option<Bytes>,
    /// Application data of the subscription: JSON in the JSON encoding.
    pub chan_info: Option<Bytes>,
}
