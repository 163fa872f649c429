//! The counters of shards and control plane as metrics.
//!
//! Owns their names and help texts.

use std::borrow::Cow;
use std::sync::Arc;

use earshot_protocol::Disconnect;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::{Counter, GAP_REASONS, HTTP_TIMEOUTS, Metrics, gauge, latency};

#[derive(Debug)]
pub(super) struct Totals(pub(super) Arc<Metrics>);

/// The samples of a metric: one value, or one for each value of a label.
enum Samples {
    One(u64),
    By(&'static str, Vec<(Cow<'static, str>, u64)>),
}

/// A metric: name, help text, samples.
type Family = (&'static str, &'static str, Samples);

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = self.gauges().into_iter().map(|family| (MetricType::Gauge, family));
        let counters = self.counters().into_iter().map(|family| (MetricType::Counter, family));
        for (kind, (name, help, samples)) in gauges.chain(counters) {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            match samples {
                Samples::One(value) => encode_sample(kind, value, family)?,
                Samples::By(label, values) => {
                    for (name, value) in values {
                        encode_sample(kind, value, family.encode_family(&[(label, name)])?)?;
                    }
                }
            }
        }
        let help = "Time from a publication's entry into the queue of a shard until it is written to the last \
                    subscriber; sampled";
        let mut family =
            encoder.encode_descriptor("delivery_latency_seconds", help, None, MetricType::Histogram)?;
        latency::encode(self.0.shards.iter().map(|shard| &shard.delivery_latency), &mut family)
    }
}

fn encode_sample(kind: MetricType, value: u64, sample: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Gauge => gauge(value).encode(sample),
        _ => ConstCounter::new(value).encode(sample),
    }
}

/// The samples of a label with fixed values.
fn by(label: &'static str, values: impl IntoIterator<Item = (&'static str, u64)>) -> Samples {
    Samples::By(label, values.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

fn counts(names: &[&'static str], counters: &[Counter]) -> impl Iterator<Item = (&'static str, u64)> {
    names.iter().copied().zip(counters.iter().map(Counter::value))
}

impl Totals {
    fn gauges(&self) -> Vec<Family> {
        let metrics = &self.0;
        let transports = [("websocket", metrics.sum(|s| &s.websockets)), ("sse", metrics.sum(|s| &s.sse))];
        vec![
            ("connections", "Current client connections", by("transport", transports)),
            (
                "subscriptions",
                "Current client subscriptions",
                Samples::One(metrics.sum(|s| &s.subscriptions)),
            ),
            (
                "client_queue_bytes",
                "Bytes currently queued for clients",
                Samples::One(metrics.sum(|s| &s.client_queue_bytes)),
            ),
            (
                "http_connections",
                "Current connections that carry requests, or streams over HTTP/2",
                Samples::One(metrics.control.http_connections.value()),
            ),
        ]
    }

    fn counters(&self) -> Vec<Family> {
        let (metrics, control) = (&self.0, &self.0.control);
        let disconnects = Disconnect::ALL.iter().enumerate().map(|(index, disconnect)| {
            (disconnect.code().to_string().into(), metrics.sum(|s| &s.server_disconnects[index]))
        });
        let evicted = [
            ("limit", control.channels_evicted.limit.value()),
            ("address", control.channels_evicted.address.value()),
        ];
        // Gaps of single subscribers; all others concern every subscriber of a channel.
        let slow = ("slow-consumer", metrics.sum(|s| &s.slow_gaps));
        vec![
            (
                "deliveries",
                "Publications added to client queues",
                Samples::One(metrics.sum(|s| &s.deliveries)),
            ),
            ("writes", "Write calls on client sockets", Samples::One(metrics.sum(|s| &s.writes))),
            ("sent_bytes", "Bytes written to client sockets", Samples::One(metrics.sum(|s| &s.bytes_out))),
            ("commands", "Commands received from clients", Samples::One(metrics.sum(|s| &s.commands))),
            (
                "reads_paused",
                "Times that reading from a client was paused because too many of its commands were pending",
                Samples::One(metrics.sum(|s| &s.reads_paused)),
            ),
            ("gap_notices", "Gap notices sent to subscribers", Samples::One(metrics.sum(|s| &s.gaps))),
            (
                "conflated",
                "Publications replaced by newer ones for slow consumers",
                Samples::One(metrics.sum(|s| &s.conflated)),
            ),
            (
                "slow_consumer_dropped",
                "Publications dropped for slow consumers, which get a gap notice",
                Samples::One(metrics.sum(|s| &s.slow_consumer_dropped)),
            ),
            (
                "protocol_errors",
                "Connections closed because of a protocol error",
                Samples::One(metrics.sum(|s| &s.protocol_errors)),
            ),
            (
                "connections_accepted",
                "Connections accepted",
                Samples::One(control.connections_accepted.value()),
            ),
            (
                "requests_rejected",
                "Requests rejected because of their head",
                Samples::One(control.requests_rejected.value()),
            ),
            (
                "connections_rejected",
                "Connections rejected because limits.connections was reached",
                Samples::One(control.connections_rejected.value()),
            ),
            (
                "api_requests_rejected",
                "API requests rejected because limits.api_buffer_bytes was reached",
                Samples::One(control.api_requests_rejected.value()),
            ),
            ("messages", "Messages received from brokers", Samples::One(control.messages.value())),
            (
                "messages_local",
                "Messages delivered on this node only, because Redis was unavailable",
                Samples::One(control.messages_local.value()),
            ),
            (
                "messages_no_subscriber",
                "Messages received for channels without a subscriber",
                Samples::One(control.messages_no_subscriber.value()),
            ),
            (
                "messages_outside_log",
                "Messages on channels with a log that were not published through the log",
                Samples::One(control.messages_outside_log.value()),
            ),
            (
                "published",
                "Publications from clients and the API that a broker accepted",
                Samples::One(control.published.value()),
            ),
            (
                "idempotency_keys_evicted",
                "Idempotency keys evicted early, because too many are stored",
                Samples::One(control.idempotency_keys_evicted.value()),
            ),
            (
                "publish_failures",
                "Failed publications from clients and the API",
                Samples::One(control.publish_failures.value()),
            ),
            (
                "server_disconnects",
                "Connections closed by the gateway",
                Samples::By("code", disconnects.collect()),
            ),
            (
                "http_timeouts",
                "Connections that carry requests closed by a timeout",
                by("reason", counts(&HTTP_TIMEOUTS, &control.http_timeouts)),
            ),
            (
                "channels_evicted",
                "Channels without subscribers that were evicted early",
                by("reason", evicted),
            ),
            (
                "gaps",
                "Channels that may have missed publications",
                by("reason", counts(&GAP_REASONS, &control.gaps).chain([slow])),
            ),
        ]
    }
}
