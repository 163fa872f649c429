//! A Redis on a core of its own and what it has used: processor time and memory by its own `INFO`, the core by
//! `/proc/stat`. Never judges.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::gateways::{CHUNK, Plain, command, confirmed, heard};
use super::{Publish, Server, Subscribe, Way};
use crate::resources::cores::Fullness;

/// Publications before it counts.
const WARM_UP: usize = 1000;
/// Connections whose memory is looked at.
const CONNECTIONS: usize = 500;
const CHANNEL: &str = "web-signals";

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum CostError {
    /// Redis has not started; the text says why.
    #[error("{0}")]
    Start(String),
    /// A connection failed, or an answer was not the expected one.
    #[error("a connection to it: {0}")]
    Io(#[from] io::Error),
    /// Its `INFO` could not be had.
    #[error("its INFO: {0}")]
    Info(#[from] redis::RedisError),
    /// Its `INFO` lacks something.
    #[error("its INFO has no {0}")]
    Lacks(&'static str),
}

/// A Redis, and what it has used.
pub(super) struct Meter {
    control: redis::Connection,
    cores: Option<Fullness>,
    server: Server,
}

/// What Redis has used so far.
#[derive(Clone, Copy, Debug)]
struct Used {
    seconds: f64,
    bytes: f64,
}

impl Meter {
    pub(super) fn start(program: &Path, core: u16) -> Result<Self, CostError> {
        let server = Server::redis(program, core).map_err(CostError::Start)?;
        let control = redis::Client::open(("127.0.0.1", server.port))?.get_connection()?;
        // The server is a wrapper until it has become Redis; by now it answers, so it has.
        let cores = Fullness::of_process(&server.id().to_string());
        Ok(Self { control, cores, server })
    }

    fn connect(&self) -> io::Result<Plain> {
        Plain::open(self.server.port)
    }

    fn used(&mut self) -> Result<Used, CostError> {
        let info: String = redis::cmd("INFO").arg("cpu").arg("memory").query(&mut self.control)?;
        let number = |name: &'static str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).ok_or(CostError::Lacks(name))
        };
        let seconds = number("used_cpu_user")? + number("used_cpu_sys")?;
        Ok(Used { seconds, bytes: number("used_memory")? })
    }
}

/// What a publication costs that so many hear. The next ones are not sent before all have heard these: nothing piles up.
pub(super) fn publish(
    mut meter: Meter,
    gateways: usize,
    way: Way,
    size: usize,
    span: Duration,
) -> Result<Publish, CostError> {
    let Way { publishers, pipeline } = way;
    let payload = vec![b'x'; size];
    let mut publishing = (0..publishers).map(|_| meter.connect()).collect::<io::Result<Vec<_>>>()?;
    let mut hearing = Vec::new();
    for _ in 0..gateways {
        let mut gateway = meter.connect()?;
        gateway.say(&command(&[b"SUBSCRIBE", CHANNEL.as_bytes()]))?;
        gateway.skip(confirmed(CHANNEL, 1))?;
        hearing.push(gateway);
    }
    let batch = command(&[b"PUBLISH", CHANNEL.as_bytes(), &payload]).repeat(pipeline);
    let answers = format!(":{gateways}\r\n").len() * pipeline;
    let together = publishers * pipeline;
    let heard = heard(CHANNEL, &payload) * together;
    let mut turn = || -> io::Result<u64> {
        publishing.iter_mut().try_for_each(|publisher| publisher.say(&batch))?;
        publishing.iter_mut().try_for_each(|publisher| publisher.skip(answers))?;
        hearing.iter_mut().try_for_each(|gateway| gateway.skip(heard))?;
        Ok(together as u64)
    };
    for _ in 0..WARM_UP.div_ceil(together) {
        turn()?;
    }
    let before = meter.used()?;
    meter.cores.iter_mut().for_each(Fullness::begin);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < span {
        count += turn()?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    meter.cores.iter_mut().for_each(Fullness::end);
    let seconds = meter.used()?.seconds - before.seconds;
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    let full = meter.cores.as_ref().and_then(Fullness::whole);
    let core_micros = full.map(|full| each(full * elapsed));
    Ok(Publish { gateways, way, micros: each(seconds), core_micros, count })
}

/// Bytes that a connection takes which does nothing.
pub(super) fn connections(meter: &mut Meter) -> Result<f64, CostError> {
    let before = meter.used()?;
    let idle = (0..CONNECTIONS).map(|_| meter.connect()).collect::<io::Result<Vec<_>>>()?;
    // Who has been answered is known to Redis.
    let mut idle = idle;
    for connection in &mut idle {
        connection.say(&command(&[b"PING"]))?;
        connection.skip(b"+PONG\r\n".len())?;
    }
    Ok((meter.used()?.bytes - before.bytes) / CONNECTIONS as f64)
}

/// What it costs when one connection after the other subscribes to the same channels.
pub(super) fn subscribe(
    meter: &mut Meter,
    channels: u32,
    connections: usize,
) -> Result<Vec<Subscribe>, CostError> {
    let names: Vec<String> = (0..channels).map(|index| format!("user:{index:0>8}")).collect();
    let (mut costs, mut open) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let mut gateway = meter.connect()?;
        gateway.say(&command(&[b"PING"]))?;
        gateway.skip(b"+PONG\r\n".len())?;
        let before = meter.used()?;
        let mut count = 0;
        for chunk in names.chunks(CHUNK as usize) {
            let words = std::iter::once(&b"SUBSCRIBE"[..]).chain(chunk.iter().map(String::as_bytes));
            gateway.say(&command(&words.collect::<Vec<_>>()))?;
            let answers = chunk.iter().map(|name| {
                count += 1;
                confirmed(name, count)
            });
            gateway.skip(answers.sum())?;
        }
        let after = meter.used()?;
        let each = |total: f64| total / f64::from(channels);
        let micros = each(after.seconds - before.seconds) * 1e6;
        costs.push(Subscribe { micros, bytes: each(after.bytes - before.bytes) });
        open.push(gateway);
    }
    Ok(costs)
}
