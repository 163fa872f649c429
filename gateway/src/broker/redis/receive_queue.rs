//! The bounded queue from a connection to the handler.
//!
//! Owns the received publications that have not been delivered, bounded in items and bytes. When it is full, new
//! messages are dropped and a gap takes their place in the order. Must never block or grow: the read loop of the
//! client fills it. Each connection has its own queue, so messages of a dead connection cannot mix with those of the
//! next one.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pattern_dedup::PatternDedup;
use super::probe::ProbeReplies;
use super::settings::RedisSettings;
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic, TopicGap};

/// Topics that all waiting gaps may name; beyond that, a gap concerns all topics.
const NAMED_TOPICS_MAX: usize = 128;
/// Gaps that may wait; beyond that, the last one covers what follows, whatever its cause.
const GAPS_MAX: usize = 128;
/// The cost of a message in addition to its name and payload.
const MESSAGE_OVERHEAD_BYTES: usize = 64;
/// The capacity that an empty queue keeps after a burst.
const CAPACITY_MIN: usize = 4096;

/// The queue of one connection.
#[derive(Debug)]
pub(super) struct ReceiveQueue {
    items: usize,
    bytes: usize,
    message_bytes: usize,
    patterns: AtomicBool,
    probes: Option<Arc<ProbeReplies>>,
    queue: Mutex<ReceiveQueueState>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct ReceiveQueueState {
    items: VecDeque<QueueItem>,
    messages: usize,
    bytes: usize,
    named: usize,
    gaps: usize,
    ended: bool,
    dedup: PatternDedup,
    /// Sharded channels that the gateway unsubscribes from.
    expected_unsubscribes: HashSet<String>,
}

#[derive(Debug)]
enum QueueItem {
    Message(BrokerMessage),
    Gap(TopicGap),
    Unsubscribed(Topic),
}

/// The result of [`ReceiveQueue::dequeue`].
#[derive(Debug)]
pub(super) enum Dequeued {
    /// Messages were added to the batch.
    Messages,
    /// A gap before the next messages.
    Gap(TopicGap),
    /// The server has unsubscribed a sharded channel: its slot has moved.
    Unsubscribed(Topic),
    /// The queue is empty.
    Nothing,
    /// The queue is empty, and the connection has ended.
    Ended,
}

impl ReceiveQueue {
    /// Creates an empty queue. Probes in `probes` are not delivered.
    pub(super) fn new(settings: &RedisSettings, probes: Option<Arc<ProbeReplies>>) -> Self {
        Self {
            items: settings.receive_queue_items,
            bytes: settings.receive_queue_bytes,
            message_bytes: settings.message_bytes,
            patterns: AtomicBool::new(false),
            probes,
            queue: Mutex::default(),
            ready: Notify::new(),
        }
    }

    /// Bytes in the queue.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Resolves when there may be something to dequeue.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// A pattern is about to be subscribed: one publication may then arrive several times.
    pub(super) fn expect_patterns(&self) {
        self.patterns.store(true, Ordering::Relaxed);
    }

    /// Sharded channels are about to be unsubscribed.
    pub(super) fn expect_unsubscribes(&self, topics: &[Topic]) {
        self.lock().expected_unsubscribes.extend(topics.iter().map(ToString::to_string));
    }

    /// No further `sunsubscribe` is expected.
    pub(super) fn clear_expected_unsubscribes(&self) {
        self.lock().expected_unsubscribes.clear();
    }

    /// Handles a `sunsubscribe` of the server.
    fn on_sunsubscribe(&self, push: PushInfo) {
        let Some(Value::BulkString(name)) = push.data.into_iter().next() else { return };
        let Ok(name) = String::from_utf8(name) else { return };
        let mut queue = self.lock();
        if queue.expected_unsubscribes.remove(&name) || queue.ended {
            return;
        }
        let Ok(channel) = ChannelName::parse(&name) else { return };
        queue.items.push_back(QueueItem::Unsubscribed(Topic::Sharded(channel)));
        drop(queue);
        self.ready.notify_one();
    }

    /// Takes up to `max` messages, or one gap, or one unsubscribed channel.
    pub(super) fn dequeue(&self, batch: &mut Vec<BrokerMessage>, max: usize) -> Dequeued {
        let mut queue = self.lock();
        let dequeued = queue.dequeue(batch, max);
        if queue.items.is_empty() {
            queue.items.shrink_to(CAPACITY_MIN);
        }
        // More is waiting, so the next wait for `ready` must resolve.
        if queue.ended || !queue.items.is_empty() {
            self.ready.notify_one();
        }
        dequeued
    }

