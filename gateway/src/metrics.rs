//! Counters and their Prometheus text.
//!
//! Owns every number that more than one module writes. Only a shard writes its own counters, so an increment is a plain
//! load and store; a scrape adds them up. Must never use a channel, a user or another unbounded value as a label.
//!
//! - `totals`: the counters as metrics; `api`: requests of the HTTP API; `latency`: a histogram; `process`: the process and its version
//! - `text`: the two text formats

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use earshot_protocol::Disconnect;
use prometheus_client::metrics::gauge::ConstGauge;

mod api;
mod latency;
mod process;
mod text;
mod totals;

pub use api::ApiMetrics;
pub use latency::LatencyHistogram;
use process::ProcessStart;
pub use text::{TextFormat, encode};

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
    /// Time from the entry of a batch of publications into the shard queue until it was written; sampled.
    pub delivery_latency: LatencyHistogram,
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

/// The counters of one namespace.
#[derive(Debug, Default)]
pub struct NamespaceCounters {
    /// Publications received on its channels that are known to this node.
    pub messages: Counter,
    /// Publications from clients and the API that a broker accepted.
    pub published: Counter,
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
    /// Publications from clients and the API that a broker accepted.
    pub published: Counter,
    /// Idempotency keys that were evicted early, because too many are stored.
    pub idempotency_keys_evicted: Counter,
    /// Publications that failed.
    pub publish_failures: Counter,
    /// Channels that may have missed publications, by reason.
    pub gaps: [Counter; GAP_REASONS.len()],
}

/// Gap reasons as label values, in the order of [`ControlCounters::gaps`].
pub const GAP_REASONS: [&str; 6] =
    ["link-down", "queue-full", "too-large", "unknown-position", "history-too-short", "log-lost"];

/// All counters of a gateway.
#[derive(Debug)]
pub struct Metrics {
    /// One set for each shard.
    pub shards: Box<[Arc<ShardCounters>]>,
    /// The counters of the control plane.
    pub control: ControlCounters,
    /// Requests of the HTTP API.
    pub api: ApiMetrics,
    process: ProcessStart,
}

impl ControlCounters {
    /// Counts gaps of one of [`GAP_REASONS`].
    pub fn count_gaps(&self, reason: &str, channels: usize) {
        if let Some(index) = GAP_REASONS.iter().position(|known| *known == reason) {
            self.gaps[index].add(channels as u64);
        }
    }
}

impl Metrics {
    /// Counters for this number of shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            control: ControlCounters::default(),
            api: ApiMetrics::default(),
            process: ProcessStart::now(),
        })
    }

    /// The sum of one counter over all shards.
    pub fn sum(&self, of: impl Fn(&ShardCounters) -> &Cell) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).fold(0, u64::wrapping_add)
    }
}

/// A gauge of a count.
pub fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
