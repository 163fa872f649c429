//! The queue of what Redis is to be asked.
//!
//! Owns the order of requests, and the bounds in items and bytes of what waits. A place in the order is taken when
//! the call is made. Must never hold anything past its deadline: by then its caller has been told that it failed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::{Pipeline, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::alone::Alone;
use super::log_script::{By, Call};
use super::settings::RedisSettings;
use crate::broker::{BrokerError, DeliveryScope};
use earshot_redis_link::slot;

/// Requests in one pipeline.
pub(super) const BATCH: usize = 128;
/// Bytes in one pipeline, there and back, so that a few large ones do not make a round trip of their own size.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a waiting request costs beside its names and payload.
const OVERHEAD: usize = 128;

/// What a caller is told.
pub(super) type Answer = Result<Told, BrokerError>;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Told {
    /// What Redis answered.
    Value(Value),
    /// Redis is away; this node's own clients have it.
    ThisNode,
}

impl Told {
    /// How far a publication came.
    pub(super) fn reach(&self) -> DeliveryScope {
        match self {
            Self::Value(_) => DeliveryScope::AllNodes,
            Self::ThisNode => DeliveryScope::ThisNode,
        }
    }

    /// What Redis answered, of what cannot do without it.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::ThisNode => Value::Nil,
        }
    }
}

/// The way into the queue.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Waiting>,
    load: Arc<Load>,
    items_most: usize,
    bytes_most: usize,
    timeout: Duration,
}

/// What Redis is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// A plain `PUBLISH`; `alone`: when Redis has been away for a while, this node's own clients get it all the same.
    Publish { channel: ChannelName, data: Bytes, alone: bool },
    /// An `SPUBLISH`, to the node of a cluster that owns the channel's slot; `alone`: the same.
    PublishSharded { channel: ChannelName, data: Bytes, alone: bool },
    /// Something about a log.
    Script(Call),
}

impl Request {
    /// Bytes that it takes to wait and to send.
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { channel, data, .. } | Self::PublishSharded { channel, data, .. } => {
                channel.as_str().len() + data.len()
            }
            Self::Script(call) => call.bytes(),
        }
    }

    /// Bytes that the answer may have.
    fn answer_bytes(&self) -> usize {
        match self {
            Self::Publish { .. } | Self::PublishSharded { .. } => 0,
            Self::Script(call) => call.answer_bytes,
        }
    }

    /// What requests must not overtake each other about: a channel, or the log of one.
    pub(super) fn subject(&self) -> &str {
        match self {
            Self::Publish { channel, .. } | Self::PublishSharded { channel, .. } => channel.as_str(),
            Self::Script(call) => call.keys.first().map_or("", String::as_str),
        }
    }

    /// The slot whose owner must be asked; `None`: any node of a cluster will do.
    pub(super) fn slot(&self) -> Option<u16> {
        match self {
            Self::Publish { .. } => None,
            Self::PublishSharded { .. } | Self::Script(_) => Some(slot::slot(self.subject())),
        }
    }

    /// Puts it into a pipeline.
    pub(super) fn write(&self, by: By, pipeline: &mut Pipeline) {
        match self {
            Self::Publish { channel, data, .. } => {
                pipeline.cmd("PUBLISH").arg(channel.as_str()).arg(&data[..]);
            }
            Self::PublishSharded { channel, data, .. } => {
                pipeline.cmd("SPUBLISH").arg(channel.as_str()).arg(&data[..]);
            }
            Self::Script(call) => call.write(by, pipeline),
        }
    }
}

/// One request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    held: Held,
}

impl Waiting {
    /// Bytes there and back.
    pub(super) fn bytes(&self) -> usize {
        self.request.bytes() + self.request.answer_bytes()
    }

    /// Tells the caller.
    pub(super) fn answer(self, answer: Answer) {
        // First the room, then the answer: who waited for it may ask again at once.
        drop(self.held);
        let _ = self.answer.send(answer);
    }

    /// Whether this node's own clients may get it without Redis.
    pub(super) fn can_do_alone(&self) -> bool {
        use Request::{Publish, PublishSharded};
        matches!(self.request, Publish { alone: true, .. } | PublishSharded { alone: true, .. })
    }

    /// Whether its caller has given it up.
    pub(super) fn is_late(&self) -> bool {
        self.deadline <= Instant::now()
    }
}

