//! The server API, compatible with Centrifugo's server API v6.
//!
//! Payloads pass through byte for byte. Options of Centrifugo that are not supported are rejected, never ignored.

#[cfg(fuzzing)]
pub mod fuzz;
mod params;
mod response;
mod revocation;
mod ticket;
mod why;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::BodyError;
use super::{AppState, plain_error};
use crate::auth::api_key::{ApiAuthError, ApiMethod, ApiPermissions};
use crate::auth::{ClientMeta, Denial, log_api_denial};
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

/// A request to the API.
struct ApiCall<'a> {
    state: &'a AppState,
    /// The head of the request.
    head: Request<()>,
    /// The permissions of its key.
    permissions: Arc<ApiPermissions>,
}

/// Handles `POST /api/{method}`, and counts the request.
pub async fn call(
    State(state): State<Arc<AppState>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let known = ApiMethod::parse(&method);
    let (response, error) = respond(&state, known.ok_or(method.as_str()), request).await;
    let label = known.map_or("unknown", ApiMethod::as_str);
    state.metrics.api.record(label, response.status().as_u16(), error, started.elapsed());
    response
}

/// The response, and the code of the API error in it (0: none). `method` is the method, or an unknown name.
async fn respond(state: &AppState, method: Result<ApiMethod, &str>, request: Request) -> (Response, u32) {
    let (head, body) = request.into_parts();
    let head = Request::from_parts(head, ());
    let permissions = match state.streams.authorizer.api(head.headers(), head.uri().query()) {
        Ok(permissions) => permissions,
        Err(denial) => {
            log_api_denial(denial, client_of(state, &head).as_ref(), None, None);
            return (ApiError::new(denial.into(), denial.to_string()).into_response(), 0);
        }
    };
    let call = ApiCall { state, head, permissions };
    let method = match method.map_err(unknown_method).and_then(|method| call.check_method(method)) {
        Ok(method) => method,
        Err(error) => {
            let code = error.code.code();
            return (error.into_response(), code);
        }
    };
    let body = match state.body.read(body).await {
        Ok(body) => body,
        Err(error) => return (body_error(state, &error), 0),
    };
    let body = body.bytes();
    let result = match method {
        ApiMethod::Publish => publish(&call, body).await,
        ApiMethod::Broadcast => broadcast(&call, body).await,
        ApiMethod::Channels => channels(&call, body).await,
        ApiMethod::Info => info(state).await,
        ApiMethod::History => history(&call, body).await,
        ApiMethod::HistoryRemove => history_remove(&call, body).await,
        ApiMethod::Disconnect => revocation::disconnect(state, body).await,
        ApiMethod::Unsubscribe => revocation::unsubscribe(state, body).await,
        ApiMethod::Refresh => revocation::refresh(state, body).await,
        ApiMethod::Revoke => revocation::revoke(state, body).await,
        ApiMethod::Ticket => ticket::ticket(state, body).await,
        ApiMethod::Why => why::why(state, body).await,
    };
    match result {
        Err(error) if error.is_denied => {
            let code = error.code.code();
            (error.into_response(), code)
        }
        result => {
            let error = result.as_ref().err().map_or(0, |error| error.code.code());
            (Json(ApiResponse::from(result)).into_response(), error)
        }
    }
}

fn unknown_method(name: &str) -> ApiError {
    ApiError::new(ErrorCode::MethodNotFound, format!("unknown method {name:?}"))
}

/// The client of a request, for the log.
fn client_of(state: &AppState, head: &Request<()>) -> Option<ClientMeta> {
    let peer = head.extensions().get::<Peer>()?;
    Some(state.streams.client_meta(head, *peer))
}

