//! Goals: ratios to the kernel baseline and to nchan within one run, and absolute limits.

use super::Subject;
use super::Subject::{KernelBaseline, Nchan};
use super::run::RunMetrics;

/// Selects a metric of a run.
pub(super) type Selector = fn(&RunMetrics) -> Option<f64>;

/// Goal for a metric of Earshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// At most this multiple of another subject's value.
    RatioAtMost(f64, Subject),
    /// At least this multiple of another subject's value.
    RatioAtLeast(f64, Subject),
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
}

/// Row of the summary table.
#[derive(Clone, Debug)]
pub(super) struct MetricRow {
    pub(super) label: &'static str,
    pub(super) case: &'static str,
    pub(super) unit: &'static str,
    pub(super) select: Selector,
    pub(super) goals: &'static [Goal],
    /// Whether the metric is a maximum rate. The row then names subjects with spare capacity.
    pub(super) is_rate: bool,
}

const fn metric(
    label: &'static str,
    case: &'static str,
    unit: &'static str,
    select: Selector,
    goals: &'static [Goal],
) -> MetricRow {
    MetricRow { label, case, unit, select, goals, is_rate: false }
}

/// A maximum rate per second.
const fn rate(
    label: &'static str,
    case: &'static str,
    select: Selector,
    goals: &'static [Goal],
) -> MetricRow {
    MetricRow { label, case, unit: "/s", select, goals, is_rate: true }
}

const CPU: Selector = |metrics| metrics.micros_per_delivery;
const USER: Selector = |metrics| metrics.user_share.map(|share| share * 100.0);
const MEMORY: Selector = |metrics| metrics.bytes_per_connection.map(|bytes| bytes / 1024.0);
const RATE: Selector = |metrics| Some(metrics.deliveries_per_second);
const CONNECTIONS: Selector = |metrics| Some(metrics.connections_per_second);
const CONNECTION: Selector = |metrics| metrics.micros_per_connection;

/// All rows in display order, except those of [`GROWTH_METRICS`].
pub(super) const METRICS: &[MetricRow] = {
    use Goal::{AtLeast, AtMost, RatioAtLeast, RatioAtMost};
    const BURST: &[Goal] = &[RatioAtMost(1.3, KernelBaseline)];
    const ONE: &[Goal] = &[RatioAtMost(1.15, KernelBaseline), RatioAtMost(0.75, Nchan)];
    &[
        metric("CPU per delivery, WebSocket", "fanout WebSocket", "µs", CPU, ONE),
        metric("of which in user space", "fanout WebSocket", "%", USER, &[AtMost(15.0)]),
        metric("CPU per delivery, SSE", "fanout SSE", "µs", CPU, ONE),
        metric("of which in user space, SSE", "fanout SSE", "%", USER, &[AtMost(15.0)]),
        metric("CPU per delivery, WebSocket, bursts of ten", "burst WebSocket", "µs", CPU, BURST),
        metric("CPU per delivery, SSE, bursts of ten", "burst SSE", "µs", CPU, BURST),
        rate(
            "many channels, one subscriber each: deliveries per second",
            "many channels",
            RATE,
            &[RatioAtLeast(0.6, KernelBaseline)],
        ),
        metric("many channels: CPU per delivery", "many channels", "µs", CPU, &[]),
        metric(
            "many channels: lost",
            "many channels",
            "",
            |metrics| Some(metrics.lost as f64),
            &[AtMost(0.0)],
        ),
        rate("highest rate, one channel: deliveries per second", "highest", RATE, &[]),
        metric("latency at half load, p50", "half load", "ms", |metrics| Some(metrics.p50), &[]),
        metric(
            "latency at half load, p99",
            "half load",
            "ms",
            |metrics| Some(metrics.p99),
            &[RatioAtMost(2.0, KernelBaseline)],
        ),
        metric("latency at half load, p99.9", "half load", "ms", |metrics| Some(metrics.p99_9), &[]),
        metric("memory per idle connection, WebSocket", "memory WebSocket", "KiB", MEMORY, &[AtMost(2.5)]),
        metric("memory per idle connection, SSE", "memory SSE", "KiB", MEMORY, &[AtMost(2.0)]),
        metric(
            "memory after a burst, above idle, WebSocket",
            "burst WebSocket",
            "%",
            |metrics| metrics.retained_percent,
            &[AtMost(10.0)],
        ),
        metric(
            "memory after a burst, above idle, SSE",
            "burst SSE",
            "%",
            |metrics| metrics.retained_percent,
            &[AtMost(10.0)],
        ),
        rate(
            "connections accepted and subscribed per second, WebSocket (nchan needs no subscribe command)",
            "connect WebSocket",
            CONNECTIONS,
            &[AtLeast(15_000.0)],
        ),
        metric("CPU per connection, WebSocket", "connect WebSocket", "µs", CONNECTION, &[]),
        rate("connections accepted and subscribed per second, SSE", "connect SSE", CONNECTIONS, &[]),
        metric("CPU per connection, SSE", "connect SSE", "µs", CONNECTION, &[]),
        metric(
            "100,000 idle connections: cores",
            "idle",
            "",
            |metrics| metrics.cores_per_100000,
            &[AtMost(0.06)],
        ),
        metric(
            "100,000 idle connections: memory",
            "idle",
            "MiB",
            |metrics| metrics.mib_per_100000,
            &[AtMost(300.0)],
        ),
    ]
};

/// A metric that must not depend on the number of subscribers.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrowthMetric {
    pub(super) label: &'static str,
    pub(super) unit: &'static str,
    pub(super) select: Selector,
    /// Smallest number of subscribers that is considered.
    pub(super) from: u32,
    /// Whether the kernel baseline is compared as well.
    pub(super) has_kernel_baseline: bool,
}

/// Below 1000 subscribers, the server's own memory dominates memory per connection. The kernel baseline
/// keeps no memory per connection.
pub(super) const GROWTH_METRICS: &[GrowthMetric] = &[
    GrowthMetric { label: "CPU per delivery", unit: "µs", select: CPU, from: 0, has_kernel_baseline: true },
    GrowthMetric {
        label: "memory per connection",
        unit: "KiB",
        select: MEMORY,
        from: 1000,
        has_kernel_baseline: false,
    },
];
/// Allowed deviation from the mean over all numbers of subscribers, in per cent.
pub(super) const FLAT_TOLERANCE_PERCENT: f64 = 20.0;
