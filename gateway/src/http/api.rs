//! The publish API, in the shape of Centrifugo's server API v6.
//!
//! Owns the shapes of requests and answers. A payload goes through as it was written. What a method offers elsewhere
//! and does not do here is refused, never ignored.

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

use super::body::BodyError;
use super::guard::Denied;
use super::{Context, refuse};
use crate::broker::log::Append;
use crate::broker::{Attributes, Reach};
use crate::node::history::epoch_text;
use crate::node::idempotency::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::node::lane::HistoryError;
use crate::node::publication::Publication;
use crate::node::recovery::Since;
use crate::node::registry::Page;
use crate::node::{PublishError, Published};

/// Publications of one broadcast that may be in progress at a time.
const BROADCAST_CONCURRENCY_MAX: usize = 256;

/// Why a call fails. Clients match the words of the code, so what happened here is in a field of its own.
#[derive(Debug)]
struct Fault {
    code: ErrorCode,
    detail: String,
}

/// A result as JSON text: payloads in it are not parsed.
type Answer = Result<Box<RawValue>, Fault>;

/// What every call is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Result(Box<RawValue>),
    Error { code: u32, message: &'static str, detail: String },
}

/// What `publish` and `broadcast` are given; one names a channel, the other several.
#[derive(Debug, Deserialize)]
struct Publish<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    delta: Option<bool>,
    skip_history: Option<bool>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

/// A `null` that is written down is a payload.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
struct History {
    channel: String,
    #[serde(default)]
    limit: i32,
    since: Option<Position>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Debug, Deserialize)]
struct Position {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

/// A page of a channel's history.
#[derive(Debug, Default, Serialize)]
struct HistoryResult<'a> {
    publications: Vec<Shown<'a>>,
    epoch: String,
    offset: u64,
}

/// A publication: JSON as it was published, text as a string, other bytes as base64.
#[derive(Debug, Default, Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
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
enum Data<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

#[derive(Debug, Deserialize)]
struct Channel {
    channel: String,
}

#[derive(Debug, Default, Deserialize)]
struct Channels {
    #[serde(default)]
    pattern: String,
}

/// `POST /api/{method}`
pub async fn call(
    State(context): State<Arc<Context>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    if let Err(denied) = admit(&context, &request) {
        return denial(denied);
    }
    let body = match context.body.read(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return body_error(&context, &error),
    };
    let body = body.bytes();
    let answer = match method.as_str() {
        "publish" => publish(&context, body).await,
        "broadcast" => broadcast(&context, body).await,
        "channels" => channels(&context, body).await,
        "info" => info(&context).await,
        "history" => history(&context, body).await,
        "history_remove" => history_remove(&context, body).await,
        _ => {
            let fault = Fault::new(ErrorCode::MethodNotFound, format!("no method {method:?}"));
            return (StatusCode::NOT_FOUND, Json(Body::from(Err(fault)))).into_response();
        }
    };
    Json(Body::from(answer)).into_response()
}

/// As Centrifugo does, a key in the query counts where the headers hold none that is right.
fn admit(context: &Context, request: &Request) -> Result<(), Denied> {
    let (guard, origins) = (&context.guard, &context.gate.origins);
    guard.admit(request.headers(), origins).or_else(|denied| {
        let query = request.uri().query().unwrap_or_default();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let key = pairs.find(|(name, _)| name == "api_key").ok_or(denied)?.1;
        let mut headers = request.headers().clone();
        headers.insert("x-api-key", HeaderValue::from_str(&key).map_err(|_| denied)?);
        guard.admit(&headers, origins)
    })
}

async fn publish(context: &Context, body: &[u8]) -> Answer {
    let request: Publish<'_> = read(body)?;
    let channel = request.channel.as_ref().ok_or_else(|| Fault::missing("channel"))?;
    publish_one(context, channel, request.payload()?, request.extras()?).await
}

