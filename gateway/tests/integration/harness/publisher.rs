//! A backend that counts: it publishes 1, 2, 3 and so on, through whatever happens to its Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Client, Pipeline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Redis;

/// Between two looks at whether it may go on, and between two batches of one that takes its time.
const PAUSE: Duration = Duration::from_millis(1);

/// A publisher at work; ended when dropped.
pub(crate) struct Publisher {
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What is published, and how fast.
pub(crate) struct Pace {
    pub(crate) channels: &'static [&'static str],
    /// Numbers in one round trip.
    pub(crate) batch: u64,
    /// Bytes beside the number in each payload.
    pub(crate) fill: usize,
    /// It runs at most so far ahead of the slowest of those who are marked.
    pub(crate) ahead: u64,
}

impl Publisher {
    /// Starts; `marks` tell how far those have come whom the publisher must not leave behind.
    pub(crate) fn start(redis: &Redis, pace: Pace, marks: Arc<[AtomicU64]>) -> Self {
        Self::start_at(watch::channel(redis.url()).1, pace, marks)
    }

    /// One number each millisecond or so, for ever, at a server that may become another one.
    pub(crate) fn steady_at(url: watch::Receiver<String>, channels: &'static [&'static str]) -> Self {
        Self::start_at(url, Pace { channels, batch: 1, fill: 0, ahead: u64::MAX }, Arc::new([]))
    }

    /// Starts at a server that may become another one, as after a fail-over.
    fn start_at(url: watch::Receiver<String>, pace: Pace, marks: Arc<[AtomicU64]>) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(url, pace, marks, Arc::clone(&sent)));
        Self { sent, task }
    }

    /// One number each millisecond or so, for ever.
    pub(crate) fn steady(redis: &Redis, channels: &'static [&'static str]) -> Self {
        Self::start(redis, Pace { channels, batch: 1, fill: 0, ahead: u64::MAX }, Arc::new([]))
    }

    /// The last number that was given to Redis; while Redis is away it may be lost.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(url: watch::Receiver<String>, pace: Pace, marks: Arc<[AtomicU64]>, sent: Arc<AtomicU64>) {
    loop {
        let client = Client::open(url.borrow().clone()).unwrap();
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
            sleep(PAUSE).await;
            continue;
        };
        loop {
            let first = sent.load(Ordering::Relaxed) + 1;
            if first > slowest(&marks).saturating_add(pace.ahead) {
                sleep(PAUSE).await;
                continue;
            }
            let batch = batch(&pace, first);
            sent.fetch_add(pace.batch, Ordering::Relaxed);
            // What fails is lost, as it is with a backend that does not care.
            if batch.exec_async(&mut connection).await.is_err() {
                break;
            }
            if pace.batch == 1 {
                sleep(PAUSE).await;
            }
        }
    }
}

fn slowest(marks: &[AtomicU64]) -> u64 {
    marks.iter().map(|mark| mark.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX)
}

fn batch(pace: &Pace, first: u64) -> Pipeline {
    let mut pipeline = Pipeline::new();
    let fill = "x".repeat(pace.fill);
    for number in first..first + pace.batch {
        let payload = match pace.fill {
            0 => number.to_string(),
            _ => format!(r#"{{"number":{number},"fill":"{fill}"}}"#),
        };
        for channel in pace.channels {
            pipeline.cmd("PUBLISH").arg(channel).arg(&payload).ignore();
        }
    }
    pipeline
}
