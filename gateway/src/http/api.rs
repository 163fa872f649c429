//! The server API, compatible with Centrifugo's server API v6.
//!
//! Payloads pass through byte for byte. Options of Centrifugo that are not supported are rejected, never ignored.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode, PayloadKind};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::api_auth::ApiAuthError;
use super::body::BodyError;
use super::{AppState, plain_error};
use crate::broker::log::AppendOptions;
use crate::broker::{Attributes, DeliveryScope};
use crate::node::history::encode_epoch;
use crate::node::idempotency::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::node::messages::{HistoryError, HistoryQuery, PublishError, Published, RecoverFrom};
use crate::node::publication::Publication;

/// The maximum number of concurrent publications of one broadcast.
const BROADCAST_CONCURRENCY_MAX: usize = 256;

/// Why an API request fails. Clients match the message of the code, so the details are in a separate field.
#[derive(Debug)]
struct ApiError {
    code: ErrorCode,
    detail: String,
}

/// The result of a method as JSON text: payloads are not parsed.
type ApiResult = Result<Box<RawValue>, ApiError>;

/// The response body of every method.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum ApiResponse {
    Result(Box<RawValue>),
    Error { code: u32, message: &'static str, detail: String },
}

/// The parameters of `publish` (`channel`) and `broadcast` (`channels`).
#[derive(Debug, Deserialize)]
struct PublishParams<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "some_raw_value")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    delta: Option<bool>,
    skip_history: Option<bool>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

/// An explicit `null` is a payload; only a missing field is `None`.
fn some_raw_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
struct HistoryParams {
    channel: String,
    #[serde(default)]
    limit: i32,
    since: Option<SinceParam>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Debug, Deserialize)]
struct SinceParam {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

/// The result of `history`.
#[derive(Debug, Default, Serialize)]
struct HistoryResult<'a> {
    publications: Vec<PublicationView<'a>>,
    epoch: String,
    offset: u64,
}

/// A publication in a result: JSON unchanged, text as a string, other bytes as base64.
#[derive(Debug, Default, Serialize)]
struct PublicationView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<PublicationData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
    offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PublicationData<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

#[derive(Debug, Deserialize)]
struct HistoryRemoveParams {
    channel: String,
}

#[derive(Debug, Default, Deserialize)]
struct ChannelsParams {
    #[serde(default)]
    pattern: String,
}

/// Handles `POST /api/{method}`.
pub async fn call(
    State(state): State<Arc<AppState>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    if let Err(error) = authorize(&state, &request) {
        return auth_error(error);
    }
    let body = match state.body.read(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return body_error(&state, &error),
    };
    let body = body.bytes();
    let result = match method.as_str() {
        "publish" => publish(&state, body).await,
        "broadcast" => broadcast(&state, body).await,
        "channels" => channels(&state, body).await,
        "info" => info(&state).await,
        "history" => history(&state, body).await,
        "history_remove" => history_remove(&state, body).await,
        _ => {
            let error = ApiError::new(ErrorCode::MethodNotFound, format!("unknown method {method:?}"));
            return error.into_response();
        }
    };
    Json(ApiResponse::from(result)).into_response()
}

/// Authenticates a request. Like in Centrifugo, a key in the query is checked if the headers contain no valid key.
fn authorize(state: &AppState, request: &Request) -> Result<(), ApiAuthError> {
    let (auth, origins) = (&state.auth, &state.streams.origins);
    auth.check(request.headers(), origins).or_else(|error| {
        let query = request.uri().query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let key = pairs.find(|(name, _)| name == "api_key").ok_or(error)?.1;
        let mut headers = request.headers().clone();
        headers.insert("x-api-key", HeaderValue::from_str(&key).map_err(|_| error)?);
        auth.check(&headers, origins)
    })
}

async fn publish(state: &AppState, body: &[u8]) -> ApiResult {
    let request: PublishParams<'_> = parse_body(body)?;
    let channel = request.channel.as_ref().ok_or_else(|| ApiError::missing("channel"))?;
    publish_one(state, channel, request.payload()?, request.publish_options()?).await
}

async fn broadcast(state: &AppState, body: &[u8]) -> ApiResult {
    let request: PublishParams<'_> = parse_body(body)?;
    let channels = request.channels.as_ref().filter(|channels| !channels.is_empty());
    let channels = channels.ok_or_else(|| ApiError::missing("channels"))?;
    // Parsed once and shared by all publications.
    let (data, publish_options) = (request.payload()?, request.publish_options()?);
    let mut responses: Vec<ApiResponse> = Vec::with_capacity(channels.len());
    let mut published = FuturesOrdered::new();
    for channel in channels {
        if published.len() >= BROADCAST_CONCURRENCY_MAX {
            responses.extend(published.next().await.map(ApiResponse::from));
        }
        published.push_back(publish_one(state, channel, data.clone(), publish_options.clone()));
    }
    while let Some(result) = published.next().await {
        responses.push(result.into());
    }
    to_result(&BTreeMap::from([("responses", responses)]))
}

