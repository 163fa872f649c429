//! Parameters of the API methods. Options of Centrifugo that are not supported are rejected, never ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::response::ApiError;
use crate::broker::Attributes;
use crate::broker::log::AppendOptions;
use crate::node::idempotency::IDEMPOTENCY_KEY_BYTES_MAX;

/// The parameters of `publish` (`channel`) and `broadcast` (`channels`).
#[derive(Debug, Deserialize)]
pub(super) struct PublishParams<'a> {
    pub(super) channel: Option<String>,
    pub(super) channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "some_raw_value")]
    pub(super) data: Option<&'a RawValue>,
    pub(super) b64data: Option<String>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) idempotency_key: Option<String>,
    pub(super) delta: Option<bool>,
    pub(super) skip_history: Option<bool>,
    pub(super) version: Option<u64>,
    pub(super) version_epoch: Option<String>,
}

/// An explicit `null` is a payload; only a missing field is `None`.
pub(super) fn some_raw_value<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
pub(super) struct HistoryParams {
    pub(super) channel: String,
    #[serde(default)]
    pub(super) limit: i32,
    pub(super) since: Option<SinceParam>,
    #[serde(default)]
    pub(super) reverse: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct SinceParam {
    #[serde(default)]
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) epoch: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct HistoryRemoveParams {
    pub(super) channel: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ChannelsParams {
    #[serde(default)]
    pub(super) pattern: String,
}

/// The values of a field of an identity.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FieldValues {
    One(String),
    Several(Vec<String>),
}

impl From<FieldValues> for Vec<String> {
    fn from(values: FieldValues) -> Self {
        match values {
            FieldValues::One(value) => vec![value],
            FieldValues::Several(values) => values,
        }
    }
}

impl PublishParams<'_> {
    pub(super) fn payload(&self) -> Result<Bytes, ApiError> {
        self.check_options()?;
        match (self.data, self.b64data.as_deref()) {
            (Some(data), None | Some("")) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
            (None, Some(text)) => base64::prelude::BASE64_STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("b64data: {error}"))),
            _ => Err(ApiError::new(ErrorCode::BadRequest, "either data or b64data is required")),
        }
    }

    /// Rejects options that are not supported and would change the publication.
    fn check_options(&self) -> Result<(), ApiError> {
        let given = [
            ("delta", self.delta == Some(true)),
            ("skip_history", self.skip_history == Some(true)),
            ("version", self.version.is_some_and(|version| version != 0)),
            ("version_epoch", self.version_epoch.as_ref().is_some_and(|epoch| !epoch.is_empty())),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(ApiError::new(ErrorCode::NotAvailable, format!("{name} is not supported: remove it")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn publish_options(&self) -> Result<AppendOptions, ApiError> {
        let idempotency_key = self.idempotency_key.as_deref().filter(|key| !key.is_empty());
        if let Some(key) = idempotency_key
            && key.len() > IDEMPOTENCY_KEY_BYTES_MAX
        {
            let detail = format!(
                "idempotency_key has {} bytes; the maximum is {IDEMPOTENCY_KEY_BYTES_MAX}",
                key.len()
            );
            return Err(ApiError::new(ErrorCode::LimitExceeded, detail));
        }
        let tags = self.tags.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let attributes = Attributes::new(tags, None);
        Ok(AppendOptions { attributes, idempotency_key: idempotency_key.map(Arc::from) })
    }
}

pub(super) fn parse_channel(channel: &str) -> Result<ChannelName, ApiError> {
    ChannelName::parse(channel)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("channel {channel:?}: {error}")))
}

pub(super) fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_body_is_parsed_or_rejected(body in "\\PC{0,60}", key in "[a-z0-9_]{1,12}", value in "\\PC{0,20}") {
            for body in [body, format!("{{\"channel\":\"a\",\"{key}\":{value}}}")] {
                if let Ok(params) = parse_body::<PublishParams<'_>>(body.as_bytes()) {
                    let _ = (params.payload(), params.publish_options());
                }
                let _ = parse_body::<HistoryParams>(body.as_bytes());
            }
        }

        #[test]
        fn a_json_payload_is_kept_byte_for_byte(number in any::<u64>(), space in " {0,3}") {
            let data = format!("{{{space}\"a\":{space}{number}.50}}");
            let body = format!("{{\"channel\":\"a\",\"data\":{data}}}");
            let params: PublishParams<'_> = parse_body(body.as_bytes()).unwrap();
            prop_assert_eq!(params.payload().unwrap(), data.as_bytes());
        }
    }
}
