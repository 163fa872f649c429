//! A backend that publishes consecutive numbers over the HTTP API. It retries each number with the same idempotency key
//! at the next gateway until it is confirmed, so each number must be in the log once and in order, even when gateways
//! are killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::http::Raw;
use super::{WAIT_TIMEOUT, within_timeout};

/// Interval between numbers, polls and retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The position of a confirmed number.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) number: u64,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

/// A running publisher; stopped when dropped.
pub(crate) struct ApiPublisher {
    confirmed: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
    /// Taken by `finish`.
    task: Option<JoinHandle<Vec<Receipt>>>,
}

struct Run {
    channel: &'static str,
    gateways: Vec<SocketAddr>,
    /// Offset of the numbers: the first one is `base + 1`.
    base: u64,
    confirmed: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
}

impl ApiPublisher {
    /// Publishes `base + 1`, `base + 2` and so on, round-robin over the gateways, up to the allowed count.
    pub(crate) fn start(gateways: Vec<SocketAddr>, channel: &'static str, base: u64) -> Self {
        let (confirmed, allowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let run = Run { channel, gateways, base, confirmed: confirmed.clone(), allowed: allowed.clone() };
        Self { confirmed, allowed, task: Some(tokio::spawn(run.publish())) }
    }

    /// Publishes without a limit.
    pub(crate) fn steady(gateways: Vec<SocketAddr>, channel: &'static str) -> Self {
        let publisher = Self::start(gateways, channel, 0);
        publisher.allow(DONE - 1);
        publisher
    }

    /// Sets how many numbers may be published.
    pub(crate) fn allow(&self, numbers: u64) {
        self.allowed.store(numbers, Ordering::Relaxed);
    }

    /// How many numbers are confirmed.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Waits until all allowed numbers are confirmed.
    pub(crate) async fn finish(mut self) -> Vec<Receipt> {
        self.allowed.fetch_or(DONE, Ordering::Relaxed);
        self.task.take().unwrap().await.unwrap()
    }
}

impl Drop for ApiPublisher {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Flag in the allowed count: the count is final.
const DONE: u64 = 1 << 63;

impl Run {
    async fn publish(self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        let mut connections: Vec<Option<Raw>> = self.gateways.iter().map(|_| None).collect();
        for count in 1.. {
            loop {
                let allowed = self.allowed.load(Ordering::Relaxed);
                if count <= allowed & !DONE {
                    break;
                }
                if allowed & DONE != 0 {
                    return receipts;
                }
                sleep(RETRY_INTERVAL).await;
            }
            receipts.push(self.confirm(self.base + count, &mut connections).await);
            self.confirmed.store(count, Ordering::Relaxed);
            sleep(RETRY_INTERVAL).await;
        }
        receipts
    }

    /// Publishes a number, with retries until it is confirmed.
    async fn confirm(&self, number: u64, connections: &mut [Option<Raw>]) -> Receipt {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let mut place = usize::try_from(number).unwrap();
        loop {
            place = (place + 1) % self.gateways.len();
            let answer = self.try_publish(number, self.gateways[place], &mut connections[place]).await;
            let result = answer.as_ref().map(|answer| &answer["result"]).filter(|result| result.is_object());
            if let Some(result) = result {
                let (epoch, offset) = (result["epoch"].as_str().unwrap(), result["offset"].as_u64().unwrap());
                return Receipt { number, epoch: epoch.to_owned(), offset };
            }
            assert!(Instant::now() < deadline, "{number} is not confirmed: {answer:?}");
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Returns `None` if the gateway is gone.
    async fn try_publish(
        &self,
        number: u64,
        gateway: SocketAddr,
        connection: &mut Option<Raw>,
    ) -> Option<Value> {
        let raw = match connection {
            Some(raw) => raw,
            None => connection
                .insert(Raw::over(within_timeout("connect", TcpStream::connect(gateway)).await.ok()?)),
        };
        let key = format!("number-{number}");
        let body = json!({"channel": self.channel, "data": number, "idempotency_key": key}).to_string();
        let length = body.len();
        raw.send(format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        match raw.response().await {
            Ok(answer) => Some(answer.json()),
            Err(_) => {
                *connection = None;
                None
            }
        }
    }
}