impl ApiCall<'_> {
    fn check_method(&self, method: ApiMethod) -> Result<ApiMethod, ApiError> {
        self.permissions.check_method(method).map_err(|error| self.deny(error, None))?;
        Ok(method)
    }

    /// The channel with its rules, if the key is for its namespace.
    fn resolve(&self, name: &str) -> Result<ResolvedChannel, ApiError> {
        let channel = self.state.node.resolve(parse_channel(name)?).ok_or(PublishError::UnknownChannel)?;
        let namespace = &channel.rules.namespace.name;
        self.permissions.check_namespace(namespace).map_err(|error| self.deny(error, Some(&channel.name)))?;
        Ok(channel)
    }

    /// Whether the key is for the namespace of a channel.
    fn is_for(&self, name: &ChannelName) -> bool {
        let is_for = |channel: ResolvedChannel| {
            self.permissions.check_namespace(&channel.rules.namespace.name).is_ok()
        };
        !self.permissions.is_restricted() || self.state.node.resolve(name.clone()).is_some_and(is_for)
    }

    /// Logs a denial.
    fn deny(&self, error: ApiAuthError, channel: Option<&ChannelName>) -> ApiError {
        let denial = Denial::from(error);
        let client = client_of(self.state, &self.head);
        log_api_denial(denial, client.as_ref(), channel, Some(self.permissions.name()));
        ApiError::denied(denial)
    }
}

async fn publish(call: &ApiCall<'_>, body: &[u8]) -> ApiResult {
    let request: PublishParams<'_> = parse_body(body)?;
    let channel = request.channel.as_ref().ok_or_else(|| ApiError::missing("channel"))?;
    publish_one(call, channel, request.payload()?, request.publish_options()?).await
}

async fn broadcast(call: &ApiCall<'_>, body: &[u8]) -> ApiResult {
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
        published.push_back(publish_one(call, channel, data.clone(), publish_options.clone()));
    }
    while let Some(result) = published.next().await {
        responses.push(result.into());
    }
    to_result(&BTreeMap::from([("responses", responses)]))
}

async fn publish_one(
    call: &ApiCall<'_>,
    channel: &str,
    data: Bytes,
    publish_options: AppendOptions,
) -> ApiResult {
    let resolved = call.resolve(channel).inspect_err(|error| {
        if error.code == ErrorCode::UnknownChannel {
            call.state.metrics.control.publish_failures.add(1);
        }
    })?;
    let published =
        call.state.node.publish(&resolved, data, publish_options).await.map_err(ApiError::from)?;
    to_result(&match published {
        Published::Logged(position) => {
            json!({ "offset": position.offset, "epoch": position.epoch.to_string() })
        }
        Published::Broadcast(DeliveryScope::AllNodes) => json!({}),
        Published::Broadcast(DeliveryScope::ThisNode) => json!({ "local": true }),
    })
}

async fn history(call: &ApiCall<'_>, body: &[u8]) -> ApiResult {
    let request: HistoryParams = parse_body(body)?;
    let channel = call.resolve(&request.channel)?;
    if !channel.rules.has_history() {
        return Err(ApiError::new(ErrorCode::NotAvailable, "the namespace of this channel has no history"));
    }
    let since = request.since.map(|since| RecoverFrom::parse(&since.epoch, since.offset));
    let limit_max = call.state.history_limit_max;
    let page = HistoryQuery::new(since, request.limit, limit_max, request.reverse);
    match call.state.node.history(&channel, &page).await {
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

async fn history_remove(call: &ApiCall<'_>, body: &[u8]) -> ApiResult {
    let request: HistoryRemoveParams = parse_body(body)?;
    let channel = call.resolve(&request.channel)?;
    call.state.node.clear_history(&channel).await.map_err(PublishError::from)?;
    to_result(&json!({}))
}

async fn channels(call: &ApiCall<'_>, body: &[u8]) -> ApiResult {
    let request: ChannelsParams = parse_body(if body.is_empty() { b"{}" } else { body })?;
    let pattern = wildmatch::WildMatch::new(&request.pattern);
    let channels: BTreeMap<String, Value> = call
        .state
        .node
        .subscriber_counts()
        .await
        .into_iter()
        .filter(|(name, count)| *count > 0 && (request.pattern.is_empty() || pattern.matches(name.as_str())))
        .filter(|(name, _)| call.is_for(name))
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
