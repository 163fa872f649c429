//! The publish API, in the shape of Centrifugo's server API v6.
//!
//! Owns the shapes of requests and answers. A payload goes through as it was written. What a method offers elsewhere
//! and does not do here is refused, never ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode, PayloadKind};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::guard::Denied;
use super::{Context, refuse};
use crate::accept::carry::Peer;
use crate::broker::BrokerError;
use crate::broker::Reach;
use crate::broker::log::Append;
use crate::node::history::{Since, epoch_text};
use crate::node::lane::HistoryError;
use crate::node::publication::Publication;
use crate::node::registry::Page;
use crate::node::{PublishError, Published};

/// Why a call fails: the code and the words of `{"error":{…}}`.
#[derive(Debug)]
struct Fault {
    code: ErrorCode,
    message: String,
}

type Answer = Result<Value, Fault>;

/// What `publish` and `broadcast` are given; one names a channel, the other several.
#[derive(Debug, Deserialize)]
struct Publish<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    #[serde(default)]
    delta: bool,
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
    let peer = request.extensions().get::<Peer>().copied();
    if let Err(denied) = context.guard.admit(request.headers(), peer) {
        return denial(denied);
    }
    let body = axum::body::to_bytes(request.into_body(), context.body.bytes);
    let body = match tokio::time::timeout(context.body.timeout, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(413, format!("the request is larger than {} bytes", context.body.bytes)),
        Err(_) => return refuse(408, "the request did not come in time".to_owned()),
    };
    let answer = match method.as_str() {
        "publish" => publish(&context, &body).await,
        "broadcast" => broadcast(&context, &body).await,
        "channels" => channels(&context, &body).await,
        "info" => info(&context).await,
        "history" => history(&context, &body).await,
        "history_remove" => history_remove(&context, &body).await,
        _ => {
            let fault = Fault::new(ErrorCode::MethodNotFound, format!("no method {method:?}"));
            return (StatusCode::NOT_FOUND, Json(fault.body())).into_response();
        }
    };
    Json(body_of(answer)).into_response()
}

async fn publish(context: &Context, body: &[u8]) -> Answer {
    let request: Publish<'_> = read(body)?;
    let channel = request.channel.as_ref().ok_or_else(|| Fault::missing("channel"))?;
    publish_one(context, channel, request.payload()?, request.extras()).await
}

async fn broadcast(context: &Context, body: &[u8]) -> Answer {
    let request: Publish<'_> = read(body)?;
    let channels = request.channels.as_ref().filter(|channels| !channels.is_empty());
    let channels = channels.ok_or_else(|| Fault::missing("channels"))?;
    let data = request.payload()?;
    let published =
        channels.iter().map(|channel| publish_one(context, channel, data.clone(), request.extras()));
    let responses: Vec<Value> = join_all(published).await.into_iter().map(body_of).collect();
    Ok(json!({ "responses": responses }))
}

async fn publish_one(context: &Context, channel: &str, data: Bytes, extras: Append) -> Answer {
    let name = name(channel)?;
    let published = context.node.publish(&name, data, extras).await.map_err(Fault::from)?;
    Ok(match published {
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
        None => Ok(json!({ "publications": [], "epoch": "", "offset": 0 })),
        Some(Err(HistoryError::Unrecoverable)) => {
            Err(Fault::new(ErrorCode::UnrecoverablePosition, "the position is of another sequence"))
        }
        Some(Err(HistoryError::Broker(error))) => Err(PublishError::from(error).into()),
        Some(Ok(history)) => {
            let publications: Vec<Value> = history.publications.iter().map(|p| publication(p)).collect();
            let (epoch, offset) = (epoch_text(history.top.epoch), history.top.offset);
            Ok(json!({ "publications": publications, "epoch": epoch, "offset": offset }))
        }
    }
}

async fn history_remove(context: &Context, body: &[u8]) -> Answer {
    let request: Channel = read(body)?;
    context.node.forget_history(&name(&request.channel)?).await?;
    Ok(json!({}))
}

/// A publication as the API shows it: JSON as it is, text as a string, other bytes as base64.
fn publication(publication: &Publication) -> Value {
    let bytes = publication.payload.bytes();
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let (key, data) = match publication.payload.kind() {
        PayloadKind::Json => {
            ("data", serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(text())))
        }
        PayloadKind::Text => ("data", Value::String(text())),
        PayloadKind::Binary => ("b64data", Value::String(base64::prelude::BASE64_STANDARD.encode(bytes))),
    };
    let mut shown = json!({ "offset": publication.position.offset, key: data });
    if !publication.tags.is_empty() {
        let tags: BTreeMap<_, _> = publication.tags.iter().cloned().collect();
        shown["tags"] = json!(tags);
    }
    shown
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
    Ok(json!({ "channels": channels }))
}

async fn info(context: &Context) -> Answer {
    let (metrics, node) = (&context.metrics, &context.node);
    let clients = metrics.sum(|shard| &shard.websockets) + metrics.sum(|shard| &shard.sse);
    let channels = node.census().await.values().filter(|count| **count > 0).count();
    Ok(json!({ "nodes": [{
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
        if self.delta {
            return Err(Fault::new(ErrorCode::NotAvailable, "deltas are not available"));
        }
        match (self.data, &self.b64data) {
            (Some(data), None) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
            (None, Some(text)) => base64::prelude::BASE64_STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|error| Fault::new(ErrorCode::BadRequest, format!("b64data: {error}"))),
            _ => Err(Fault::new(ErrorCode::BadRequest, "give either data or b64data")),
        }
    }
}

impl Publish<'_> {
    fn extras(&self) -> Append {
        Append {
            tags: self.tags.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
            idempotency_key: self.idempotency_key.clone().filter(|key| !key.is_empty()),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::new(ErrorCode::BadRequest, error.to_string()))
}

fn body_of(answer: Answer) -> Value {
    match answer {
        Ok(result) => json!({ "result": result }),
        Err(fault) => fault.body(),
    }
}

fn denial(denied: Denied) -> Response {
    let (status, code) = match denied {
        Denied::Key => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
        Denied::NotLocal => (StatusCode::FORBIDDEN, ErrorCode::PermissionDenied),
    };
    (status, Json(Fault::new(code, denied.to_string()).body())).into_response()
}

impl Fault {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn missing(key: &str) -> Self {
        Self::new(ErrorCode::BadRequest, format!("`{key}` is missing"))
    }

    fn body(&self) -> Value {
        json!({ "error": { "code": self.code.code(), "message": self.message } })
    }
}

impl From<PublishError> for Fault {
    fn from(error: PublishError) -> Self {
        let code = match &error {
            PublishError::UnknownChannel => ErrorCode::UnknownChannel,
            PublishError::NoLog => ErrorCode::NotAvailable,
            PublishError::TooLarge { .. } => ErrorCode::LimitExceeded,
            PublishError::Broker(BrokerError::Unavailable(_)) => ErrorCode::Internal,
            PublishError::Broker(BrokerError::Busy) => ErrorCode::TooManyRequests,
            PublishError::Broker(BrokerError::Refused(_)) => ErrorCode::PermissionDenied,
        };
        Self::new(code, error.to_string())
    }
}
