//! The state of the links to Redis in `/health` and `/metrics`. Causes contain no secrets: the links redact them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde_json::{Value, json};

use crate::broker::{LinkStatus, Proof};
use crate::metrics::gauge;
use crate::node::Ear;

/// Returns the entry of a link in `/health`.
pub(super) fn state(ear: &Ear, link: LinkStatus) -> Value {
    let (age, rtt, error) = match link.proof {
        Some(Proof::Heard { age, lag }) => (Some(age.as_secs_f64()), Some(lag.as_secs_f64()), None),
        Some(Proof::Impossible(reason)) => (None, None, Some(reason)),
        None => (None, None, None),
    };
    json!({
        "redis": ear.name, "link": link.link, "affects_readiness": ear.affects_readiness,
        "up": link.up, "cause": link.cause, "replica": link.replica,
        "last_probe_age_seconds": age, "probe_rtt_seconds": rtt, "probe_error": error,
        "reconnects": link.reconnects, "desired": link.wanted, "active": link.confirmed,
    })
}

type Links<'a> = [(&'a Ear, LinkStatus)];

fn labels(ear: &Ear, link: &LinkStatus) -> [(&'static str, String); 2] {
    [("redis", ear.name.clone()), ("link", link.link.to_owned())]
}

/// Encodes the metrics of all links.
pub(super) fn encode(links: &Links<'_>, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut up =
        encoder.encode_descriptor("redis_up", "Whether a link to Redis is up", None, MetricType::Gauge)?;
    for (ear, link) in links {
        ConstGauge::new(i64::from(link.up)).encode(up.encode_family(&labels(ear, link))?)?;
    }
    let help =
        "Seconds that a link to Redis was down; for subscriptions counted from the last successful probe";
    let mut down = encoder.encode_descriptor("redis_down_seconds", help, None, MetricType::Counter)?;
    for (ear, link) in links {
        ConstCounter::new(link.down.as_secs_f64()).encode(down.encode_family(&labels(ear, link))?)?;
    }
    let help = "Failures of a link to Redis that was up";
    let mut lost = encoder.encode_descriptor("redis_link_failures", help, None, MetricType::Counter)?;
    for (ear, link) in links {
        for (reason, count) in &link.losses {
            let [redis, name] = labels(ear, link);
            let labels = [redis, name, ("reason", (*reason).to_owned())];
            ConstCounter::new(*count).encode(lost.encode_family(&labels)?)?;
        }
    }
    let help = "Reconnects of a link to Redis";
    let mut reconnects = encoder.encode_descriptor("redis_reconnects", help, None, MetricType::Counter)?;
    for (ear, link) in links {
        ConstCounter::new(link.reconnects).encode(reconnects.encode_family(&labels(ear, link))?)?;
    }
    let listening: Vec<_> = links.iter().filter(|(_, link)| link.link != "commands").collect();
    encode_proofs(&listening, encoder)?;
    encode_topics(&listening, encoder)
}

fn encode_proofs(links: &[&(&Ear, LinkStatus)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let proofs = || {
        links.iter().filter_map(|(ear, link)| match link.proof {
            Some(Proof::Heard { age, lag }) => Some((labels(ear, link), age, lag)),
            _ => None,
        })
    };
    let help = "Seconds since the last successful Redis probe";
    let mut ages =
        encoder.encode_descriptor("redis_last_probe_age_seconds", help, None, MetricType::Gauge)?;
    for (labels, age, _) in proofs() {
        ConstGauge::new(age.as_secs_f64()).encode(ages.encode_family(&labels)?)?;
    }
    let help = "Round-trip time of the last Redis probe";
    let mut lags = encoder.encode_descriptor("redis_probe_rtt_seconds", help, None, MetricType::Gauge)?;
    for (labels, _, lag) in proofs() {
        ConstGauge::new(lag.as_secs_f64()).encode(lags.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_topics(links: &[&(&Ear, LinkStatus)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Bytes received from Redis that are queued for the node";
    let mut handover =
        encoder.encode_descriptor("redis_receive_queue_bytes", help, None, MetricType::Gauge)?;
    for (ear, link) in links {
        let labels = labels(ear, link);
        gauge(link.handover_bytes as u64).encode(handover.encode_family(&labels)?)?;
    }
    let help = "Subscriptions at Redis";
    let mut topics = encoder.encode_descriptor("redis_subscriptions", help, None, MetricType::Gauge)?;
    for (ear, link) in links {
        for (state, count) in [("desired", link.wanted), ("active", link.confirmed)] {
            let [redis, name] = labels(ear, link);
            let labels = [redis, name, ("state", state.to_owned())];
            gauge(count as u64).encode(topics.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
