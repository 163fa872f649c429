//! The queue of commands for Redis.
//!
//! Owns the order of commands, and the bounds in items and bytes. The call takes the place in the order. Must never
//! keep a command past its deadline: by then its caller has got an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::{Pipeline, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::local_fallback::LocalFallback;
use super::scripts::{ScriptCall, ScriptRef};
use super::settings::RedisSettings;
use crate::broker::{BrokerError, DeliveryScope};
use earshot_redis_link::slot;

/// Commands in one pipeline.
pub(super) const PIPELINE_MAX: usize = 128;
/// Bytes in one pipeline, commands and replies, so that large ones do not take a long round trip together.
pub(super) const PIPELINE_BYTES: usize = 4 * 1024 * 1024;
/// The cost of a command in addition to its names and payload.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// The result for a caller.
pub(super) type CommandResult = Result<CommandReply, BrokerError>;

/// The reply to a command.
#[derive(Debug)]
pub(super) enum CommandReply {
    /// The reply of Redis.
    Value(Value),
    /// Redis is unavailable; the publication was delivered within this node.
    DeliveredLocally,
}

impl CommandReply {
    /// The clients that a publication reaches.
    pub(super) fn scope(&self) -> DeliveryScope {
        match self {
            Self::Value(_) => DeliveryScope::AllNodes,
            Self::DeliveredLocally => DeliveryScope::ThisNode,
        }
    }

    /// The reply of Redis to a command that has no fallback.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::DeliveredLocally => Value::Nil,
        }
    }
}

/// The end of the callers.
#[derive(Clone, Debug)]
pub(super) struct CommandSender {
    queue: mpsc::Sender<QueuedCommand>,
    usage: Arc<QueueUsage>,
    items_max: usize,
    bytes_max: usize,
    timeout: Duration,
}

/// A command.
#[derive(Debug)]
pub(super) enum RedisRequest {
    /// A plain `PUBLISH`; `allow_local`: delivered within this node while Redis is unavailable.
    Publish { channel: ChannelName, data: Bytes, allow_local: bool },
    /// An `SPUBLISH` to the owner of the channel's slot; `allow_local` as above.
    PublishSharded { channel: ChannelName, data: Bytes, allow_local: bool },
    /// A log script.
    Script(ScriptCall),
}