    fn push(&self, push: ReceivedPush) {
        let BrokerMessage { channel, data } = &push.message;
        if self.probes.as_ref().is_some_and(|probes| probes.accept(channel, data)) {
            return;
        }
        let mut queue = self.lock();
        if queue.ended {
            return;
        }
        if self.patterns.load(Ordering::Relaxed)
            && queue.dedup.is_duplicate(&push.message, push.pattern.as_deref())
        {
            return;
        }
        let cost = cost(&push.message);
        if push.message.data.len() > self.message_bytes {
            queue.record_drop(&push, GapCause::TooLarge);
        } else if queue.messages >= self.items || queue.bytes + cost > self.bytes {
            queue.record_drop(&push, GapCause::QueueFull);
        } else {
            queue.messages += 1;
            queue.bytes += cost;
            queue.items.push_back(QueueItem::Message(push.message));
        }
        let first = queue.items.len() == 1;
        drop(queue);
        if first {
            self.ready.notify_one();
        }
    }

    /// Ends the queue: it no longer accepts messages; waiting ones can be dequeued.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, ReceiveQueueState> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncPushSender for ReceiveQueue {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        if let Some(probes) = &self.probes {
            probes.on_push();
        }
        match push.kind {
            PushKind::Message | PushKind::PMessage | PushKind::SMessage => {
                if let Some(push) = ReceivedPush::read(push) {
                    self.push(push);
                }
            }
            PushKind::SUnsubscribe => self.on_sunsubscribe(push),
            PushKind::Disconnection => self.end(),
            // Confirmations reach the sender of the command; other pushes are not used.
            _ => {}
        }
        Ok(())
    }
}

impl ReceiveQueueState {
    fn dequeue(&mut self, batch: &mut Vec<BrokerMessage>, max: usize) -> Dequeued {
        let mut dequeued = 0;
        while dequeued < max {
            match self.items.pop_front() {
                Some(QueueItem::Message(message)) => {
                    self.messages -= 1;
                    self.bytes -= cost(&message);
                    batch.push(message);
                    dequeued += 1;
                }
                Some(QueueItem::Gap(gap)) if dequeued == 0 => return self.dequeue_gap(gap),
                Some(QueueItem::Unsubscribed(topic)) if dequeued == 0 => {
                    return Dequeued::Unsubscribed(topic);
                }
                Some(other) => {
                    self.items.push_front(other);
                    break;
                }
                None => break,
            }
        }
        match (dequeued, self.ended) {
            (0, true) => Dequeued::Ended,
            (0, false) => Dequeued::Nothing,
            _ => Dequeued::Messages,
        }
    }

    fn dequeue_gap(&mut self, gap: TopicGap) -> Dequeued {
        if let AffectedTopics::Some(topics) = &gap.topics {
            self.named -= topics.len();
        }
        self.gaps -= 1;
        Dequeued::Gap(gap)
    }

    /// Adds a gap at the end of the queue, or extends the gap at its end if that has the same cause.
    fn record_drop(&mut self, push: &ReceivedPush, cause: GapCause) {
        let Some(topic) = push.topic() else { return };
        match self.items.back_mut() {
            Some(QueueItem::Gap(gap)) if gap.cause == cause || self.gaps >= GAPS_MAX => {
                add(gap, topic, &mut self.named)
            }
            _ => {
                self.gaps += 1;
                let mut gap =
                    TopicGap { topics: AffectedTopics::Some(Vec::new()), cause, from: Instant::now() };
                add(&mut gap, topic, &mut self.named);
                self.items.push_back(QueueItem::Gap(gap));
            }
        }
    }
}

fn cost(message: &BrokerMessage) -> usize {
    message.data.len() + message.channel.len() + MESSAGE_OVERHEAD_BYTES
}

fn add(gap: &mut TopicGap, topic: Topic, named: &mut usize) {
    let AffectedTopics::Some(topics) = &mut gap.topics else { return };
    if topics.contains(&topic) {
        return;
    }
    if *named < NAMED_TOPICS_MAX {
        topics.push(topic);
        *named += 1;
    } else {
        *named -= topics.len();
        gap.topics = AffectedTopics::All;
    }
}

/// A message with the pattern that delivered it.
struct ReceivedPush {
    message: BrokerMessage,
    pattern: Option<Vec<u8>>,
    sharded: bool,
}

impl ReceivedPush {
    fn read(push: PushInfo) -> Option<Self> {
        let mut fields = push.data.into_iter().map(|value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let sharded = push.kind == PushKind::SMessage;
        let pattern = if push.kind == PushKind::PMessage { Some(fields.next()??) } else { None };
        let channel = fields.next()??;
        let data = Bytes::from(fields.next()??);
        // Only a pattern can deliver a name that is not text, and no client can subscribe to such a channel.
        let channel = String::from_utf8(channel).ok()?;
        Some(Self { message: BrokerMessage { channel, data }, pattern, sharded })
    }

    /// The topic to name in a gap; `None` for a channel that no client can subscribe to.
    fn topic(&self) -> Option<Topic> {
        if let Ok(name) = ChannelName::parse(&self.message.channel) {
            return Some(if self.sharded { Topic::Sharded(name) } else { Topic::Channel(name) });
        }
        let pattern = String::from_utf8(self.pattern.clone()?).ok()?;
        Some(Topic::Pattern(pattern.into()))
    }
}
