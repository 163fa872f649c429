//! The routes of axum: the server API, health, metrics, the console page, and streams on connections that hyper serves.
//!
//! Handlers never access a connection of a shard. A stream is requested from a shard and read as a response body.
//!
//! - [`api`]: `POST /api/{method}`, compatible with Centrifugo's server API.
//! - [`body`]: request bodies of the API.
//! - `console`: the page for trying the gateway out.
//! - [`health`]: `/health`, `/ready`, `/metrics`; `link_metrics`: the state of the links to brokers in them.
//! - [`hyper_streams`]: SSE over HTTP/2, SSE and WebSocket on reused HTTP/1.1 connections.

pub mod api;
pub mod body;
mod console;
pub mod health;
pub mod hyper_streams;
mod link_metrics;
mod store_metrics;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any, on};
use tokio::time::Instant;

use crate::drain::Drain;
use crate::ingress::StreamContext;
use crate::ingress::routes::{Endpoint, ListenerRole, ROUTES, Route};
use crate::metrics::Metrics;
use crate::node::Node;
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
    /// The maximum number of publications in one page of history (`limits.recovery_publications`).
    pub history_limit_max: usize,
    /// The limits of API request bodies.
    pub body: BodyLimits,
    /// The start time of the gateway.
    pub started: Instant,
    /// The id of this node.
    pub uid: String,
}

/// Returns a router for the routes of a listener, or for all routes; `with_console`: including the console page.
pub fn router(state: Arc<AppState>, with_console: bool, listener: Option<ListenerRole>) -> Router {
    let routes = ROUTES
        .iter()
        .filter(|route| with_console || route.endpoint != Endpoint::Console)
        .filter(|route| listener.is_none_or(|listener| listener == route.listener));
    routes.fold(Router::new(), |router, route| router.route(route.path, handler(route))).with_state(state)
}

fn handler(route: &Route) -> MethodRouter<Arc<AppState>> {
    let method = if route.method == Method::POST { MethodFilter::POST } else { MethodFilter::GET };
    match route.endpoint {
        Endpoint::Api => on(method, api::call),
        Endpoint::Health => on(method, health::health),
        Endpoint::Ready => on(method, health::ready),
        Endpoint::Metrics => on(method, health::metrics),
        Endpoint::EventStream => any(hyper_streams::sse),
        Endpoint::WebSocket => on(method, hyper_streams::websocket),
        Endpoint::Console => on(method, console::serve),
    }
}

/// Returns an error response with a plain text body.
fn plain_error(status: u16, reason: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, reason + "\n").into_response()
}
