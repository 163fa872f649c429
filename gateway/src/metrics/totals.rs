//! The counters of shards and control plane as metrics.
//!
//! Owns their names and help texts.

use std::sync::Arc;

use earshot_protocol::Disconnect;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::{GAP_REASONS, HTTP_TIMEOUTS, Metrics, gauge};

#[derive(Debug)]
pub(super) struct Totals(pub(super) Arc<Metrics>);

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.gauges(&mut encoder)?;
        self.counters(&mut encoder)?;
        self.labelled(&mut encoder)
    }
}

impl Totals {
    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let metrics = &self.0;
        let mut family = encoder.encode_descriptor(
            "connections",
            "Current client connections",
            None,
            MetricType::Gauge,
        )?;
        for (transport, value) in
            [("websocket", metrics.sum(|s| &s.websockets)), ("sse", metrics.sum(|s| &s.sse))]
        {
            gauge(value).encode(family.encode_family(&[("transport", transport)])?)?;
        }
        for (name, help, value) in [
            ("subscriptions", "Current client subscriptions", metrics.sum(|s| &s.subscriptions)),
            (
                "client_queue_bytes",
                "Bytes currently queued for clients",
                metrics.sum(|s| &s.client_queue_bytes),
            ),
            (
                "http_connections",
                "Current connections that carry requests, or streams over HTTP/2",
                metrics.control.http_connections.value(),
            ),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(value).encode(family)?;
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (metrics, control) = (&self.0, &self.0.control);
        for (name, help, value) in [
            ("deliveries", "Publications added to client queues", metrics.sum(|s| &s.deliveries)),
            ("writes", "Write calls on client sockets", metrics.sum(|s| &s.writes)),
            ("sent_bytes", "Bytes written to client sockets", metrics.sum(|s| &s.bytes_out)),
            ("commands", "Commands received from clients", metrics.sum(|s| &s.commands)),
            (
                "reads_paused",
                "Times that reading from a client was paused because too many of its commands were pending",
                metrics.sum(|s| &s.reads_paused),
            ),
            ("gap_notices", "Gap notices sent to subscribers", metrics.sum(|s| &s.gaps)),
            (
                "conflated",
                "Publications replaced by newer ones for slow consumers",
                metrics.sum(|s| &s.conflated),
            ),
            (
                "slow_consumer_dropped",
                "Publications dropped for slow consumers, which get a gap notice",
                metrics.sum(|s| &s.slow_consumer_dropped),
            ),
            (
                "protocol_errors",
                "Connections closed because of a protocol error",
                metrics.sum(|s| &s.protocol_errors),
            ),
            ("connections_accepted", "Connections accepted", control.connections_accepted.value()),
            (
                "requests_rejected",
                "Requests rejected because of their head",
                control.requests_rejected.value(),
            ),
            (
                "connections_rejected",
                "Connections rejected because limits.connections was reached",
                control.connections_rejected.value(),
            ),
            (
                "api_requests_rejected",
                "API requests rejected because limits.api_buffer_bytes was reached",
                control.api_requests_rejected.value(),
            ),
            ("messages", "Messages received from brokers", control.messages.value()),
            (
                "messages_local",
                "Messages delivered on this node only, because Redis was unavailable",
                control.messages_local.value(),
            ),
            (
                "messages_no_subscriber",
                "Messages received for channels without a subscriber",
                control.messages_no_subscriber.value(),
            ),
            (
                "messages_outside_log",
                "Messages on channels with a log that were not published through the log",
                control.messages_outside_log.value(),
            ),
            (
                "published",
                "Publications of clients and the API that a broker accepted",
                control.published.value(),
            ),
            (
                "idempotency_keys_evicted",
                "Idempotency keys evicted early, because too many are stored",
                control.idempotency_keys_evicted.value(),
            ),
            (
                "publish_failures",
                "Failed publications of clients and the API",
                control.publish_failures.value(),
            ),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)?;
        }
        Ok(())
    }

    fn labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "server_disconnects",
            "Connections closed by the gateway",
            None,
            MetricType::Counter,
        )?;
        for (index, disconnect) in Disconnect::ALL.iter().enumerate() {
            let value = self.0.sum(|s| &s.server_disconnects[index]);
            ConstCounter::new(value)
                .encode(family.encode_family(&[("code", u64::from(disconnect.code()))])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "http_timeouts",
            "Connections that carry requests closed by a timeout",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in HTTP_TIMEOUTS.iter().zip(&self.0.control.http_timeouts) {
            ConstCounter::new(count.value()).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "channels_evicted",
            "Channels without subscribers that were evicted early",
            None,
            MetricType::Counter,
        )?;
        let evicted = &self.0.control.channels_evicted;
        for (reason, count) in [("limit", &evicted.limit), ("address", &evicted.address)] {
            ConstCounter::new(count.value()).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "gaps",
            "Channels that may have missed publications",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in GAP_REASONS.iter().zip(&self.0.control.gaps) {
            ConstCounter::new(count.value()).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        // Gaps of single subscribers; all others concern every subscriber of a channel.
        let slow = self.0.sum(|s| &s.slow_gaps);
        ConstCounter::new(slow).encode(family.encode_family(&[("reason", "slow-consumer")])?)?;
        Ok(())
    }
}
