//! The queue of what is to be published.
//!
//! Owns the order of publications, and the bounds in items and bytes of what waits. A place in the order is taken when
//! the call is made. Must never hold anything past its deadline: by then its caller has been told that it failed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::settings::RedisSettings;
use crate::broker::BrokerError;

/// Publications in one pipeline.
const BATCH: usize = 128;
/// Bytes in one pipeline, so that a few large payloads do not make a round trip of their own size.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a waiting publication costs beside its name and payload.
const OVERHEAD: usize = 128;

/// What a caller is told.
pub(super) type Answer = Result<(), BrokerError>;

/// The way into the queue.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Publish>,
    bytes: Arc<AtomicUsize>,
    bytes_most: usize,
    timeout: Duration,
}

/// One publication that waits.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) channel: ChannelName,
    pub(super) data: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    held: Held,
}

impl Publish {
    /// Tells the caller.
    pub(super) fn answer(self, answer: Answer) {
        // First the room, then the answer: who waited for it may publish again at once.
        drop(self.held);
        let _ = self.answer.send(answer);
    }
}

/// Bytes of the queue's bound, given back when the publication has gone.
#[derive(Debug)]
struct Held {
    held: usize,
    bytes: Arc<AtomicUsize>,
}

impl Held {
    fn new(held: usize, bytes: &Arc<AtomicUsize>) -> Self {
        bytes.fetch_add(held, Ordering::Relaxed);
        Self { held, bytes: bytes.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// An outbox and the queue behind it.
pub(super) fn outbox(settings: &RedisSettings) -> (Outbox, Inbox) {
    let (queue, waiting) = mpsc::channel(settings.queue_items.max(1));
    let outbox = Outbox {
        queue,
        bytes: Arc::default(),
        bytes_most: settings.queue_bytes,
        timeout: settings.command_timeout,
    };
    (outbox, Inbox { queue: waiting, front: None })
}

impl Outbox {
    /// Takes a place in the queue now; the future is the answer, and may be dropped without taking anything back.
    pub(super) fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
    ) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let queued = self.enqueue(channel, data, deadline, answer);
        let timeout = self.timeout;
        async move {
            queued?;
            match tokio::time::timeout_at(deadline, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(unavailable("the gateway stops")),
                Err(_) => Err(BrokerError::Unavailable(format!("no answer within {timeout:?}"))),
            }
        }
    }

    fn enqueue(
        &self,
        channel: &ChannelName,
        data: Bytes,
        deadline: Instant,
        answer: oneshot::Sender<Answer>,
    ) -> Answer {
        let held = Held::new(data.len() + channel.as_str().len() + OVERHEAD, &self.bytes);
        if self.bytes.load(Ordering::Relaxed) > self.bytes_most {
            return Err(BrokerError::Busy);
        }
        let publish = Publish { channel: channel.clone(), data, deadline, answer, held };
        self.queue.try_send(publish).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("the gateway stops"),
        })
    }
}

/// The queue as the link sees it.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Publish>,
    /// Taken out of the queue to look at, still the first in order.
    front: Option<Publish>,
}

impl Inbox {
    /// Resolves when there is something to publish; `false` when there never will be.
    pub(super) async fn ready(&mut self) -> bool {
        if self.front.is_none() {
            self.front = self.queue.recv().await;
        }
        self.front.is_some()
    }

    /// Answers those who waited in vain, for as long as it is awaited. Ends when nobody can publish any more.
    pub(super) async fn expire(&mut self) {
        while self.ready().await {
            if let Some(front) = &self.front {
                tokio::time::sleep_until(front.deadline).await;
            }
            if let Some(front) = self.front.take() {
                front.answer(Err(unavailable("Redis could not be reached in time")));
            }
        }
    }

    /// What waits, as much as one pipeline may hold. What is past its deadline was given up by its caller.
    pub(super) fn batch(&mut self) -> VecDeque<Publish> {
        let now = Instant::now();
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(publish) = self.front.take().or_else(|| self.queue.try_recv().ok()) else { break };
            if publish.deadline > now {
                bytes += publish.data.len();
                batch.push_back(publish);
            }
        }
        batch
    }
}

fn unavailable(why: &str) -> BrokerError {
    BrokerError::Unavailable(why.to_owned())
}
