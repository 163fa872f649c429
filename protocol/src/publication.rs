//! A publication on the wire, and the client that published it.

use bytes::Bytes;

use crate::{DecodeError, Payload, json};

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

impl ClientInfo {
    /// Encodes the object of the JSON encoding.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        json::write_client_info(self, &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// Decodes the object of the JSON encoding. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] when the text is not such an object.
    pub fn from_json(text: &str) -> Result<Self, DecodeError> {
        json::read_client_info(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_info_round_trips() {
        let anonymous = ClientInfo { client: "c1".to_owned(), ..ClientInfo::default() };
        assert_eq!(anonymous.to_json(), r#"{"user":"","client":"c1"}"#);
        let named = ClientInfo {
            user: "an\"n".to_owned(),
            conn_info: Some(Bytes::from_static(br#"{"n":1.50}"#)),
            ..anonymous.clone()
        };
        for info in [anonymous, named] {
            assert_eq!(ClientInfo::from_json(&info.to_json()), Ok(info));
        }
        assert!(ClientInfo::from_json("[]").is_err() && ClientInfo::from_json("").is_err());
    }
}
