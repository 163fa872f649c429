//! Everything that is answered by axum: the publish API, health, metrics, the page, and streams that hyper carries.
//!
//! Must never touch a connection of a shard; a stream is asked for, and read like any body.
//!
//! - [`api`]: `POST /api/{method}` in the shape of Centrifugo's server API.
//! - [`body`]: the bodies of its requests.
//! - [`guard`]: who may call the API.
//! - [`status`]: `/health`, `/ready`, `/metrics`.
//! - [`streams`]: SSE over HTTP/2 and on connections that were used before; WebSocket upgrades there.

pub mod api;
pub mod body;
pub mod guard;
mod links;
pub mod status;
pub mod streams;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::time::Instant;

use crate::drain::Drain;
use crate::ingress::Gate;
use crate::metrics::Metrics;
use crate::node::Node;
use body::BodyLimits;
use guard::Guard;

/// What the routes need.
#[derive(Debug)]
pub struct Context {
    /// The node.
    pub node: Arc<Node>,
    /// Where streams go.
    pub gate: Arc<Gate>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Whether the gateway is about to stop.
    pub drain: Drain,
    /// Who may call the API.
    pub guard: Guard,
    /// Publications in one page of history (`limits.recovery_publications`).
    pub history_most: usize,
    /// The bounds of the bodies of API requests.
    pub body: BodyLimits,
    /// When the gateway was started.
    pub started: Instant,
    /// This node's name to the world.
    pub uid: String,
}

/// All routes; `with_console`: `/` is the page for trying things out.
pub fn router(context: Arc<Context>, with_console: bool) -> Router {
    let mut router = Router::new()
        .route("/api/{method}", post(api::call))
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/sse", any(streams::sse))
        .route("/sse/", any(streams::sse))
        .route("/sse/{*channel}", any(streams::sse))
        .route("/ws", get(streams::websocket))
        .route("/connection/websocket", get(streams::websocket));
    if with_console {
        router = router.route("/", get(console));
    }
    router.with_state(context)
}

async fn console() -> Response {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'self'; \
                  frame-ancestors 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(include_str!("http/console.html"))).into_response()
}

/// A plain refusal.
fn refuse(status: u16, reason: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    (status, reason + "\n").into_response()
}
