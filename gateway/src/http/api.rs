//! The server API, compatible with Centrifugo's server API v6.
//!
//! Payloads pass through byte for byte. Options of Centrifugo that are not supported are rejected, never ignored.

#[cfg(fuzzing)]
pub mod fuzz;
mod params;
mod response;
mod why;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use earshot_protocol::ErrorCode;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::BodyError;
use super::{AppState, plain_error};
use crate::auth::log_denial;
use crate::broker::DeliveryScope;
use crate::broker::log::AppendOptions;
use crate::ingress::http_server::Peer;
use crate::node::history::encode_epoch;
use crate::node::messages::{HistoryQuery, PublishError, Published, RecoverFrom};
use crate::node::namespace::ResolvedChannel;
use params::{ChannelsParams, HistoryParams, HistoryRemoveParams, PublishParams, parse_body, parse_channel};
use response::{ApiError, ApiResponse, ApiResult, HistoryView, PublicationView, to_result};

/// The maximum number of concurrent publications of one broadcast.
const BROADCAST_CONCURRENCY_MAX: usize = 256;

/// The methods, as values of a label.
const METHODS: [&str; 7] = ["publish", "broadcast", "channels", "info", "history", "history_remove", "why"];

/// Handles `POST /api/{method}`, and counts the request.
pub async fn call(
    State(state): State<Arc<AppState>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (response, error) = respond(&state, &method, request).await;
    let label = METHODS.into_iter().find(|known| *known == method).unwrap_or("unknown");
    state.metrics.api.record(label, response.status().as_u16(), error, started.elapsed());
    response
}

/// The response, and the code of the API error in it (0: none).
async fn respond(state: &AppState, method: &str, request: Request) -> (Response, u32) {
    if let Err(denial) = state.streams.authorizer.api(request.headers(), request.uri().query()) {
        let peer = request.extensions().get::<Peer>();
        let client = peer.map(|peer| state.streams.client_meta(&request, *peer));
        log_denial(denial, client.as_ref(), None);
        return (ApiError::new(denial.into(), denial.to_string()).into_response(), 0);
    }
    let body = match state.body.read(request.into_body()).await {
        Ok(body) => body,
        Err(error) => return (body_error(state, &error), 0),
    };
    let body = body.bytes();
    let result = match method {
        "publish" => publish(state, body).await,
        "broadcast" => broadcast(state, body).await,
        "channels" => channels(state, body).await,
        "info" => info(state).await,
        "history" => history(state, body).await,
        "history_remove" => history_remove(state, body).await,
        "why" => why::why(state, body).await,
        _ => {
            let code = ErrorCode::MethodNotFound;
            return (ApiError::new(code, format!("unknown method {method:?}")).into_response(), code.code());
        }
    };
    let error = result.as_ref().err().map_or(0, |error| error.code.code());
    (Json(ApiResponse::from(result)).into_response(), error)
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
    let resolved = state.node.resolve(name).ok_or_else(|| {
        state.metrics.control.publish_failures.add(1);
        PublishError::UnknownChannel
    })?;
    let published = state.node.publish(&resolved, data, publish_options).await.map_err(ApiError::from)?;
    to_result(&match published {
        Published::Logged(position) => {
            json!({ "offset": position.offset, "epoch": position.epoch.to_string() })
        }
        Published::Broadcast(DeliveryScope::AllNodes) => json!({}),
        Published::Broadcast(DeliveryScope::ThisNode) => json!({ "local": true }),
    })
}

/// The channel with its rules.
fn resolve(state: &AppState, name: &str) -> Result<ResolvedChannel, ApiError> {
    Ok(state.node.resolve(parse_channel(name)?).ok_or(PublishError::UnknownChannel)?)
}

async fn history(state: &AppState, body: &[u8]) -> ApiResult {
    let request: HistoryParams = parse_body(body)?;
    let channel = resolve(state, &request.channel)?;
    if !channel.rules.has_history() {
        return Err(ApiError::new(ErrorCode::NotAvailable, "the namespace of this channel has no history"));
    }
    let since = request.since.map(|since| RecoverFrom::parse(&since.epoch, since.offset));
    let page = HistoryQuery::new(since, request.limit, state.history_limit_max, request.reverse);
    match state.node.history(&channel, &page).await {
        // This node is not subscribed to the channel, so it has no history.
        None => to_result(&HistoryView::default()),
        Some(Err(error)) => Err(ApiError::new(ErrorCode::from(&error), error.to_string())),
        Some(Ok(history)) => {
            let publications =
                history.publications.iter().map(|publication| PublicationView::new(publication)).collect();
            let (epoch, offset) = (encode_epoch(history.top.epoch), history.top.offset);
            to_result(&HistoryView { publications, epoch, offset })
        }
    }
}

async fn history_remove(state: &AppState, body: &[u8]) -> ApiResult {
    let request: HistoryRemoveParams = parse_body(body)?;
    let channel = resolve(state, &request.channel)?;
    state.node.clear_history(&channel).await.map_err(PublishError::from)?;
    to_result(&json!({}))
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
