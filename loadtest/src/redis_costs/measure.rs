//! Measures a Redis on its own core: CPU time and memory from its `INFO`, utilization of the core from `/proc/stat`.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::resp::{RespConnection, SUBSCRIBE_CHUNK, command, confirmation_bytes, message_bytes};
use super::{LocalServer, PublishCost, PublishPattern, SubscribeCost};
use crate::resources::cores::CoreUtilization;

/// Publications before the measurement starts.
const WARM_UP_PUBLICATIONS: usize = 1000;
/// Number of connections whose memory is measured.
const IDLE_CONNECTIONS: usize = 500;
const CHANNEL: &str = "web-signals";

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CostError {
    /// Redis did not start.
    #[error("{0}")]
    Start(String),
    /// A connection failed, or a reply was unexpected.
    #[error("connection to Redis: {0}")]
    Io(#[from] io::Error),
    /// `INFO` failed.
    #[error("INFO: {0}")]
    Info(#[from] redis::RedisError),
    /// A field is missing in `INFO`.
    #[error("INFO has no field {0}")]
    Missing(&'static str),
}

/// A Redis server under measurement.
pub(super) struct MeasuredRedis {
    control: redis::Connection,
    cores: Option<CoreUtilization>,
    server: LocalServer,
}

/// Usage of Redis so far.
#[derive(Clone, Copy, Debug)]
struct RedisUsage {
    seconds: f64,
    bytes: f64,
}

impl MeasuredRedis {
    pub(super) fn start(program: &Path, core: u16) -> Result<Self, CostError> {
        let server = LocalServer::redis(program, core).map_err(CostError::Start)?;
        let control = redis::Client::open(("127.0.0.1", server.port))?.get_connection()?;
        // The child starts as a wrapper (`setpriv`, `taskset`) and has become Redis once it replies.
        let cores = CoreUtilization::of_process(&server.id().to_string());
        Ok(Self { control, cores, server })
    }

    fn connect(&self) -> io::Result<RespConnection> {
        RespConnection::open(self.server.port)
    }

    fn usage(&mut self) -> Result<RedisUsage, CostError> {
        let info: String = redis::cmd("INFO").arg("cpu").arg("memory").query(&mut self.control)?;
        let number = |name: &'static str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).ok_or(CostError::Missing(name))
        };
        let seconds = number("used_cpu_user")? + number("used_cpu_sys")?;
        Ok(RedisUsage { seconds, bytes: number("used_memory")? })
    }
}

/// Measures the cost of a publication for a number of subscribers. Waits for all deliveries of a round before the next
/// one, so no queue builds up.
pub(super) fn publish(
    mut redis: MeasuredRedis,
    gateways: usize,
    pattern: PublishPattern,
    size: usize,
    span: Duration,
) -> Result<PublishCost, CostError> {
    let PublishPattern { publishers, pipeline } = pattern;
    let payload = vec![b'x'; size];
    let mut publishing = (0..publishers).map(|_| redis.connect()).collect::<io::Result<Vec<_>>>()?;
    let mut subscribers = Vec::new();
    for _ in 0..gateways {
        let mut gateway = redis.connect()?;
        gateway.write(&command(&[b"SUBSCRIBE", CHANNEL.as_bytes()]))?;
        gateway.discard(confirmation_bytes(CHANNEL, 1))?;
        subscribers.push(gateway);
    }
    let batch = command(&[b"PUBLISH", CHANNEL.as_bytes(), &payload]).repeat(pipeline);
    let answers = format!(":{gateways}\r\n").len() * pipeline;
    let together = publishers * pipeline;
    let expected = message_bytes(CHANNEL, &payload) * together;
    let mut round = || -> io::Result<u64> {
        publishing.iter_mut().try_for_each(|publisher| publisher.write(&batch))?;
        publishing.iter_mut().try_for_each(|publisher| publisher.discard(answers))?;
        subscribers.iter_mut().try_for_each(|gateway| gateway.discard(expected))?;
        Ok(together as u64)
    };
    for _ in 0..WARM_UP_PUBLICATIONS.div_ceil(together) {
        round()?;
    }
    let before = redis.usage()?;
    redis.cores.iter_mut().for_each(CoreUtilization::begin);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < span {
        count += round()?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    redis.cores.iter_mut().for_each(CoreUtilization::end);
    let seconds = redis.usage()?.seconds - before.seconds;
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    let full = redis.cores.as_ref().and_then(CoreUtilization::mean);
    let core_micros = full.map(|full| each(full * elapsed));
    Ok(PublishCost { gateways, pattern, micros: each(seconds), core_micros, count })
}

/// Measures the memory of an idle connection.
pub(super) fn connections(redis: &mut MeasuredRedis) -> Result<f64, CostError> {
    let before = redis.usage()?;
    let idle = (0..IDLE_CONNECTIONS).map(|_| redis.connect()).collect::<io::Result<Vec<_>>>()?;
    // A reply shows that Redis has accepted the connection.
    let mut idle = idle;
    for connection in &mut idle {
        connection.write(&command(&[b"PING"]))?;
        connection.discard(b"+PONG\r\n".len())?;
    }
    Ok((redis.usage()?.bytes - before.bytes) / IDLE_CONNECTIONS as f64)
}

/// Measures the cost of subscriptions for connections that subscribe to the same channels one after the other.
pub(super) fn subscribe(
    redis: &mut MeasuredRedis,
    channels: u32,
    connections: usize,
) -> Result<Vec<SubscribeCost>, CostError> {
    let names: Vec<String> = (0..channels).map(|index| format!("user:{index:0>8}")).collect();
    let (mut costs, mut open) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let mut gateway = redis.connect()?;
        gateway.write(&command(&[b"PING"]))?;
        gateway.discard(b"+PONG\r\n".len())?;
        let before = redis.usage()?;
        let mut count = 0;
        for chunk in names.chunks(SUBSCRIBE_CHUNK as usize) {
            let words = std::iter::once(&b"SUBSCRIBE"[..]).chain(chunk.iter().map(String::as_bytes));
            gateway.write(&command(&words.collect::<Vec<_>>()))?;
            let answers = chunk.iter().map(|name| {
                count += 1;
                confirmation_bytes(name, count)
            });
            gateway.discard(answers.sum())?;
        }
        let after = redis.usage()?;
        let each = |total: f64| total / f64::from(channels);
        let micros = each(after.seconds - before.seconds) * 1e6;
        costs.push(SubscribeCost { micros, bytes: each(after.bytes - before.bytes) });
        open.push(gateway);
    }
    Ok(costs)
}
