//! The JSON of client information, which logs in Redis contain.

use super::{field::JsonField, malformed};
use crate::{ClientInfo, DecodeError};

impl ClientInfo {
    /// Encodes the object of the JSON encoding.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// Decodes the object of the JSON encoding. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] when the text is not such an object.
    pub fn from_json(text: &str) -> Result<Self, DecodeError> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let info = Self::read(&mut deserializer).map_err(|error| malformed(&error))?;
        deserializer.end().map_err(|error| malformed(&error))?;
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
