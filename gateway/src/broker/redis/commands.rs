//! The command link: publications of ours, in order, in pipelines.
//!
//! Owns the queue of what is to be published. Must never send anything twice: a publication that was on its way when
//! the connection broke may have been heard, so its caller is told that nobody knows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, ServerError, ServerErrorKind, Value};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::dial::{Backoff, Dialer, Failure};
use super::ping::{clock, ping};
use super::settings::RedisSettings;
use super::status::LinkState;
use crate::broker::BrokerError;
use crate::drain::Drain;

/// Publications in one pipeline.
const BATCH: usize = 128;
/// Bytes in one pipeline, so that a few large payloads do not make a round trip of their own size.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// What a waiting publication costs beside its name and payload.
const OVERHEAD: usize = 128;

type Answer = Result<(), BrokerError>;

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
struct Publish {
    channel: ChannelName,
    data: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    held: Held,
}

impl Publish {
    fn answer(self, answer: Answer) {
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
    async fn ready(&mut self) -> bool {
        if self.front.is_none() {
            self.front = self.queue.recv().await;
        }
        self.front.is_some()
    }

    /// Answers those who waited in vain, for as long as it is awaited. Ends when nobody can publish any more.
    async fn expire(&mut self) {
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
    fn batch(&mut self) -> VecDeque<Publish> {
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

/// The task of the link.
pub(super) struct Commands {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) dialer: Dialer,
    pub(super) state: Arc<LinkState>,
    pub(super) inbox: Inbox,
}

impl Commands {
    /// Keeps the link until the gateway stops.
    pub(super) async fn run(mut self, drain: Drain) {
        let state = self.state.clone();
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.keep() => {}
        }
        state.down(&Failure::Unreachable("stopped".to_owned()));
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::new(&self.settings);
        loop {
            let closed = Arc::new(Notify::new());
            let failure = match self.connect(closed.clone()).await {
                Some(Ok(connection)) => {
                    self.state.up();
                    let since = Instant::now();
                    let Err(failure) = self.serve(connection, &closed).await else { return };
                    // See the subscriber: one that is thrown out again must not hurry.
                    if since.elapsed() > self.settings.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Some(Err(failure)) => failure,
                None => return,
            };
            self.state.down(&failure);
            tokio::select! {
                () = tokio::time::sleep(backoff.next(&failure)) => {}
                () = self.inbox.expire() => return,
            }
        }
    }

    /// One attempt; `None` when nobody can publish any more.
    async fn connect(&mut self, closed: Arc<Notify>) -> Option<Result<MultiplexedConnection, Failure>> {
        // Without this an idle link would learn of its end from the next publication, which would be lost.
        let end = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        };
        tokio::select! {
            attempt = self.dialer.dial(end) => Some(attempt),
            () = self.inbox.expire() => None,
        }
    }

    /// Publishes until the connection fails (`Err`), or nobody can publish any more (`Ok`).
    async fn serve(&mut self, connection: MultiplexedConnection, closed: &Notify) -> Result<(), Failure> {
        let mut pings = clock(self.settings.ping_interval);
        loop {
            tokio::select! {
                biased;
                () = closed.notified() => {
                    return Err(Failure::Unreachable("the connection was closed".to_owned()));
                }
                some = self.inbox.ready() => {
                    if !some {
                        return Ok(());
                    }
                    publish(connection.clone(), self.inbox.batch()).await?;
                    pings.reset();
                }
                _ = pings.tick() => {
                    ping(connection.clone(), self.settings.ping_timeout).await?;
                }
            }
        }
    }
}

/// Publishes a batch in one pipeline and gives each caller its own answer.
async fn publish(mut connection: MultiplexedConnection, batch: VecDeque<Publish>) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for publish in &batch {
        pipeline.cmd("PUBLISH").arg(publish.channel.as_str()).arg(&publish.data[..]);
    }
    match connection.send_packed_commands(&pipeline, 0, batch.len()).await {
        Ok(values) => {
            for (publish, value) in batch.into_iter().zip(values) {
                publish.answer(judge(value));
            }
            Ok(())
        }
        Err(error) => {
            let failure = Failure::Unreachable(error.to_string());
            for publish in batch {
                publish.answer(Err(BrokerError::Unavailable(failure.to_string())));
            }
            Err(failure)
        }
    }
}

fn judge(value: Value) -> Answer {
    let Value::ServerError(error) = value else { return Ok(()) };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    if is_passing(&error) { Err(BrokerError::Unavailable(text)) } else { Err(BrokerError::Refused(text)) }
}

/// Whether an error will pass by itself.
fn is_passing(error: &ServerError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        Some(kind) => matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain),
        None => matches!(error.code(), "BUSY" | "MISCONF" | "OOM" | "NOREPLICAS"),
    }
}

fn unavailable(why: &str) -> BrokerError {
    BrokerError::Unavailable(why.to_owned())
}
