//! What one of each thing costs, out of a result. Never guesses: what was not measured is an error that names it.

use crate::bench::Subject::{Earshot, KernelBaseline};
use crate::bench::{BenchResult, RunMetrics, Subject, median as median_of};
use crate::median;
use crate::redis_costs::{PublishCost, PublishPattern, RedisCosts};

use super::UserTransport;

/// The kernel's memory for an idle connection: what its slab caches grew by with 18,000 connections on loopback, both
/// ends counted, divided by both (/proc/meminfo, Linux 6.18).
pub(crate) const KERNEL_BYTES_PER_SOCKET: f64 = 4.5 * 1024.0;
/// What is around a payload on its pattern: the frame or event (about 64), TCP with timestamps, IP and Ethernet (90, gaps
/// included).
pub(crate) const FRAMING_BYTES: f64 = 154.0;
/// What a kept publication takes beside its payload: 10,000 channels with 33 each took 477 bytes for one of 128.
pub(crate) const HISTORY_ENTRY_BYTES: f64 = 349.0;

/// Seconds of processor time, and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Constants {
    /// A delivery, one write each, with as many sockets as were measured: their state does not fit into the caches.
    pub(crate) delivery: f64,
    /// A publication on its pattern from Redis to its shard.
    pub(crate) publication: f64,
    /// A connection with its subscription, from accept to answer.
    pub(crate) connect: f64,
    /// An idle connection, for each second: its pings.
    pub(crate) idle: f64,
    /// Memory of an idle connection.
    pub(crate) connection_bytes: f64,
    /// Memory of a channel that a node hears.
    pub(crate) channel_bytes: f64,
    /// Redis: a publication, whoever hears it.
    pub(crate) redis_publication: f64,
    /// Redis: each gateway that hears it.
    pub(crate) redis_gateway: f64,
    /// Redis: a subscription.
    pub(crate) redis_subscription: f64,
    /// Redis: memory of a subscription.
    pub(crate) redis_subscription_bytes: f64,
}

impl Constants {
    /// Out of the medians of a result.
    pub(crate) fn of(outcome: &BenchResult, transport: UserTransport) -> Result<Self, String> {
        let of = |case: &str, subject: Subject, what: &str, pick: fn(&RunMetrics) -> Option<f64>| {
            let median = median_of(&outcome.runs, case, subject, pick);
            median.ok_or_else(|| format!("it has no {what} in the case `{case}`"))
        };
        let micros = |case: &str, subject| {
            Ok::<f64, String>(of(case, subject, "processor time", |n| n.micros_per_delivery)? / 1e6)
        };
        let memory = |case: &str| of(case, Earshot, "memory", |n| n.bytes_per_connection);
        let largest = format!("growth {}", outcome.size.idle);
        let connect = match transport {
            UserTransport::Ws => "connect WebSocket",
            UserTransport::Sse => "connect SSE",
        };
        let alone = memory(&largest)?;
        let redis = Redis::of(outcome).ok_or("it has no costs of Redis")?;
        Ok(Self {
            delivery: micros(&largest, Earshot)?,
            publication: (micros("many channels", Earshot)? - micros("many channels", KernelBaseline)?)
                .max(0.0),
            connect: of(connect, Earshot, "processor time", |n| n.micros_per_connection)? / 1e6,
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

/// Microseconds of a publication that so many hear, by the pattern of publishing that costs most.
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
