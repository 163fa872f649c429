//! The stores of sessions in `/health` and `/metrics`.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde_json::{Value, json};

use crate::metrics;
use crate::store::{KeyStore, ServerRole, StoreMetrics, StoreStatus, TrackingMode};

/// The state of a store in `/health`.
pub(super) fn state(store: &KeyStore) -> Value {
    let StoreStatus { connected, role, tracking, watched_keys, pending_endings, last_error } = store.status();
    let (tracking, reason) = match tracking {
        TrackingMode::Active => ("active", None),
        TrackingMode::Sweep { reason } => ("sweep", Some(reason)),
    };
    json!({
        "redis": store.name(),
        "connected": connected,
        "role": match role {
            ServerRole::Primary => "primary",
            ServerRole::Replica => "replica",
            ServerRole::Unknown => "unknown",
        },
        "tracking": tracking,
        "tracking_reason": reason,
        "watched": watched_keys,
        "pending_endings": pending_endings,
        "error": (!last_error.is_empty()).then_some(last_error),
    })
}

/// A value of the status as a gauge.
type StoreGauge = (&'static str, &'static str, fn(&StoreStatus) -> u64);

/// Gauges: name, help, value.
const GAUGES: [StoreGauge; 4] = [
    ("session_store_up", "Whether the store of sessions is connected", |status| u64::from(status.connected)),
    (
        "session_store_tracking",
        "Whether Redis reports changed sessions; 0: they are read at an interval",
        |status| u64::from(status.tracking == TrackingMode::Active),
    ),
    ("sessions_watched", "Sessions with a connected client", |status| status.watched_keys as u64),
    (
        "session_endings_pending",
        "Ended sessions whose clients are disconnected later, after a link failure",
        |status| status.pending_endings as u64,
    ),
];

/// A counter: name, help, value.
type CounterOf = (&'static str, &'static str, fn(&StoreMetrics) -> u64);

const COUNTERS: [CounterOf; 6] = [
    ("session_reads", "Sessions read for a login", |metrics| metrics.reads.value()),
    ("session_read_errors", "Sessions that could not be read for a login", |metrics| {
        metrics.read_errors.value()
    }),
    ("session_rereads", "Watched sessions read again", |metrics| metrics.rereads.value()),
    ("session_invalidations", "Changed keys that Redis reported", |metrics| metrics.invalidations.value()),
    ("session_endings", "Watched sessions that ended", |metrics| metrics.endings.value()),
    ("session_link_failures", "Failures of the links to the store of sessions", |metrics| {
        metrics.link_failures.value() + metrics.tracking_failures.value()
    }),
];

/// Writes the metrics of all stores.
///
/// # Errors
/// When the output fails.
pub(super) fn encode(
    stores: &[&KeyStore],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    if stores.is_empty() {
        return Ok(());
    }
    for (name, help, value) in GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for store in stores {
            let gauge = metrics::gauge(value(&store.status()));
            gauge.encode(family.encode_family(&[("redis", store.name())])?)?;
        }
    }
    for (name, help, value) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for store in stores {
            let counter = ConstCounter::new(value(store.metrics()));
            counter.encode(family.encode_family(&[("redis", store.name())])?)?;
        }
    }
    Ok(())
}
