//! `/health`, `/ready` and `/metrics`, for operators and load balancers.
//!
//! Handlers never send a request to a shard: they respond while every shard is busy.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde_json::json;

use super::{AppState, link_metrics, store_metrics};
use crate::broker::LinkStatus;
use crate::metrics::{self, NamespaceCounters, TextFormat};
use crate::node::BrokerBinding;

/// Handles `GET /health`: the state of the node and of each link. Always 200.
pub async fn health(State(state): State<Arc<AppState>>) -> Response {
    let (node, metrics) = (&state.node, &state.metrics);
    let links = node.links();
    let links_up = links.iter().all(|(_, link)| link.up);
    // Only a remote broker has links.
    let remote = links.first().filter(|_| links_up).map(|(binding, _)| binding.broker.kind());
    let links: Vec<_> = links.into_iter().map(|(binding, link)| link_metrics::state(binding, link)).collect();
    let stores: Vec<_> = node.authenticator().stores().into_iter().map(store_metrics::state).collect();
    Json(json!({
        "status": if links_up { "ok" } else { "degraded" },
        "cache": remote.unwrap_or("memory"),
        "version": env!("CARGO_PKG_VERSION"),
        "node": state.uid,
        "uptime_seconds": state.started.elapsed().as_secs(),
        "draining": state.drain.is_draining(),
        "connections": {
            "websocket": metrics.sum(|shard| &shard.websockets),
            "sse": metrics.sum(|shard| &shard.sse),
        },
        "channels": node.channels(),
        "links": links,
        "session_stores": stores,
    }))
    .into_response()
}

/// Handles `GET /ready`: 200 if the node accepts new connections, else 503.
pub async fn ready(State(state): State<Arc<AppState>>) -> Response {
    let reason = if state.drain.is_draining() {
        Some("draining".to_owned())
    } else {
        let links = state.node.links();
        let link_down = links.iter().find(|(binding, link)| binding.affects_readiness && !link.up);
        let reason = link_down.map(|(binding, link)| link_down_reason(binding, link));
        // Until then, no login can be checked.
        let is_loaded = state.node.authenticator().revocations().is_loaded();
        reason.or_else(|| (!is_loaded).then(|| "the revocations were not read from Redis yet".to_owned()))
    };
    match reason {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = Json(json!({ "ready": false, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

fn link_down_reason(binding: &BrokerBinding, link: &LinkStatus) -> String {
    let cause = link.error.as_deref().unwrap_or("not connected yet");
    format!("{} {}, {}: {cause}", binding.broker.kind(), binding.name, link.link)
}

/// Handles `GET /metrics`, in the text format that `Accept` prefers.
pub async fn metrics(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = TextFormat::for_accept(accept);
    let text = metrics::encode(&state.metrics, format, |registry| {
        registry.register_collector(Box::new(NodeCollector(Arc::clone(&state))));
        if let Some(hooks) = state.node.authenticator().hooks() {
            hooks.metrics().register(registry);
        }
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => super::plain_error(500, error.to_string()),
    }
}

#[derive(Debug)]
struct NodeCollector(Arc<AppState>);

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let node = &self.0.node;
        let channels =
            encoder.encode_descriptor("channels", "Channels known to this node", None, MetricType::Gauge)?;
        metrics::gauge(node.channels() as u64).encode(channels)?;
        let history = encoder.encode_descriptor(
            "history_bytes",
            "Bytes in the channel histories of this node",
            None,
            MetricType::Gauge,
        )?;
        metrics::gauge(node.history_bytes() as u64).encode(history)?;
        for (name, help, value) in [
            (
                "namespace_messages",
                "Publications received on known channels of the namespace",
                (|counters| counters.messages.value()) as fn(&NamespaceCounters) -> u64,
            ),
            (
                "namespace_published",
                "Publications from clients and the API that a broker accepted, by namespace",
                |counters| counters.published.value(),
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (namespace, counters) in node.namespaces().counters() {
                ConstCounter::new(value(counters))
                    .encode(family.encode_family(&[("namespace", namespace)])?)?;
            }
        }
        let permits = self.0.streams.admission.usage();
        let mut family = encoder.encode_descriptor(
            "connection_permits",
            "Connection permits in use",
            None,
            MetricType::Gauge,
        )?;
        for usage in permits {
            metrics::gauge(usage.used as u64).encode(family.encode_family(&[("pool", usage.pool)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "connection_permits_max",
            "Number of connection permits",
            None,
            MetricType::Gauge,
        )?;
        for usage in permits {
            metrics::gauge(usage.limit as u64).encode(family.encode_family(&[("pool", usage.pool)])?)?;
        }
        let (streams, limits) = (&self.0.streams, node.authenticator().limits());
        let mut family = encoder.encode_descriptor(
            "limit_rejections",
            "What limits of users and addresses rejected",
            None,
            MetricType::Counter,
        )?;
        for (limit, rejected) in [
            ("connections_per_address", streams.connections_per_address.rejected()),
            ("connections_per_user", limits.connections_per_user.rejected()),
            ("failed_logins_per_minute", limits.failed_logins.rejected()),
            ("publishes_per_second", limits.publishes.rejected()),
            ("publishes_per_second_per_user", limits.publishes_per_user.rejected()),
        ] {
            ConstCounter::new(rejected).encode(family.encode_family(&[("limit", limit)])?)?;
        }
        let family = encoder.encode_descriptor(
            "revocations",
            "Revocations and commands of the API in effect",
            None,
            MetricType::Gauge,
        )?;
        metrics::gauge(node.authenticator().revocations().len() as u64).encode(family)?;
        store_metrics::encode(&node.authenticator().stores(), &mut encoder)?;
        link_metrics::encode(&node.links(), &mut encoder)
    }
}