/// What waits for Redis or is on its way there.
#[derive(Debug, Default)]
struct Load {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request's part of the load, given back when it has gone.
#[derive(Debug)]
struct Held {
    bytes: usize,
    load: Arc<Load>,
}

impl Held {
    fn new(bytes: usize, load: &Arc<Load>) -> Self {
        load.items.fetch_add(1, Ordering::Relaxed);
        load.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, load: load.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.load.items.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An outbox and the queue behind it.
pub(super) fn outbox(settings: &RedisSettings, alone: Alone) -> (Outbox, Inbox) {
    let (queue, waiting) = mpsc::channel(settings.queue_items.max(1));
    let outbox = Outbox {
        queue,
        load: Arc::default(),
        items_most: settings.queue_items,
        bytes_most: settings.queue_bytes,
        timeout: settings.instance.command_timeout,
    };
    let inbox = Inbox { queue: waiting, parked: VecDeque::new(), alone };
    (outbox, inbox)
}

impl Outbox {
    /// Takes a place in the queue now; the future is the answer, and may be dropped without taking anything back.
    pub(super) fn ask(&self, request: Request) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let queued = self.enqueue(request, deadline, answer);
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
        request: Request,
        deadline: Instant,
        answer: oneshot::Sender<Answer>,
    ) -> Result<(), BrokerError> {
        let held = Held::new(request.bytes() + OVERHEAD, &self.load);
        let (items, bytes) = (&self.load.items, &self.load.bytes);
        if items.load(Ordering::Relaxed) > self.items_most || bytes.load(Ordering::Relaxed) > self.bytes_most
        {
            return Err(BrokerError::Busy);
        }
        let waiting = Waiting { request, deadline, answer, held };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("the gateway stops"),
        })
    }
}

/// The queue as the link sees it.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Waiting>,
    /// Taken out of the queue while there was nobody to ask; the first in order.
    parked: VecDeque<Waiting>,
    alone: Alone,
}

impl Inbox {
    /// Resolves when there is something to ask; `false` when there never will be.
    pub(super) async fn ready(&mut self) -> bool {
        if self.parked.is_empty() {
            self.parked.extend(self.queue.recv().await);
        }
        !self.parked.is_empty()
    }

    /// While there is nobody to ask: answers those who waited in vain, and hands on what can do without Redis. Ends
    /// when nobody can ask any more.
    pub(super) async fn expire(&mut self) {
        let mut open = true;
        while open || !self.parked.is_empty() {
            let next = self.parked.iter().map(|waiting| waiting.deadline).min();
            let look = self.alone.from().filter(|_| self.parked.iter().any(Waiting::can_do_alone));
            let next = [next, look].into_iter().flatten().min().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                waiting = self.queue.recv(), if open => {
                    open = waiting.is_some();
                    self.park(waiting);
                }
                () = tokio::time::sleep_until(next), if !self.parked.is_empty() => self.sweep(),
            }
        }
    }

    fn park(&mut self, waiting: Option<Waiting>) {
        let Some(waiting) = waiting else { return };
        let is_next = !self.parked.iter().any(Waiting::can_do_alone);
        if waiting.can_do_alone() && is_next && self.alone.is_so() {
            return self.alone.hand_on(waiting);
        }
        self.parked.push_back(waiting);
    }

    fn sweep(&mut self) {
        let is_alone = self.alone.is_so();
        for waiting in std::mem::take(&mut self.parked) {
            if waiting.is_late() {
                waiting.answer(Err(unavailable("Redis could not be reached in time")));
            } else if is_alone && waiting.can_do_alone() {
                self.alone.hand_on(waiting);
            } else {
                self.parked.push_back(waiting);
            }
        }
    }

    /// What waits, as much as one pipeline may hold. What is past its deadline was given up by its caller.
    pub(super) fn batch(&mut self) -> VecDeque<Waiting> {
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(waiting) = self.parked.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            if !waiting.is_late() {
                bytes += waiting.bytes();
                batch.push_back(waiting);
            }
        }
        batch
    }

    /// How the node does without Redis.
    pub(super) fn alone(&self) -> &Alone {
        &self.alone
    }
}

fn unavailable(why: &str) -> BrokerError {
    BrokerError::Unavailable(why.to_owned())
}
