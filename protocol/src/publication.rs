//! Owns the publication and the client that it may name as its publisher.
//! Must never hold what only the gateway knows, such as the source of a publication.

use bytes::Bytes;

use crate::{DecodeError, Payload, json};

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

impl ClientInfo {
    /// The object of the JSON encoding.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        json::write_client_info(self, &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// Reads the object of the JSON encoding. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] when it is not such an object.
    pub fn from_json(text: &str) -> Result<Self, DecodeError> {
        json::read_client_info(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_info_is_read_as_it_was_written() {
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
