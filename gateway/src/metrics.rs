//! Counters, and their Prometheus text.
//!
//! Owns every number that more than one module writes. A shard's counters have that shard as their only writer, so
//! an increment is a plain load and store; they are summed when scraped. Must never carry a channel, a user or any
//! other unbounded value in a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use earshot_protocol::Disconnect;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A number with one writer at a time: incrementing costs no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the owner of the cell may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away. Only the owner of the cell may call it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// The present value; anybody may ask.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that several threads write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The present value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that are there now, which any thread may enter.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
    }

    /// The present value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts as one of a [`Gauge`].
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Channels that were let go before their time, by reason.
#[derive(Debug, Default)]
pub struct Evictions {
    /// The limit of channels was reached.
    pub limit: Counter,
    /// One address had left too many behind.
    pub address: Counter,
}

/// Why a connection that hyper carried was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpTimeout {
    /// Nothing happened on it for `http.idle_timeout`.
    Idle,
    /// It was beyond the limit of connections, and had its time.
    Reserved,
    /// The gateway stops.
    Shutdown,
}

/// The label values of [`HttpTimeout`], in its order.
pub const HTTP_TIMEOUTS: [&str; 3] = ["idle", "reserved", "shutdown"];

/// What one shard counts. The shard is the only writer.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// WebSocket connections now.
    pub websockets: Cell,
    /// SSE connections now.
    pub sse: Cell,
    /// Subscriptions now.
    pub subscriptions: Cell,
    /// Publications put into an outbox.
    pub deliveries: Cell,
    /// Write calls made on sockets.
    pub writes: Cell,
    /// Bytes written to sockets.
    pub bytes_out: Cell,
    /// Bytes that wait in outboxes now.
    pub client_queue_bytes: Cell,
    /// Commands received from clients.
    pub commands: Cell,
    /// Times that reading from a client was paused.
    pub reads_paused: Cell,
    /// Gap notices given to subscribers.
    pub gaps: Cell,
    /// Publications that gave way to their successors, since a client was slow.
    pub conflated: Cell,
    /// Publications dropped for slow clients, who are told.
    pub slow_consumer_dropped: Cell,
    /// Holes that dropping left in the sequence of a subscriber.
    pub slow_gaps: Cell,
    /// Connections that this gateway closed, by the place of the code in [`Disconnect::ALL`].
    pub server_disconnects: [Cell; Disconnect::ALL.len()],
    /// Connections closed for a violation of RFC 6455 or HTTP.
    pub protocol_errors: Cell,
}

/// What the control plane counts.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Heads refused, for whatever reason.
    pub requests_rejected: Counter,
    /// Connections refused because the limit `connections` was reached.
    pub connections_rejected: Counter,
    /// API requests rejected because `limits.api_buffer_bytes` was reached.
    pub api_requests_rejected: Counter,
    /// Connections that hyper carries now.
    pub http_connections: Gauge,
    /// Connections that hyper carried and whose time was over, in the order of [`HttpTimeout`].
    pub http_timeouts: [Counter; HTTP_TIMEOUTS.len()],
    /// Channels without a subscriber that were let go before their time.
    pub channels_evicted: Evictions,
    /// Messages heard from brokers.
    pub messages: Counter,
    /// Messages of this node's own clients that only they got, since the broker was away.
    pub messages_local: Counter,
    /// Messages heard that nobody here subscribes to.
    pub messages_no_subscriber: Counter,
    /// Messages heard on a channel with a log that were not published through it.
    pub messages_outside_log: Counter,
    /// Publications handed to a broker for clients and the API.
    pub published: Counter,
    /// Idempotency keys that were forgotten before their time, since too many are remembered.
    pub idempotency_keys_evicted: Counter,
    /// Publications that a broker did not take.
    pub publish_failures: Counter,
    /// Channels that may have missed publications, by cause.
    pub gaps: [Counter; GAP_CAUSES.len()],
}

/// The causes of gaps, as label values, in the order of [`ControlCounters::gaps`].
pub const GAP_CAUSES: [&str; 6] =
    ["link-down", "queue-full", "too-large", "unknown-position", "history-too-short", "log-lost"];

/// All counters of a gateway.
#[derive(Debug)]
pub struct Metrics {
    /// One set for each shard.
    pub shards: Box<[Arc<ShardCounters>]>,
    /// The control plane's.
    pub control: ControlCounters,
}

