//! Counters and their Prometheus text.
//!
//! Owns every number that more than one module writes. Only a shard writes its own counters, so an increment is a plain
//! load and store; a scrape adds them up. Must never use a channel, a user or another unbounded value as a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use earshot_protocol::Disconnect;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A number with one writer: an increment needs no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the owner may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`. Only the owner may call it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// The current value; any thread may call it.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter that several threads write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A current number, which any thread can increment.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one until the guard is dropped.
    pub fn enter(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts as one in a [`Gauge`].
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Channels that were evicted early, by reason.
#[derive(Debug, Default)]
pub struct Evictions {
    /// The limit of channels was reached.
    pub limit: Counter,
    /// The limit of idle channels of one address was reached.
    pub address: Counter,
}

/// Why a connection of hyper was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpTimeout {
    /// No activity for `http.idle_timeout`.
    Idle,
    /// A connection beyond the limit, after `limits.reserved_timeout`.
    Reserved,
    /// The gateway shuts down.
    Shutdown,
}

/// The label values of [`HttpTimeout`], in the same order.
pub const HTTP_TIMEOUTS: [&str; 3] = ["idle", "reserved", "shutdown"];

/// The counters of one shard. The shard is the only writer.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Current WebSocket connections.
    pub websockets: Cell,
    /// Current SSE connections.
    pub sse: Cell,
    /// Current subscriptions.
    pub subscriptions: Cell,
    /// Publications added to client queues.
    pub deliveries: Cell,
    /// Write calls on sockets.
    pub writes: Cell,
    /// Bytes written to sockets.
    pub bytes_out: Cell,
    /// Bytes currently queued for clients.
    pub client_queue_bytes: Cell,
    /// Commands received from clients.
    pub commands: Cell,
    /// Times that reading from a client was paused.
    pub reads_paused: Cell,
    /// Gap notices sent to subscribers.
    pub gaps: Cell,
    /// Publications replaced by newer ones for slow consumers.
    pub conflated: Cell,
    /// Publications dropped for slow consumers, which get a gap notice.
    pub slow_consumer_dropped: Cell,
    /// Gaps of single subscribers because publications were dropped.
    pub slow_gaps: Cell,
    /// Connections closed by the gateway, by the index of the code in [`Disconnect::ALL`].
    pub server_disconnects: [Cell; Disconnect::ALL.len()],
    /// Connections closed for a violation of RFC 6455 or HTTP.
    pub protocol_errors: Cell,
}

/// The counters of the control plane.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Requests rejected because of their head.
    pub requests_rejected: Counter,
    /// Connections rejected because `limits.connections` was reached.
    pub connections_rejected: Counter,
    /// API requests rejected because `limits.api_buffer_bytes` was reached.
    pub api_requests_rejected: Counter,
    /// Current connections of hyper.
    pub http_connections: Gauge,
    /// Connections of hyper closed by a timeout, in the order of [`HttpTimeout`].
    pub http_timeouts: [Counter; HTTP_TIMEOUTS.len()],
    /// Channels without subscribers that were evicted early.
    pub channels_evicted: Evictions,
    /// Messages received from brokers.
    pub messages: Counter,
    /// Messages delivered on this node only, because the broker was unavailable.
    pub messages_local: Counter,
    /// Messages received for channels without a subscriber.
    pub messages_no_subscriber: Counter,
    /// Messages on a channel with a log that were not published through the log.
    pub messages_outside_log: Counter,
    /// Publications of clients and the API that a broker accepted.
    pub published: Counter,
    /// Idempotency keys that were evicted early, because too many are stored.
    pub idempotency_keys_evicted: Counter,
    /// Publications that failed.
    pub publish_failures: Counter,
    /// Channels that may have missed publications, by reason.
    pub gaps: [Counter; GAP_REASONS.len()],
}

/// The reasons of gaps as label values, in the order of [`ControlCounters::gaps`].
pub const GAP_REASONS: [&str; 6] =
    ["link-down", "queue-full", "too-large", "unknown-position", "history-too-short", "log-lost"];

/// All counters of a gateway.
#[derive(Debug)]
pub struct Metrics {
    /// One set for each shard.
    pub shards: Box<[Arc<ShardCounters>]>,
    /// The counters of the control plane.
    pub control: ControlCounters,
}

impl Metrics {
    /// Counters for this number of shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            control: ControlCounters::default(),
        })
    }

    /// The sum of one counter over all shards.
    pub fn sum(&self, of: impl Fn(&ShardCounters) -> &Cell) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).fold(0, u64::wrapping_add)
    }
}

/// Encodes the counters, and what `more` registers, as text.
///
/// # Errors
/// If formatting fails, which does not happen for a text in memory.
pub fn encode(metrics: &Arc<Metrics>, more: impl FnOnce(&mut Registry)) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("earshot");
    registry.register_collector(Box::new(Totals(Arc::clone(metrics))));
    more(&mut registry);
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Totals(Arc<Metrics>);

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

/// A gauge of a count.
pub fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
