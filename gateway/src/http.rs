//! The routes of axum: the server API, health, metrics, the console page, and streams on connections that hyper serves.
//!
//! Handlers never access a connection of a shard. A stream is requested from a shard and read as a response body.
//!
//! - [`api`]: `POST /api/{method}`, compatible with Centrifugo's server API.
//! - [`body`]: request bodies of the API.
//! - [`api_auth`]: authentication of API requests.
//! - `console`: the page for trying the gateway out.
//! - [`health`]: `/health`, `/ready`, `/metrics`; `link_metrics`: the state of the links to Redis in them.
//! - [`hyper_streams`]: SSE over HTTP/2, SSE and WebSocket on reused HTTP/1.1 connections.

pub mod api;
pub mod api_auth;
pub mod body;
mod console;
pub mod health;
pub mod hyper_streams;
mod link_metrics;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::time::Instant;

use crate::drain::Drain;
use crate::ingress::StreamContext;
use crate::metrics::Metrics;
use crate::node::Node;
use api_auth::ApiAuth;
use body::BodyLimits;

/// The state of all routes.
#[derive(Debug)]
pub struct AppState {
    /// The node.
    pub node: Arc<Node>,
    /// Authorizes streams and passes them to shards.
    pub streams: Arc<StreamContext>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The state of the shutdown.
    pub drain: Drain,
    /// The authentication of API requests.
    pub auth: ApiAuth,
    /// The maximum number of publications in one page of history (`limits.recovery_publications`).
    pub history_limit_max: usize,
    /// The limits of API request bodies.
    pub body: BodyLimits,
    /// The start time of the gateway.
    pub started: Instant,
    /// The id of this node.
    pub uid: String,
}

/// Returns all routes; `with_console`: `/` is the console page.
pub fn router(state: Arc<AppState>, with_console: bool) -> Router {
    let mut router = Router::new()
        .route("/api/{method}", post(api::call))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/sse", any(hyper_streams::sse))
        .route("/sse/", any(hyper_streams::sse))
        .route("/sse/{*channel}", any(hyper_streams::sse))
        .route("/ws", get(hyper_streams::websocket))
        .route("/connection/websocket", get(hyper_streams::websocket));
    if with_console {
        router = console::add_routes(router);
    }
    router.with_state(state)
}

/// Returns an error response with a plain text body.
fn plain_error(status: u16, reason: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, reason + "\n").into_response()
}
