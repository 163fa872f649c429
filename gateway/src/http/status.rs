//! `/health`, `/ready` and `/metrics`: what operators and balancers ask.
//!
//! Must never ask a shard: it answers when every shard is busy.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use serde_json::json;

use super::{Context, links};
use crate::broker::LinkStatus;
use crate::metrics;

/// `GET /health`: the process lives; how each link stands. Always 200.
pub async fn health(State(context): State<Arc<Context>>) -> Response {
    let (node, metrics) = (&context.node, &context.metrics);
    let hearing = node.is_hearing();
    let links: Vec<_> = node.links().into_iter().map(|(ear, link)| links::state(ear, link)).collect();
    Json(json!({
        "status": if hearing { "ok" } else { "degraded" },
        "cache": if node.has_broker() && hearing { "redis" } else { "memory" },
        "version": env!("CARGO_PKG_VERSION"),
        "node": context.uid,
        "uptime_seconds": context.started.elapsed().as_secs(),
        "draining": context.drain.is_draining(),
        "connections": {
            "websocket": metrics.sum(|shard| &shard.websockets),
            "sse": metrics.sum(|shard| &shard.sse),
        },
        "channels": node.channels(),
        "links": links,
    }))
    .into_response()
}

/// `GET /ready`: 200 when newcomers are welcome, 503 when they should go elsewhere.
pub async fn ready(State(context): State<Arc<Context>>) -> Response {
    let reason = if context.drain.is_draining() {
        Some("draining".to_owned())
    } else {
        let links = context.node.links();
        let deaf_one = links.iter().find(|(ear, link)| ear.required && !link.up);
        deaf_one.map(|(ear, link)| deaf(&ear.name, link))
    };
    match reason {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = Json(json!({ "ready": false, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

fn deaf(broker: &str, link: &LinkStatus) -> String {
    let cause = link.cause.as_deref().unwrap_or("not connected yet");
    format!("redis {broker}, {}: {cause}", link.link)
}

/// `GET /metrics`: the Prometheus text.
pub async fn metrics(State(context): State<Arc<Context>>) -> Response {
    let text = metrics::encode(&context.metrics, |registry| {
        registry.register_collector(Box::new(NodeState(Arc::clone(&context))));
    });
    match text {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => super::refuse(500, error.to_string()),
    }
}

#[derive(Debug)]
struct NodeState(Arc<Context>);

impl Collector for NodeState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let node = &self.0.node;
        let channels =
            encoder.encode_descriptor("channels", "Channels known on this node", None, MetricType::Gauge)?;
        metrics::gauge(node.channels() as u64).encode(channels)?;
        let history = encoder.encode_descriptor(
            "history_bytes",
            "Bytes that channels remember on this node",
            None,
            MetricType::Gauge,
        )?;
        metrics::gauge(node.history_bytes() as u64).encode(history)?;
        let permits = self.0.gate.admission.usage();
        let mut family = encoder.encode_descriptor(
            "connection_permits",
            "Permits for connections that are held",
            None,
            MetricType::Gauge,
        )?;
        for usage in permits {
            metrics::gauge(usage.used as u64).encode(family.encode_family(&[("pool", usage.pool)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "connection_permits_max",
            "Permits for connections that there are",
            None,
            MetricType::Gauge,
        )?;
        for usage in permits {
            metrics::gauge(usage.limit as u64).encode(family.encode_family(&[("pool", usage.pool)])?)?;
        }
        links::encode(&node.links(), &mut encoder)
    }
}