async fn broadcast(context: &Context, body: &[u8]) -> Answer {
    let request: Publish<'_> = read(body)?;
    let channels = request.channels.as_ref().filter(|channels| !channels.is_empty());
    let channels = channels.ok_or_else(|| Fault::missing("channels"))?;
    // Built once and shared by all publications.
    let (data, extras) = (request.payload()?, request.extras()?);
    let mut responses: Vec<Body> = Vec::with_capacity(channels.len());
    let mut published = FuturesOrdered::new();
    for channel in channels {
        if published.len() >= BROADCAST_CONCURRENCY_MAX {
            responses.extend(published.next().await.map(Body::from));
        }
        published.push_back(publish_one(context, channel, data.clone(), extras.clone()));
    }
    while let Some(answer) = published.next().await {
        responses.push(answer.into());
    }
    answer(&BTreeMap::from([("responses", responses)]))
}

async fn publish_one(context: &Context, channel: &str, data: Bytes, extras: Append) -> Answer {
    let name = name(channel)?;
    let published = context.node.publish(&name, data, extras).await.map_err(Fault::from)?;
    answer(&match published {
        Published::Numbered(position) => {
            json!({ "offset": position.offset, "epoch": position.epoch.to_string() })
        }
        Published::Plain(Reach::Broker) => json!({}),
        Published::Plain(Reach::ThisNode) => json!({ "local": true }),
    })
}

async fn history(context: &Context, body: &[u8]) -> Answer {
    let request: History = read(body)?;
    let name = name(&request.channel)?;
    let namespace = context.node.namespace(&name).ok_or(PublishError::UnknownChannel)?;
    if namespace.history.size == 0 {
        return Err(Fault::new(ErrorCode::NotAvailable, "the namespace of this channel keeps no history"));
    }
    let since = request.since.map(|since| Since::read(&since.epoch, since.offset));
    let page = Page::new(since, request.limit, context.history_most, request.reverse);
    match context.node.history(&name, &page).await {
        // Nobody here hears the channel, so nothing of it is remembered.
        None => answer(&HistoryResult::default()),
        Some(Err(HistoryError::Unrecoverable)) => {
            Err(Fault::new(ErrorCode::UnrecoverablePosition, "the position is of another sequence"))
        }
        Some(Err(HistoryError::Broker(error))) => Err(PublishError::from(error).into()),
        Some(Ok(history)) => {
            let publications =
                history.publications.iter().map(|publication| Shown::new(publication)).collect();
            let (epoch, offset) = (epoch_text(history.top.epoch), history.top.offset);
            answer(&HistoryResult { publications, epoch, offset })
        }
    }
}

async fn history_remove(context: &Context, body: &[u8]) -> Answer {
    let request: Channel = read(body)?;
    context.node.forget_history(&name(&request.channel)?).await?;
    answer(&json!({}))
}

