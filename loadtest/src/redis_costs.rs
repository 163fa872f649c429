//! `redis`: what a publication and a subscription cost Redis itself, for the model of many nodes. Starts a Redis of its
//! own on its own core, and plays its gateways and its publisher by plain RESP. Never touches another Redis.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::bench::server::Server;
use crate::options::duration;

mod measure;
mod resp;
mod table;

pub(crate) use table::table;

use measure::MeasuredRedis;

/// Publishers at a time, and how many publications each has under pattern: many processes that wait for the answer, as
/// backends are; and one that does not, as a worker in a loop is. Few at a time would measure how Redis falls asleep.
const PUBLISH_PATTERNS: [PublishPattern; 2] =
    [PublishPattern { publishers: 64, pipeline: 1 }, PublishPattern { publishers: 1, pipeline: 64 }];
/// Gateways that hear a publication.
const GATEWAY_COUNTS: [usize; 4] = [0, 1, 2, 8];
/// Gateways that subscribe to the same channels, one after the other.
const SUBSCRIBER_COUNT: usize = 3;

/// What a publication and a subscription cost Redis itself.
#[derive(Args, Clone, Debug)]
pub(crate) struct RedisArgs {
    /// Redis
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
    /// The core that Redis runs on; run this by `taskset` on another one
    #[arg(long, default_value_t = 0)]
    server_core: u16,
    /// How long for each number of gateways
    #[arg(long, default_value = "2s", value_parser = duration)]
    duration: Duration,
    /// Bytes of each publication
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Channels that are subscribed to
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Write the numbers as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What Redis needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RedisCosts {
    /// Bytes of each publication.
    pub(crate) size: u32,
    /// Channels that were subscribed to.
    pub(crate) channels: u32,
    /// Of a publication.
    pub(crate) publish: Vec<PublishCost>,
    /// Of a subscription: of the first connection to each channel, of the second one, and so on.
    pub(crate) subscribe: Vec<SubscribeCost>,
    /// Bytes that a connection takes which was just opened.
    pub(crate) bytes_per_connection: f64,
}

/// How publications come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PublishPattern {
    /// Connections that publish.
    pub(crate) publishers: usize,
    /// Publications that each of them has under pattern.
    pub(crate) pipeline: usize,
}

/// What a publication costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishCost {
    /// Connections that hear it.
    pub(crate) gateways: usize,
    /// How they came.
    #[serde(flatten)]
    pub(crate) pattern: PublishPattern,
    /// Processor time of Redis for each, in microseconds.
    pub(crate) micros: f64,
    /// The same of its core, in which interrupts are that nobody is charged with.
    pub(crate) core_micros: Option<f64>,
    /// How many there were.
    pub(crate) count: u64,
}

/// What a subscription costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SubscribeCost {
    /// Processor time of Redis for each, in microseconds.
    pub(crate) micros: f64,
    /// Memory of Redis for each, in bytes.
    pub(crate) bytes: f64,
}

/// Measures, and tells it.
pub(crate) fn run(args: &RedisArgs) -> Result<(), String> {
    let costs = measure(args).map_err(|error| format!("redis: {error}"))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&costs).map_err(|error| error.to_string())? + "\n";
        fs::write(path, json).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    // A reader that went away changes nothing.
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
