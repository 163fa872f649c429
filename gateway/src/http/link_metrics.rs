//! The state of the links to brokers in `/health` and `/metrics`. The keys and metrics are documented as those of Redis.
//! Causes contain no secrets: the links redact them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde_json::{Value, json};

use crate::broker::{LinkStatus, ProbeState};
use crate::metrics::gauge;
use crate::node::BrokerBinding;

/// Returns the entry of a link in `/health`.
pub(super) fn state(binding: &BrokerBinding, link: LinkStatus) -> Value {
    let (age, rtt, error) = match link.probe {
        Some(ProbeState::Verified { age, rtt }) => (Some(age.as_secs_f64()), Some(rtt.as_secs_f64()), None),
        Some(ProbeState::Unavailable(reason)) => (None, None, Some(reason)),
        None => (None, None, None),
    };
    json!({
        "redis": binding.name, "link": link.link, "affects_readiness": binding.affects_readiness,
        "up": link.up, "cause": link.error, "replica": link.replica,
        "last_probe_age_seconds": age, "probe_rtt_seconds": rtt, "probe_error": error,
        "reconnects": link.reconnects, "desired": link.desired, "active": link.active,
    })
}

fn labels(binding: &BrokerBinding, link: &LinkStatus) -> [(&'static str, String); 2] {
    [("redis", binding.name.clone()), ("link", link.link.to_owned())]
}

/// Encodes the metrics of all links.
pub(super) fn encode(
    links: &[(&BrokerBinding, LinkStatus)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut up =
        encoder.encode_descriptor("redis_up", "Whether a link to Redis is up", None, MetricType::Gauge)?;
    for (binding, link) in links {
        ConstGauge::new(i64::from(link.up)).encode(up.encode_family(&labels(binding, link))?)?;
    }
    let help =
        "Seconds that a link to Redis was down; for subscriptions counted from the last successful probe";
    let mut down = encoder.encode_descriptor("redis_down_seconds", help, None, MetricType::Counter)?;
    for (binding, link) in links {
        ConstCounter::new(link.downtime.as_secs_f64()).encode(down.encode_family(&labels(binding, link))?)?;
    }
    let help = "Failures of a link to Redis that was up";
    let mut failures = encoder.encode_descriptor("redis_link_failures", help, None, MetricType::Counter)?;
    for (binding, link) in links {
        for (reason, count) in &link.failures {
            let [broker, name] = labels(binding, link);
            let labels = [broker, name, ("reason", (*reason).to_owned())];
            ConstCounter::new(*count).encode(failures.encode_family(&labels)?)?;
        }
    }
    let help = "Reconnects of a link to Redis";
    let mut reconnects = encoder.encode_descriptor("redis_reconnects", help, None, MetricType::Counter)?;
    for (binding, link) in links {
        ConstCounter::new(link.reconnects).encode(reconnects.encode_family(&labels(binding, link))?)?;
    }
    let subscribers: Vec<_> = links.iter().filter(|(_, link)| link.link != "commands").collect();
    encode_probes(&subscribers, encoder)?;
    encode_topics(&subscribers, encoder)
}

fn encode_probes(
    links: &[&(&BrokerBinding, LinkStatus)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let verified = || {
        links.iter().filter_map(|(binding, link)| match link.probe {
            Some(ProbeState::Verified { age, rtt }) => Some((labels(binding, link), age, rtt)),
            _ => None,
        })
    };
    let help = "Seconds since the last successful Redis probe";
    let mut ages =
        encoder.encode_descriptor("redis_last_probe_age_seconds", help, None, MetricType::Gauge)?;
    for (labels, age, _) in verified() {
        ConstGauge::new(age.as_secs_f64()).encode(ages.encode_family(&labels)?)?;
    }
    let help = "Round-trip time of the last Redis probe";
    let mut rtts = encoder.encode_descriptor("redis_probe_rtt_seconds", help, None, MetricType::Gauge)?;
    for (labels, _, rtt) in verified() {
        ConstGauge::new(rtt.as_secs_f64()).encode(rtts.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_topics(
    links: &[&(&BrokerBinding, LinkStatus)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let help = "Bytes received from Redis that are queued for the node";
    let mut queued = encoder.encode_descriptor("redis_receive_queue_bytes", help, None, MetricType::Gauge)?;
    for (binding, link) in links {
        let labels = labels(binding, link);
        gauge(link.receive_queue_bytes as u64).encode(queued.encode_family(&labels)?)?;
    }
    let help = "Subscriptions in Redis, desired and active";
    let mut topics = encoder.encode_descriptor("redis_subscriptions", help, None, MetricType::Gauge)?;
    for (binding, link) in links {
        for (state, count) in [("desired", link.desired), ("active", link.active)] {
            let [broker, name] = labels(binding, link);
            let labels = [broker, name, ("state", state.to_owned())];
            gauge(count as u64).encode(topics.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
