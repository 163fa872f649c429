//! The queue of requests.
//!
//! Owns the bounds in items and bytes, and the deadline of each request. Must never send a request after its deadline:
//! by then its caller has got an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::StoreError;
use super::request::{StoreReply, StoreRequest};
use super::settings::StoreSettings;

/// Requests in one pipeline.
const PIPELINE_MAX: usize = 256;
/// The cost of a request in addition to its key and value.
const REQUEST_OVERHEAD_BYTES: usize = 128;

/// A request in the queue.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) request: StoreRequest,
    deadline: Instant,
    answer: oneshot::Sender<Result<StoreReply, StoreError>>,
    permit: RequestPermit,
}

impl QueuedRequest {
    /// Answers the caller.
    pub(super) fn answer(self, answer: Result<StoreReply, StoreError>) {
        // The permit is released first, since the caller may submit again immediately.
        drop(self.permit);
        let _ = self.answer.send(answer);
    }

    /// Whether the reply is no longer awaited.
    fn is_expired(&self) -> bool {
        self.deadline <= Instant::now() || self.answer.is_closed()
    }
}

/// The requests that wait or are in flight.
#[derive(Debug, Default)]
struct Usage {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request's share of the usage, released on drop.
#[derive(Debug)]
struct RequestPermit {
    bytes: usize,
    usage: Arc<Usage>,
}

impl RequestPermit {
    fn new(bytes: usize, usage: &Arc<Usage>) -> Self {
        usage.items.fetch_add(1, Ordering::Relaxed);
        usage.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, usage: Arc::clone(usage) }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.usage.items.fetch_sub(1, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The end of the callers.
#[derive(Debug)]
pub(super) struct RequestSender {
    queue: mpsc::Sender<QueuedRequest>,
    usage: Arc<Usage>,
    items_max: usize,
    bytes_max: usize,
    timeout: Duration,
}

/// The end of the link.
#[derive(Debug)]
pub(super) struct RequestQueue {
    queue: mpsc::Receiver<QueuedRequest>,
    /// Requests that were dequeued; they come first.
    waiting: VecDeque<QueuedRequest>,
}

/// Creates both ends of the queue.
pub(super) fn request_queue(settings: &StoreSettings) -> (RequestSender, RequestQueue) {
    let (sender, receiver) = mpsc::channel(settings.queue_items.max(1));
    let sender = RequestSender {
        queue: sender,
        usage: Arc::default(),
        items_max: settings.queue_items,
        bytes_max: settings.queue_bytes,
        timeout: settings.connection.command_timeout,
    };
    (sender, RequestQueue { queue: receiver, waiting: VecDeque::new() })
}

impl RequestSender {
    /// Queues a request and waits for the reply, at most until the deadline. If the future is dropped before the request
    /// is sent, it is not sent.
    pub(super) async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let permit = RequestPermit::new(request.bytes() + REQUEST_OVERHEAD_BYTES, &self.usage);
        let (items, bytes) = (&self.usage.items, &self.usage.bytes);
        if items.load(Ordering::Relaxed) > self.items_max || bytes.load(Ordering::Relaxed) > self.bytes_max {
            return Err(StoreError::Busy);
        }
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let queued = QueuedRequest { request, deadline, answer, permit };
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => shutting_down(),
        })?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(StoreError::Unavailable(format!("no reply within {:?}", self.timeout))),
        }
    }
}

impl RequestQueue {
    /// Resolves when a request waits; never after all senders are dropped.
    pub(super) async fn ready(&mut self) {
        while self.waiting.is_empty() {
            match self.queue.recv().await {
                Some(queued) => self.waiting.push_back(queued),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes the requests of one pipeline.
    pub(super) fn batch(&mut self) -> Vec<QueuedRequest> {
        let mut batch = Vec::new();
        while batch.len() < PIPELINE_MAX {
            let Some(queued) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            if !queued.is_expired() {
                batch.push(queued);
            }
        }
        batch
    }

    /// Runs while the link is down: drops expired requests, so that they do not fill the queue. Never resolves.
    pub(super) async fn expire(&mut self) {
        loop {
            // All requests have the same timeout, so the first one expires first.
            let next = self.waiting.front().map_or_else(Instant::now, |queued| queued.deadline);
            tokio::select! {
                Some(queued) = self.queue.recv() => self.waiting.push_back(queued),
                () = sleep_until(next), if !self.waiting.is_empty() => {
                    self.waiting.retain(|queued| !queued.is_expired());
                }
                else => return std::future::pending().await,
            }
        }
    }
}

fn shutting_down() -> StoreError {
    StoreError::Unavailable("the gateway is shutting down".to_owned())
}