impl RedisRequest {
    /// Bytes of the command.
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { channel, data, .. } | Self::PublishSharded { channel, data, .. } => {
                channel.as_str().len() + data.len()
            }
            Self::Script(call) => call.bytes(),
        }
    }

    /// The maximum size of the reply.
    fn answer_bytes(&self) -> usize {
        match self {
            Self::Publish { .. } | Self::PublishSharded { .. } => 0,
            Self::Script(call) => call.answer_bytes,
        }
    }

    /// The channel or log whose commands must stay in order.
    pub(super) fn subject(&self) -> &str {
        match self {
            Self::Publish { channel, .. } | Self::PublishSharded { channel, .. } => channel.as_str(),
            Self::Script(call) => call.keys.first().map_or("", String::as_str),
        }
    }

    /// The slot whose owner must execute the command; `None` for any node of a cluster.
    pub(super) fn slot(&self) -> Option<u16> {
        match self {
            Self::Publish { .. } => None,
            Self::PublishSharded { .. } | Self::Script(_) => Some(slot::slot(self.subject())),
        }
    }

    /// Adds the command to a pipeline.
    pub(super) fn write(&self, by: ScriptRef, pipeline: &mut Pipeline) {
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

/// A command in the queue.
#[derive(Debug)]
pub(super) struct QueuedCommand {
    pub(super) request: RedisRequest,
    deadline: Instant,
    answer: oneshot::Sender<CommandResult>,
    permit: QueuePermit,
}

impl QueuedCommand {
    /// Bytes of the command and its reply.
    pub(super) fn bytes(&self) -> usize {
        self.request.bytes() + self.request.answer_bytes()
    }

    /// Answers the caller.
    pub(super) fn answer(self, answer: CommandResult) {
        // The permit is released first, since the caller may submit again immediately.
        drop(self.permit);
        let _ = self.answer.send(answer);
    }

    /// Whether the command may be delivered within this node.
    pub(super) fn allows_local(&self) -> bool {
        use RedisRequest::{Publish, PublishSharded};
        matches!(self.request, Publish { allow_local: true, .. } | PublishSharded { allow_local: true, .. })
    }

    /// Delivers the publication within this node, and answers the caller.
    pub(super) fn deliver_local(self, fallback: &LocalFallback) {
        use RedisRequest::{Publish, PublishSharded};
        if let Publish { channel, data, .. } | PublishSharded { channel, data, .. } = &self.request {
            fallback.deliver(channel, data.clone());
        }
        self.answer(Ok(CommandReply::DeliveredLocally));
    }

    /// Whether the deadline has passed.
    pub(super) fn is_expired(&self) -> bool {
        self.deadline <= Instant::now()
    }
}

/// The commands that wait or are in flight.
#[derive(Debug, Default)]
struct QueueUsage {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// One command's share of the usage, released on drop.
#[derive(Debug)]
struct QueuePermit {
    bytes: usize,
    usage: Arc<QueueUsage>,
}

impl QueuePermit {
    fn new(bytes: usize, usage: &Arc<QueueUsage>) -> Self {
        usage.items.fetch_add(1, Ordering::Relaxed);
        usage.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, usage: usage.clone() }
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.usage.items.fetch_sub(1, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Creates both ends of the queue.
pub(super) fn command_queue(
    settings: &RedisSettings,
    fallback: LocalFallback,
) -> (CommandSender, CommandQueue) {
    let (queue, queued) = mpsc::channel(settings.queue_items.max(1));
    let command_sender = CommandSender {
        queue,
        usage: Arc::default(),
        items_max: settings.queue_items,
        bytes_max: settings.queue_bytes,
        timeout: settings.instance.command_timeout,
    };
    let command_queue = CommandQueue { queue: queued, offline: VecDeque::new(), fallback };
    (command_sender, command_queue)
}

impl CommandSender {
    /// Queues a command now. The future resolves with the result, and may be dropped without a cancellation.
    pub(super) fn submit(
        &self,
        request: RedisRequest,
    ) -> impl Future<Output = CommandResult> + Send + 'static + use<> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let queued = self.enqueue(request, deadline, answer);
        let timeout = self.timeout;
        async move {
            queued?;
            match tokio::time::timeout_at(deadline, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(unavailable("the gateway is shutting down")),
                Err(_) => Err(BrokerError::Unavailable(format!("no answer within {timeout:?}"))),
            }
        }
    }

    fn enqueue(
        &self,
        request: RedisRequest,
        deadline: Instant,
        answer: oneshot::Sender<CommandResult>,
    ) -> Result<(), BrokerError> {
        let permit = QueuePermit::new(request.bytes() + COMMAND_OVERHEAD_BYTES, &self.usage);
        let (items, bytes) = (&self.usage.items, &self.usage.bytes);
        if items.load(Ordering::Relaxed) > self.items_max || bytes.load(Ordering::Relaxed) > self.bytes_max {
            return Err(BrokerError::Busy);
        }
        let queued = QueuedCommand { request, deadline, answer, permit };
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("the gateway is shutting down"),
        })
    }
}

/// The end of the link.
#[derive(Debug)]
pub(super) struct CommandQueue {
    queue: mpsc::Receiver<QueuedCommand>,
    /// Commands that were dequeued while the link was down; they come first.
    offline: VecDeque<QueuedCommand>,
    fallback: LocalFallback,
}

impl CommandQueue {
    /// Waits for a command. Returns `false` after all senders are dropped.
    pub(super) async fn ready(&mut self) -> bool {
        if self.offline.is_empty() {
            self.offline.extend(self.queue.recv().await);
        }
        !self.offline.is_empty()
    }

    /// Runs while the link is down: fails expired commands, and delivers locally what may be. Ends when all senders
    /// are gone.
    pub(super) async fn run_offline(&mut self) {
        let mut open = true;
        while open || !self.offline.is_empty() {
            let next = self.offline.iter().map(|queued| queued.deadline).min();
            let look =
                self.fallback.active_from().filter(|_| self.offline.iter().any(QueuedCommand::allows_local));
            let next = [next, look].into_iter().flatten().min().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                queued = self.queue.recv(), if open => {
                    open = queued.is_some();
                    self.hold(queued);
                }
                () = tokio::time::sleep_until(next), if !self.offline.is_empty() => self.expire_offline(),
            }
        }
    }

    fn hold(&mut self, queued: Option<QueuedCommand>) {
        let Some(queued) = queued else { return };
        let is_next = !self.offline.iter().any(QueuedCommand::allows_local);
        if queued.allows_local() && is_next && self.fallback.is_active() {
            return queued.deliver_local(&self.fallback);
        }
        self.offline.push_back(queued);
    }

    fn expire_offline(&mut self) {
        let is_active = self.fallback.is_active();
        for queued in std::mem::take(&mut self.offline) {
            if queued.is_expired() {
                queued.answer(Err(unavailable("Redis could not be reached in time")));
            } else if is_active && queued.allows_local() {
                queued.deliver_local(&self.fallback);
            } else {
                self.offline.push_back(queued);
            }
        }
    }

    /// Takes the commands of one pipeline. Expired commands are dropped.
    pub(super) fn batch(&mut self) -> VecDeque<QueuedCommand> {
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        while batch.len() < PIPELINE_MAX && bytes < PIPELINE_BYTES {
            let Some(queued) = self.offline.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            if !queued.is_expired() {
                bytes += queued.bytes();
                batch.push_back(queued);
            }
        }
        batch
    }

    /// The fallback while Redis is unavailable.
    pub(super) fn fallback(&self) -> &LocalFallback {
        &self.fallback
    }
}

fn unavailable(why: &str) -> BrokerError {
    BrokerError::Unavailable(why.to_owned())
}
