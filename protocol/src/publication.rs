//! Owns the publication and the client that it may name as its publisher.
//! Must never hold what only the gateway knows, such as the source of a publication.

use bytes::Bytes;

use crate::Payload;

/// One message of a channel.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Publication {
    /// What was published.
    pub data: Payload,
    /// Its number in the channel's log, 0 if the channel keeps none.
    pub offset: u64,
    /// Labels that travel beside the data, each key once. In the JSON encoding a binary payload sets
    /// `encoding` to `base64`.
    pub tags: Vec<(String, String)>,
    /// Who published, when it was a client.
    pub info: Option<ClientInfo>,
    /// When it was published, in milliseconds since 1970, 0 if unknown.
    pub time: i64,
}

/// A client as other clients see it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClientInfo {
    /// The user, empty if anonymous.
    pub user: String,
    /// The id of the connection.
    pub client: String,
    /// What the application attached to the connection: JSON in the JSON encoding.
    pub conn_info: Option<Bytes>,
    /// What the application attached to the subscription: JSON in the JSON encoding.
    pub chan_info: Option<Bytes>,
}
