//! Backends that count: they publish 1, 2, 3 and so on, through whatever happens.
//!
//! Owns two of them: a plain `PUBLISH` in Redis, which is never repeated, since nobody knows whether it came; and the
//! HTTP API with an idempotency key, which is asked until it confirms. Must never publish a number twice where that
//! would be heard twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backend::{Backend, Link};
use super::http::{Client, Target};
use crate::drain::Drain;

/// Between two numbers.
const PLAIN_PACE: Duration = Duration::from_millis(2);
const LOG_PACE: Duration = Duration::from_millis(5);
/// Before another attempt.
const AGAIN: Duration = Duration::from_millis(5);
/// How long the API may take; it waits for Redis for `command_timeout` (5 s).
const ANSWER: Duration = Duration::from_secs(8);

/// A publisher at work, until the drain stops.
#[derive(Debug)]
pub(super) struct Publisher {
    goes: watch::Sender<bool>,
    rests: watch::Receiver<bool>,
    last: Arc<AtomicU64>,
}

/// What a publisher's task has of it.
struct Pen {
    goes: watch::Receiver<bool>,
    rests: watch::Sender<bool>,
    last: Arc<AtomicU64>,
}

impl Publisher {
    fn new() -> (Self, Pen) {
        let (goes, may_go) = watch::channel(false);
        let (resting, rests) = watch::channel(true);
        let last = Arc::new(AtomicU64::new(0));
        (Self { goes, rests, last: Arc::clone(&last) }, Pen { goes: may_go, rests: resting, last })
    }

    /// One that says `PUBLISH` at a Redis, which may become another one.
    pub(super) fn plain(backend: watch::Receiver<Backend>, channel: String, drain: &Drain) -> Self {
        let (publisher, pen) = Self::new();
        run(drain, publish_plain(pen, backend, channel));
        publisher
    }

    /// One that asks the HTTP API of the gateway.
    pub(super) fn of_log(target: &Target, channel: String) -> Self {
        let (publisher, pen) = Self::new();
        run(&target.drain, publish_log(pen, target.clone(), channel));
        publisher
    }

    /// Publishes from now on.
    pub(super) fn go(&self) {
        self.goes.send_replace(true);
    }

    /// Publishes no more; the last number, which was confirmed.
    pub(super) async fn rest(&mut self, limit: Duration) -> Result<u64, String> {
        self.goes.send_replace(false);
        let rests = matches!(timeout(limit, self.rests.wait_for(|rests| *rests)).await, Ok(Ok(_)));
        let last = self.last();
        if rests { Ok(last) } else { Err(format!("number {last} is not confirmed within {limit:?}")) }
    }

    /// The number that was published last, or is on its way.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }
}

fn run(drain: &Drain, publishing: impl Future<Output = ()> + Send + 'static) {
    let stopped = drain.clone();
    drain.spawn(async move {
        tokio::select! {
            () = publishing => {}
            () = stopped.stopped() => {}
        }
    });
}

impl Pen {
    /// Waits until it may go on; the next number.
    async fn next(&mut self) -> u64 {
        if !*self.goes.borrow_and_update() {
            self.rests.send_replace(true);
            // Nobody is left to let it go on: it rests for good.
            if self.goes.wait_for(|goes| *goes).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        self.rests.send_replace(false);
        self.another()
    }

    /// A number in the place of one that may have been published.
    fn another(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }
}

async fn publish_plain(mut pen: Pen, mut backend: watch::Receiver<Backend>, channel: String) {
    let mut link: Option<Link> = None;
    loop {
        let mut number = pen.next().await;
        loop {
            if backend.has_changed().unwrap_or(false) {
                link = None;
            }
            let present = backend.borrow_and_update().clone();
            if link.is_none() {
                link = present.connect().await.ok();
            }
            if let Some(connected) = &mut link {
                if connected.publish(&channel, number).await.is_ok() {
                    break;
                }
                // Whether it was published is not known, so it is given up for another one.
                number = pen.another();
            }
            link = None;
            sleep(AGAIN).await;
        }
        sleep(PLAIN_PACE).await;
    }
}

async fn publish_log(mut pen: Pen, target: Target, channel: String) {
    let mut client = Client::new(target, ANSWER);
    // Keys of another drill on the same channel are others.
    let drill = fastrand::u64(..);
    loop {
        let number = pen.next().await;
        let key = format!("drill-{drill:016x}-{number}");
        let body = json!({ "channel": channel, "data": number, "idempotency_key": key });
        while !confirms(client.call("publish", &body).await) {
            sleep(AGAIN).await;
        }
        sleep(LOG_PACE).await;
    }
}

fn confirms(answer: Result<(u16, serde_json::Value), String>) -> bool {
    answer.is_ok_and(|(_, answer)| answer["result"]["offset"].is_u64())
}