impl Metrics {
    /// Counters for so many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            control: ControlCounters::default(),
        })
    }

    /// The sum of one number over all shards.
    pub fn sum(&self, of: impl Fn(&ShardCounters) -> &Cell) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).fold(0, u64::wrapping_add)
    }
}

/// Builds the text of `/metrics` from this gateway's counters and whatever else `more` registers.
///
/// # Errors
/// When the text cannot be formatted (never, in practice: the writer is memory).
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
        let mut family =
            encoder.encode_descriptor("connections", "Client connections now", None, MetricType::Gauge)?;
        for (transport, value) in
            [("websocket", metrics.sum(|s| &s.websockets)), ("sse", metrics.sum(|s| &s.sse))]
        {
            gauge(value).encode(family.encode_family(&[("transport", transport)])?)?;
        }
        for (name, help, value) in [
            ("subscriptions", "Subscriptions of clients now", metrics.sum(|s| &s.subscriptions)),
            ("client_queue_bytes", "Bytes that wait for clients now", metrics.sum(|s| &s.client_queue_bytes)),
            (
                "http_connections",
                "Connections now that carry requests, or streams over HTTP/2",
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
            ("deliveries", "Publications put into a client's outbox", metrics.sum(|s| &s.deliveries)),
            ("writes", "Write calls on client sockets", metrics.sum(|s| &s.writes)),
            ("sent_bytes", "Bytes written to client sockets", metrics.sum(|s| &s.bytes_out)),
            ("commands", "Commands received from clients", metrics.sum(|s| &s.commands)),
            (
                "reads_paused",
                "Times that reading from a client was paused, since too many of its commands waited",
                metrics.sum(|s| &s.reads_paused),
            ),
            ("gap_notices", "Gap notices given to subscribers", metrics.sum(|s| &s.gaps)),
            (
                "conflated",
                "Publications that gave way to their successors for slow clients",
                metrics.sum(|s| &s.conflated),
            ),
            (
                "slow_consumer_dropped",
                "Publications dropped for slow clients, who are told",
                metrics.sum(|s| &s.slow_consumer_dropped),
            ),
            ("protocol_errors", "Connections closed for broken framing", metrics.sum(|s| &s.protocol_errors)),
            ("connections_accepted", "Connections accepted", control.connections_accepted.value()),
            ("requests_rejected", "Request heads refused", control.requests_rejected.value()),
            (
                "connections_rejected",
                "Connections over the limit `connections`",
                control.connections_rejected.value(),
            ),
            (
                "api_requests_rejected",
                "API requests rejected because api_buffer_bytes was reached",
                control.api_requests_rejected.value(),
            ),
            ("messages", "Messages heard from brokers", control.messages.value()),
            (
                "messages_local",
                "Publications that reached this node alone, since Redis was away",
                control.messages_local.value(),
            ),
            (
                "messages_no_subscriber",
                "Messages heard that nobody here subscribes to",
                control.messages_no_subscriber.value(),
            ),
            (
                "messages_outside_log",
                "Messages on channels with a log that were not published through it",
                control.messages_outside_log.value(),
            ),
            ("published", "Publications handed to a broker", control.published.value()),
            (
                "idempotency_keys_evicted",
                "Idempotency keys forgotten before their time, since too many are remembered",
                control.idempotency_keys_evicted.value(),
            ),
            ("publish_failures", "Publications that a broker did not take", control.publish_failures.value()),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)?;
        }
        Ok(())
    }

    fn labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "server_disconnects",
            "Connections closed by this gateway",
            None,
            MetricType::Counter,
        )?;
        for (place, disconnect) in Disconnect::ALL.iter().enumerate() {
            let value = self.0.sum(|s| &s.server_disconnects[place]);
            ConstCounter::new(value)
                .encode(family.encode_family(&[("code", u64::from(disconnect.code()))])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "http_timeouts",
            "Connections that carried requests and were ended by a time-out",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in HTTP_TIMEOUTS.iter().zip(&self.0.control.http_timeouts) {
            ConstCounter::new(count.value()).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "channels_evicted",
            "Channels without a subscriber that were let go before their time",
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
        for (cause, count) in GAP_CAUSES.iter().zip(&self.0.control.gaps) {
            ConstCounter::new(count.value()).encode(family.encode_family(&[("reason", *cause)])?)?;
        }
        // Of a single subscriber, where the others are of all who hear the channel.
        let slow = self.0.sum(|s| &s.slow_gaps);
        ConstCounter::new(slow).encode(family.encode_family(&[("reason", "slow-consumer")])?)?;
        Ok(())
    }
}

/// A gauge of a count.
pub fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
