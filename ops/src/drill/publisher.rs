//! Publishers that count: they publish 1, 2, 3 and so on, through all faults.
//!
//! Owns two of them: `PUBLISH` in Redis, which is never repeated, since its outcome may be unknown; and the HTTP API
//! with an idempotency key, which is retried until it is confirmed. Must never publish a number in such a way that it
//! is received twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backend::{Backend, BackendConnection};
use super::http::{Client, HttpTarget};
use earshot_client::Tasks;

/// Interval between messages.
const PLAIN_INTERVAL: Duration = Duration::from_millis(2);
const LOG_INTERVAL: Duration = Duration::from_millis(5);
/// Interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);
/// Time limit of the API, which waits for Redis up to `command_timeout` (5 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// A publisher that runs until the tasks are stopped.
#[derive(Debug)]
pub(super) struct DrillPublisher {
    running: watch::Sender<bool>,
    paused: watch::Receiver<bool>,
    last: Arc<AtomicU64>,
}

/// The publisher task's side of the control.
struct PublisherControl {
    running: watch::Receiver<bool>,
    paused: watch::Sender<bool>,
    last: Arc<AtomicU64>,
}

impl DrillPublisher {
    fn new() -> (Self, PublisherControl) {
        let (running, running_receiver) = watch::channel(false);
        let (paused_sender, paused) = watch::channel(true);
        let last = Arc::new(AtomicU64::new(0));
        (
            Self { running, paused, last: Arc::clone(&last) },
            PublisherControl { running: running_receiver, paused: paused_sender, last },
        )
    }

    /// A publisher that uses `PUBLISH` in the current Redis.
    pub(super) fn plain(backend: watch::Receiver<Backend>, channel: String, tasks: &Tasks) -> Self {
        let (publisher, control) = Self::new();
        run(tasks, publish_plain(control, backend, channel));
        publisher
    }

    /// A publisher that uses the HTTP API of the gateway.
    pub(super) fn of_log(target: &HttpTarget, channel: String) -> Self {
        let (publisher, control) = Self::new();
        run(&target.tasks, publish_log(control, target.clone(), channel));
        publisher
    }

    /// Starts publishing.
    pub(super) fn resume(&self) {
        self.running.send_replace(true);
    }

    /// Stops publishing. Returns the last number, which is confirmed.
    pub(super) async fn pause(&mut self, limit: Duration) -> Result<u64, String> {
        self.running.send_replace(false);
        let paused = matches!(timeout(limit, self.paused.wait_for(|paused| *paused)).await, Ok(Ok(_)));
        let last = self.last();
        if paused { Ok(last) } else { Err(format!("message {last} was not confirmed within {limit:?}")) }
    }

    /// The number that was published last, or is in flight.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }
}

fn run(tasks: &Tasks, publishing: impl Future<Output = ()> + Send + 'static) {
    let stopped = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = publishing => {}
            () = stopped.stopped() => {}
        }
    });
}

impl PublisherControl {
    /// Waits until publishing is permitted. Returns the next number.
    async fn next(&mut self) -> u64 {
        if !*self.running.borrow_and_update() {
            self.paused.send_replace(true);
            // The publisher was dropped, so it stays paused.
            if self.running.wait_for(|running| *running).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        self.paused.send_replace(false);
        self.allocate()
    }

    /// Takes a new number, in place of one that may have been published.
    fn allocate(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }
}

async fn publish_plain(
    mut control: PublisherControl,
    mut backend: watch::Receiver<Backend>,
    channel: String,
) {
    let mut connection: Option<BackendConnection> = None;
    loop {
        let mut number = control.next().await;
        loop {
            if backend.has_changed().unwrap_or(false) {
                connection = None;
            }
            let current = backend.borrow_and_update().clone();
            if connection.is_none() {
                connection = current.connect().await.ok();
            }
            if let Some(connected) = &mut connection {
                if connected.publish(&channel, number).await.is_ok() {
                    break;
                }
                // The outcome is unknown, so the number is given up.
                number = control.allocate();
            }
            connection = None;
            sleep(RETRY_INTERVAL).await;
        }
        sleep(PLAIN_INTERVAL).await;
    }
}

async fn publish_log(mut control: PublisherControl, target: HttpTarget, channel: String) {
    let mut client = Client::new(target, REQUEST_TIMEOUT);
    // Other drills on the same channel have other keys.
    let drill = fastrand::u64(..);
    loop {
        let number = control.next().await;
        let key = format!("drill-{drill:016x}-{number}");
        let body = json!({ "channel": channel, "data": number, "idempotency_key": key });
        while !confirms(client.call("publish", &body).await) {
            sleep(RETRY_INTERVAL).await;
        }
        sleep(LOG_INTERVAL).await;
    }
}

fn confirms(answer: Result<(u16, serde_json::Value), String>) -> bool {
    answer.is_ok_and(|(_, answer)| answer["result"]["offset"].is_u64())
}