impl<'a> Shown<'a> {
    fn new(publication: &'a Publication) -> Self {
        let bytes = publication.payload.bytes();
        let text = || Data::Text(String::from_utf8_lossy(bytes));
        let (data, b64data) = match publication.payload.kind() {
            PayloadKind::Json => {
                (Some(serde_json::from_slice(bytes).map_or_else(|_| text(), Data::Json)), None)
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

fn name(channel: &str) -> Result<ChannelName, Fault> {
    ChannelName::parse(channel)
        .map_err(|error| Fault::new(ErrorCode::BadRequest, format!("channel {channel:?}: {error}")))
}

async fn channels(context: &Context, body: &[u8]) -> Answer {
    let request: Channels = read(if body.is_empty() { b"{}" } else { body })?;
    let pattern = wildmatch::WildMatch::new(&request.pattern);
    let channels: BTreeMap<String, Value> = context
        .node
        .census()
        .await
        .into_iter()
        .filter(|(name, count)| *count > 0 && (request.pattern.is_empty() || pattern.matches(name.as_str())))
        .map(|(name, count)| (name.to_string(), json!({ "num_clients": count })))
        .collect();
    answer(&json!({ "channels": channels }))
}

async fn info(context: &Context) -> Answer {
    let (metrics, node) = (&context.metrics, &context.node);
    let clients = metrics.sum(|shard| &shard.websockets) + metrics.sum(|shard| &shard.sse);
    let channels = node.census().await.values().filter(|count| **count > 0).count();
    answer(&json!({ "nodes": [{
        "uid": context.uid,
        "name": "earshot",
        "version": env!("CARGO_PKG_VERSION"),
        "num_clients": clients,
        "num_subs": metrics.sum(|shard| &shard.subscriptions),
        "num_channels": channels,
        "uptime": context.started.elapsed().as_secs(),
    }] }))
}

impl Publish<'_> {
    fn payload(&self) -> Result<Bytes, Fault> {
        self.check_options()?;
        match (self.data, self.b64data.as_deref()) {
            (Some(data), None | Some("")) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
            (None, Some(text)) => base64::prelude::BASE64_STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|error| Fault::new(ErrorCode::BadRequest, format!("b64data: {error}"))),
            _ => Err(Fault::new(ErrorCode::BadRequest, "give either data or b64data")),
        }
    }

    /// Refuses what changes the meaning of a publication and is not built.
    fn check_options(&self) -> Result<(), Fault> {
        let given = [
            ("delta", self.delta == Some(true)),
            ("skip_history", self.skip_history == Some(true)),
            ("version", self.version.is_some_and(|version| version != 0)),
            ("version_epoch", self.version_epoch.as_ref().is_some_and(|epoch| !epoch.is_empty())),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(Fault::new(ErrorCode::NotAvailable, format!("{name} is not supported: leave it out")))
            }
            None => Ok(()),
        }
    }

    fn extras(&self) -> Result<Append, Fault> {
        let idempotency_key = self.idempotency_key.as_deref().filter(|key| !key.is_empty());
        if let Some(key) = idempotency_key
            && key.len() > IDEMPOTENCY_KEY_BYTES_MAX
        {
            let most = IDEMPOTENCY_KEY_BYTES_MAX;
            let detail = format!("idempotency_key has {} bytes: at most {most} are allowed", key.len());
            return Err(Fault::new(ErrorCode::LimitExceeded, detail));
        }
        let tags = self.tags.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let attributes = Attributes::new(tags, None);
        Ok(Append { attributes, idempotency_key: idempotency_key.map(Arc::from) })
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::new(ErrorCode::BadRequest, error.to_string()))
}

fn answer(result: &impl Serialize) -> Answer {
    to_raw_value(result).map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))
}

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        match answer {
            Ok(result) => Self::Result(result),
            Err(Fault { code, detail }) => Self::Error { code: code.code(), message: code.message(), detail },
        }
    }
}

fn body_error(context: &Context, error: &BodyError) -> Response {
    let status = match error {
        BodyError::TooLarge(_) => 413,
        BodyError::Timeout => 408,
        BodyError::Incomplete => 400,
        BodyError::Busy(_) => {
            context.metrics.control.api_requests_rejected.add(1);
            let fault = Fault::new(ErrorCode::TooManyRequests, error.to_string());
            return (StatusCode::TOO_MANY_REQUESTS, Json(Body::from(Err(fault)))).into_response();
        }
    };
    refuse(status, error.to_string())
}

fn denial(denied: Denied) -> Response {
    let (status, code) = match denied {
        Denied::Key => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
        Denied::NoKey | Denied::Origin => (StatusCode::FORBIDDEN, ErrorCode::PermissionDenied),
    };
    (status, Json(Body::from(Err(Fault::new(code, denied.to_string()))))).into_response()
}

impl Fault {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    fn missing(key: &str) -> Self {
        Self::new(ErrorCode::BadRequest, format!("`{key}` is missing"))
    }
}

impl From<PublishError> for Fault {
    fn from(error: PublishError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
