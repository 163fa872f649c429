//! Unit costs from a benchmark result. A cost that was not measured is an error that names it.

use crate::bench::Subject::{Earshot, KernelBaseline};
use crate::bench::{BenchResult, RunMetrics, Subject, median as median_of};
use crate::median;
use crate::redis_costs::{PublishCost, PublishPattern, RedisCosts};

use super::UserTransport;

/// Kernel memory of an idle connection: growth of the slab caches with 18,000 connections on loopback, divided by both
/// ends (/proc/meminfo, Linux 6.18).
pub(crate) const KERNEL_BYTES_PER_SOCKET: f64 = 4.5 * 1024.0;
/// Overhead of a payload on the network: frame or event (about 64), TCP with timestamps, IP and Ethernet (90, including
/// the inter-frame gap).
pub(crate) const FRAMING_BYTES: f64 = 154.0;
/// Overhead of a history entry: 10,000 channels with 33 entries each used 477 bytes per entry of 128 bytes.
pub(crate) const HISTORY_ENTRY_BYTES: f64 = 349.0;

/// Seconds of CPU time, and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Constants {
    /// A delivery with one write, with the largest number of sockets measured: their state does not fit into the CPU
    /// caches.
    pub(crate) delivery: f64,
    /// A publication on its path from Redis to its shard.
    pub(crate) publication: f64,
    /// A connection with its subscription, from accept to reply.
    pub(crate) connect: f64,
    /// An idle connection per second: its pings.
    pub(crate) idle: f64,
    /// Memory of an idle connection.
    pub(crate) connection_bytes: f64,
    /// Memory of a channel on a node.
    pub(crate) channel_bytes: f64,
    /// Redis: a publication without subscribers.
    pub(crate) redis_publication: f64,
    /// Redis: each additional gateway that receives a publication.
    pub(crate) redis_gateway: f64,
    /// Redis: a subscription.
    pub(crate) redis_subscription: f64,
    /// Redis: memory of a subscription.
    pub(crate) redis_subscription_bytes: f64,
}

impl Constants {
    /// Computes the costs from the medians of a result.
    pub(crate) fn of(outcome: &BenchResult, transport: UserTransport) -> Result<Self, String> {
        let of = |case: &str, subject: Subject, what: &str, pick: fn(&RunMetrics) -> Option<f64>| {
            let median = median_of(&outcome.runs, case, subject, pick);
            median.ok_or_else(|| format!("no {what} in case `{case}`"))
        };
        let micros = |case: &str, subject| {
            Ok::<f64, String>(of(case, subject, "CPU time", |n| n.micros_per_delivery)? / 1e6)
        };
        let memory = |case: &str| of(case, Earshot, "memory", |n| n.bytes_per_connection);
        let largest = format!("growth {}", outcome.size.idle);
        let connect = match transport {
            UserTransport::Ws => "connect WebSocket",
            UserTransport::Sse => "connect SSE",
        };
        let alone = memory(&largest)?;
        let redis = Redis::of(outcome).ok_or("no Redis costs")?;
        Ok(Self {
            delivery: micros(&largest, Earshot)?,
            publication: (micros("many channels", Earshot)? - micros("many channels", KernelBaseline)?)
                .max(0.0),
            connect: of(connect, Earshot, "CPU time", |n| n.micros_per_connection)? / 1e6,
            idle: of("idle", Earshot, "cores", |n| n.cores_per_100000)? / 1e5,
            connection_bytes: alone,
            channel_bytes: (memory("many channels")? - alone).max(0.0),
            redis_publication: redis.publication,
            redis_gateway: redis.gateway,
            redis_subscription: redis.subscription,
            redis_subscription_bytes: redis.subscription_bytes,
        })
    }
}

struct Redis {
    publication: f64,
    gateway: f64,
    subscription: f64,
    subscription_bytes: f64,
}

impl Redis {
    fn of(outcome: &BenchResult) -> Option<Self> {
        let rounds = &outcome.redis;
        let most = rounds.iter().flat_map(|costs| &costs.publish).map(|publish| publish.gateways).max()?;
        let (none, all) = (publish_micros(rounds, 0)?, publish_micros(rounds, most)?);
        let first = |pick: fn(&crate::redis_costs::SubscribeCost) -> f64| {
            median::median(rounds.iter().filter_map(|costs| costs.subscribe.first().map(pick)))
        };
        Some(Self {
            publication: none / 1e6,
            gateway: (all - none).max(0.0) / most as f64 / 1e6,
            subscription: first(|cost| cost.micros)? / 1e6,
            subscription_bytes: first(|cost| cost.bytes)?,
        })
    }
}

/// Microseconds per publication for a number of gateways, with the most expensive pattern.
fn publish_micros(rounds: &[RedisCosts], gateways: usize) -> Option<f64> {
    let those =
        || rounds.iter().flat_map(|costs| &costs.publish).filter(|publish| publish.gateways == gateways);
    let of = |publish: &PublishCost| publish.core_micros.unwrap_or(publish.micros);
    let mut patterns: Vec<PublishPattern> = those().map(|publish| publish.pattern).collect();
    patterns.sort_unstable_by_key(|pattern| pattern.publishers);
    patterns.dedup();
    let medians = patterns
        .into_iter()
        .filter_map(|pattern| median::median(those().filter(|publish| publish.pattern == pattern).map(of)));
    medians.max_by(f64::total_cmp)
}
