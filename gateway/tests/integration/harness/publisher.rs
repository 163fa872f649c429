//! A backend that publishes 1, 2, 3 and so on, and continues through Redis failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Client, Pipeline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Redis;

/// Poll interval of a paused publisher, and interval between batches of a steady one.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(1);

/// A running publisher; stopped when dropped.
pub(crate) struct Publisher {
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What is published, and how fast.
pub(crate) struct Load {
    pub(crate) channels: &'static [&'static str],
    /// Numbers per round trip.
    pub(crate) batch: u64,
    /// Padding of each payload in bytes.
    pub(crate) padding: usize,
    /// Maximum lead over the slowest client in `progress`.
    pub(crate) max_lead: u64,
}

impl Publisher {
    /// Starts. `progress` has the last number of each client that the publisher must wait for.
    pub(crate) fn start(redis: &Redis, load: Load, progress: Arc<[AtomicU64]>) -> Self {
        Self::start_at(watch::channel(redis.url()).1, load, progress)
    }

    /// Publishes about one number per millisecond to a server whose URL may change.
    pub(crate) fn steady_at(url: watch::Receiver<String>, channels: &'static [&'static str]) -> Self {
        Self::start_at(url, Load { channels, batch: 1, padding: 0, max_lead: u64::MAX }, Arc::new([]))
    }

    /// Starts with a server whose URL may change, as after a failover.
    fn start_at(url: watch::Receiver<String>, load: Load, progress: Arc<[AtomicU64]>) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(url, load, progress, Arc::clone(&sent)));
        Self { sent, task }
    }

    /// Publishes about one number per millisecond.
    pub(crate) fn steady(redis: &Redis, channels: &'static [&'static str]) -> Self {
        Self::start(redis, Load { channels, batch: 1, padding: 0, max_lead: u64::MAX }, Arc::new([]))
    }

    /// The last number sent to Redis; it may be lost while Redis is down.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(url: watch::Receiver<String>, load: Load, progress: Arc<[AtomicU64]>, sent: Arc<AtomicU64>) {
    loop {
        let client = Client::open(url.borrow().clone()).unwrap();
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
            sleep(PUBLISH_INTERVAL).await;
            continue;
        };
        loop {
            let first = sent.load(Ordering::Relaxed) + 1;
            if first > slowest(&progress).saturating_add(load.max_lead) {
                sleep(PUBLISH_INTERVAL).await;
                continue;
            }
            let batch = batch(&load, first);
            sent.fetch_add(load.batch, Ordering::Relaxed);
            // A failed publication is lost: this backend does not retry.
            if batch.exec_async(&mut connection).await.is_err() {
                break;
            }
            if load.batch == 1 {
                sleep(PUBLISH_INTERVAL).await;
            }
        }
    }
}

fn slowest(progress: &[AtomicU64]) -> u64 {
    progress.iter().map(|last| last.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX)
}

fn batch(load: &Load, first: u64) -> Pipeline {
    let mut pipeline = Pipeline::new();
    let padding = "x".repeat(load.padding);
    for number in first..first + load.batch {
        let payload = match load.padding {
            0 => number.to_string(),
            _ => format!(r#"{{"number":{number},"padding":"{padding}"}}"#),
        };
        for channel in load.channels {
            pipeline.cmd("PUBLISH").arg(channel).arg(&payload).ignore();
        }
    }
    pipeline
}
