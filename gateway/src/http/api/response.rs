//! Responses of the API methods.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use earshot_protocol::{ErrorCode, PayloadKind};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::auth::Denial;
use crate::node::messages::PublishError;
use crate::node::publication::Publication;

/// Why an API request fails. Clients match the code's fixed message, so details are in a separate field.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: ErrorCode,
    pub(super) detail: String,
    /// The key of the request does not permit it: the HTTP status is that of the code.
    pub(super) is_denied: bool,
}

/// The result of a method as JSON text: payloads are not parsed.
pub(super) type ApiResult = Result<Box<RawValue>, ApiError>;

/// The response body of every method.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ApiResponse {
    Result(Box<RawValue>),
    Error { code: u32, message: &'static str, detail: String },
}

pub(super) fn to_result(result: &impl Serialize) -> ApiResult {
    to_raw_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

impl From<ApiResult> for ApiResponse {
    fn from(result: ApiResult) -> Self {
        match result {
            Ok(result) => Self::Result(result),
            Err(ApiError { code, detail, .. }) => {
                Self::Error { code: code.code(), message: code.message(), detail }
            }
        }
    }
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), is_denied: false }
    }

    pub(super) fn denied(denial: Denial) -> Self {
        Self { is_denied: true, ..Self::new(denial.into(), denial.to_string()) }
    }

    pub(super) fn missing(key: &str) -> Self {
        Self::new(ErrorCode::BadRequest, format!("`{key}` is missing"))
    }
}

/// An error outside of a method's result: the HTTP status is that of the code.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ApiResponse::from(Err(self)))).into_response()
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        Self::new(ErrorCode::from(&error), error.to_string())
    }
}

/// The result of `history`.
#[derive(Debug, Default, Serialize)]
pub(super) struct HistoryView<'a> {
    pub(super) publications: Vec<PublicationView<'a>>,
    pub(super) epoch: String,
    pub(super) offset: u64,
}

/// A publication in a result: JSON unchanged, text as a string, other bytes as base64.
#[derive(Debug, Default, Serialize)]
pub(super) struct PublicationView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<PublicationData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) info: Option<Box<RawValue>>,
    pub(super) offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum PublicationData<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

impl<'a> PublicationView<'a> {
    pub(super) fn new(publication: &'a Publication) -> Self {
        let bytes = publication.payload.bytes();
        let text = || PublicationData::Text(String::from_utf8_lossy(bytes));
        let (data, b64data) = match publication.payload.kind() {
            PayloadKind::Json => {
                (Some(serde_json::from_slice(bytes).map_or_else(|_| text(), PublicationData::Json)), None)
            }
            PayloadKind::Text => (Some(text()), None),
            PayloadKind::Binary => (None, Some(base64::prelude::BASE64_STANDARD.encode(bytes))),
        };
        let attributes = &publication.attributes;
        let info = attributes.info().and_then(|info| RawValue::from_string(info.to_json()).ok());
        let tags = attributes.tags().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Self { data, b64data, info, offset: publication.position.offset, tags }
    }
}
