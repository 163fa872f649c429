//! A histogram of latencies that one shard writes.
//!
//! Owns the buckets. A shard takes no lock to write it.

use std::time::Duration;

use prometheus_client::encoding::MetricEncoder;

use super::Cell;

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// A histogram of latencies. The shard is the only writer.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    /// One for each bound, and one for everything above.
    buckets: [Cell; BOUNDS.len() + 1],
    sum_nanoseconds: Cell,
}

impl LatencyHistogram {
    /// Adds a latency.
    pub fn record(&self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum_nanoseconds.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Encodes the sum of the histograms of all shards.
pub(super) fn encode<'a>(
    shards: impl Iterator<Item = &'a LatencyHistogram>,
    encoder: &mut MetricEncoder<'_>,
) -> std::fmt::Result {
    let mut buckets = BOUNDS.map(|bound| (bound, 0)).to_vec();
    buckets.push((f64::INFINITY, 0));
    let mut sum = Duration::ZERO;
    for shard in shards {
        for ((_, count), bucket) in buckets.iter_mut().zip(&shard.buckets) {
            *count += bucket.value();
        }
        sum += Duration::from_nanos(shard.sum_nanoseconds.value());
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<[(&str, &str); 0]>(sum.as_secs_f64(), count, &buckets, None)
}