async fn publish_one(
    state: &AppState,
    channel: &str,
    data: Bytes,
    publish_options: AppendOptions,
) -> ApiResult {
    let name = parse_channel(channel)?;
    let published = state.node.publish(&name, data, publish_options).await.map_err(ApiError::from)?;
    to_result(&match published {
        Published::Logged(position) => {
            json!({ "offset": position.offset, "epoch": position.epoch.to_string() })
        }
        Published::Broadcast(DeliveryScope::AllNodes) => json!({}),
        Published::Broadcast(DeliveryScope::ThisNode) => json!({ "local": true }),
    })
}

async fn history(state: &AppState, body: &[u8]) -> ApiResult {
    let request: HistoryParams = parse_body(body)?;
    let name = parse_channel(&request.channel)?;
    let namespace = state.node.namespace(&name).ok_or(PublishError::UnknownChannel)?;
    if namespace.history.size == 0 {
        return Err(ApiError::new(ErrorCode::NotAvailable, "the namespace of this channel has no history"));
    }
    let since = request.since.map(|since| RecoverFrom::parse(&since.epoch, since.offset));
    let page = HistoryQuery::new(since, request.limit, state.history_limit_max, request.reverse);
    match state.node.history(&name, &page).await {
        // This node is not subscribed to the channel, so it has no history.
        None => to_result(&HistoryResult::default()),
        Some(Err(error)) => Err(ApiError::new(ErrorCode::from(&error), error.to_string())),
        Some(Ok(history)) => {
            let publications =
                history.publications.iter().map(|publication| PublicationView::new(publication)).collect();
            let (epoch, offset) = (encode_epoch(history.top.epoch), history.top.offset);
            to_result(&HistoryResult { publications, epoch, offset })
        }
    }
}

async fn history_remove(state: &AppState, body: &[u8]) -> ApiResult {
    let request: HistoryRemoveParams = parse_body(body)?;
    state.node.clear_history(&parse_channel(&request.channel)?).await?;
    to_result(&json!({}))
}

impl<'a> PublicationView<'a> {
    fn new(publication: &'a Publication) -> Self {
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

fn parse_channel(channel: &str) -> Result<ChannelName, ApiError> {
    ChannelName::parse(channel)
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("channel {channel:?}: {error}")))
}

async fn channels(state: &AppState, body: &[u8]) -> ApiResult {
    let request: ChannelsParams = parse_body(if body.is_empty() { b"{}" } else { body })?;
    let pattern = wildmatch::WildMatch::new(&request.pattern);
    let channels: BTreeMap<String, Value> = state
        .node
        .subscriber_counts()
        .await
        .into_iter()
        .filter(|(name, count)| *count > 0 && (request.pattern.is_empty() || pattern.matches(name.as_str())))
        .map(|(name, count)| (name.to_string(), json!({ "num_clients": count })))
        .collect();
    to_result(&json!({ "channels": channels }))
}

async fn info(state: &AppState) -> ApiResult {
    let (metrics, node) = (&state.metrics, &state.node);
    let clients = metrics.sum(|shard| &shard.websockets) + metrics.sum(|shard| &shard.sse);
    let channels = node.subscriber_counts().await.values().filter(|count| **count > 0).count();
    to_result(&json!({ "nodes": [{
        "uid": state.uid,
        "name": "earshot",
        "version": env!("CARGO_PKG_VERSION"),
        "num_clients": clients,
        "num_subs": metrics.sum(|shard| &shard.subscriptions),
        "num_channels": channels,
        "uptime": state.started.elapsed().as_secs(),
    }] }))
}

impl PublishParams<'_> {
    fn payload(&self) -> Result<Bytes, ApiError> {
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

    fn publish_options(&self) -> Result<AppendOptions, ApiError> {
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

fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

fn to_result(result: &impl Serialize) -> ApiResult {
    to_raw_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

impl From<ApiResult> for ApiResponse {
    fn from(result: ApiResult) -> Self {
        match result {
            Ok(result) => Self::Result(result),
            Err(ApiError { code, detail }) => {
                Self::Error { code: code.code(), message: code.message(), detail }
            }
        }
    }
}

fn body_error(state: &AppState, error: &BodyError) -> Response {
    let status = match error {
        BodyError::TooLarge(_) => 413,
        BodyError::Timeout => 408,
        BodyError::Incomplete => 400,
        BodyError::Busy(_) => {
            state.metrics.control.api_requests_rejected.add(1);
            let error = ApiError::new(ErrorCode::TooManyRequests, error.to_string());
            return error.into_response();
        }
    };
    plain_error(status, error.to_string())
}

fn auth_error(error: ApiAuthError) -> Response {
    let code = match error {
        ApiAuthError::InvalidKey => ErrorCode::Unauthorized,
        ApiAuthError::KeyNotConfigured | ApiAuthError::ForbiddenOrigin => ErrorCode::PermissionDenied,
    };
    ApiError::new(code, error.to_string()).into_response()
}

impl ApiError {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    fn missing(key: &str) -> Self {
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
