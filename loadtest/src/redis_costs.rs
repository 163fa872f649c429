//! `redis`: the cost of a publication and a subscription for Redis itself, for the capacity model. Starts its own Redis
//! on its own core and simulates gateways and publishers with plain RESP.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::local_server::LocalServer;
use crate::options::duration;

mod measure;
mod resp;
mod table;

pub(crate) use table::table;

use measure::MeasuredRedis;

/// Many publishers that wait for each reply, like backends, and one that pipelines, like a worker in a loop. With few
/// publications in flight the measurement would include Redis going to sleep and waking up.
const PUBLISH_PATTERNS: [PublishPattern; 2] =
    [PublishPattern { publishers: 64, pipeline: 1 }, PublishPattern { publishers: 1, pipeline: 64 }];
/// Numbers of gateways that receive a publication.
const GATEWAY_COUNTS: [usize; 4] = [0, 1, 2, 8];
/// Number of gateways that subscribe to the same channels, one after the other.
const SUBSCRIBER_COUNT: usize = 3;

/// Cost of a publication and a subscription for Redis.
#[derive(Args, Clone, Debug)]
pub(crate) struct RedisArgs {
    /// Redis binary
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
    /// Core of Redis; run this command with `taskset` on another core
    #[arg(long, default_value_t = 0)]
    server_core: u16,
    /// Duration of each measurement
    #[arg(long, default_value = "2s", value_parser = duration)]
    duration: Duration,
    /// Size of each publication in bytes
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Number of channels to subscribe to
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measured costs of Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RedisCosts {
    /// Size of each publication in bytes.
    pub(crate) size: u32,
    /// Number of channels subscribed to.
    pub(crate) channels: u32,
    /// Costs of publications.
    pub(crate) publish: Vec<PublishCost>,
    /// Costs of subscriptions: of the first connection to each channel, of the second, and so on.
    pub(crate) subscribe: Vec<SubscribeCost>,
    /// Memory of a new connection in bytes.
    pub(crate) bytes_per_connection: f64,
}

/// Pattern of publishing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PublishPattern {
    /// Number of publishing connections.
    pub(crate) publishers: usize,
    /// Publications in flight per connection.
    pub(crate) pipeline: usize,
}

/// Cost of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishCost {
    /// Number of connections that receive it.
    pub(crate) gateways: usize,
    /// Pattern of publishing.
    #[serde(flatten)]
    pub(crate) pattern: PublishPattern,
    /// CPU time of Redis per publication, in microseconds.
    pub(crate) micros: f64,
    /// Time of its core per publication, including interrupts, in microseconds.
    pub(crate) core_micros: Option<f64>,
    /// Number of publications.
    pub(crate) count: u64,
}

/// Cost of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubscribeCost {
    /// CPU time of Redis, in microseconds.
    pub(crate) micros: f64,
    /// Memory of Redis, in bytes.
    pub(crate) bytes: f64,
}

/// Measures the costs and prints them.
pub(crate) fn run(args: &RedisArgs) -> Result<(), String> {
    let costs = measure(args).map_err(|error| format!("redis: {error}"))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&costs).map_err(|error| error.to_string())? + "\n";
        fs::write(path, json).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    // A closed standard output does not matter.
    let _ = std::io::stdout().write_all(table(&[costs]).as_bytes());
    Ok(())
}

fn measure(args: &RedisArgs) -> Result<RedisCosts, measure::CostError> {
    let mut publish = Vec::new();
    for pattern in PUBLISH_PATTERNS {
        for gateways in GATEWAY_COUNTS {
            let redis = MeasuredRedis::start(&args.redis, args.server_core)?;
            publish.push(measure::publish(redis, gateways, pattern, args.size as usize, args.duration)?);
        }
    }
    let mut redis = MeasuredRedis::start(&args.redis, args.server_core)?;
    let bytes_per_connection = measure::connections(&mut redis)?;
    let subscribe = measure::subscribe(&mut redis, args.channels, SUBSCRIBER_COUNT)?;
    let (size, channels) = (args.size, args.channels);
    Ok(RedisCosts { size, channels, publish, subscribe, bytes_per_connection })
}
