//! The bounded way from a connection to the listener.
//!
//! Owns the publications that were heard and not yet handed on, bounded in items and bytes. When it is full, what
//! comes is dropped and the loss stands in the queue in its place, so it is said in order. Must never block or grow:
//! it is fed from within the client's own read loop. Each connection has a hand-over of its own, so what a dead
//! connection still brings cannot mix with what the next one hears.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::echo::Echo;
use super::probe::Echoes;
use super::settings::RedisSettings;
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic, TopicGap};

/// Topics that may be named in all losses that wait together; beyond, a loss concerns all.
const NAMED: usize = 128;
/// Losses that may wait one behind the other; beyond, the last of them takes in what comes, whatever its cause.
const LOSSES: usize = 128;
/// What a waiting message costs beside its name and payload.
const OVERHEAD: usize = 64;
/// Room that an emptied queue keeps after a burst.
const KEPT: usize = 4096;

/// The queue between one connection and the listener.
#[derive(Debug)]
pub(super) struct Handover {
    items: usize,
    bytes: usize,
    message_bytes: usize,
    patterns: AtomicBool,
    probes: Option<Arc<Echoes>>,
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    messages: usize,
    bytes: usize,
    named: usize,
    losses: usize,
    ended: bool,
    echo: Echo,
    /// Shard channels that we give up ourselves: their end is no news.
    given_up: HashSet<String>,
}

#[derive(Debug)]
enum Item {
    Message(BrokerMessage),
    TopicGap(TopicGap),
    Gone(Topic),
}

/// What [`Handover::take`] found.
#[derive(Debug)]
pub(super) enum Taken {
    /// Messages were put into the batch.
    Messages,
    /// A loss; it comes before whatever is taken next.
    TopicGap(TopicGap),
    /// A shard channel that the server carries no longer: its slot has moved.
    Gone(Topic),
    /// Nothing waits.
    Nothing,
    /// Nothing waits, and nothing will come: the connection is gone.
    Ended,
}

impl Handover {
    /// An empty one; `probes` of our own are told from publications, and not handed on.
    pub(super) fn new(settings: &RedisSettings, probes: Option<Arc<Echoes>>) -> Self {
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

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Resolves when there may be something to take.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// A pattern is about to be subscribed: from now on one publication may arrive by several ways.
    pub(super) fn expect_patterns(&self) {
        self.patterns.store(true, Ordering::Relaxed);
    }

    /// Shard channels are about to be given up.
    pub(super) fn expect_end(&self, topics: &[Topic]) {
        self.lock().given_up.extend(topics.iter().map(ToString::to_string));
    }

    /// Whatever shard channel ends from now on was not given up by us.
    pub(super) fn expect_no_end(&self) {
        self.lock().given_up.clear();
    }

    /// A shard channel has ended on this connection.
    fn gone(&self, push: PushInfo) {
        let Some(Value::BulkString(name)) = push.data.into_iter().next() else { return };
        let Ok(name) = String::from_utf8(name) else { return };
        let mut queue = self.lock();
        if queue.given_up.remove(&name) || queue.ended {
            return;
        }
        let Ok(channel) = ChannelName::parse(&name) else { return };
        queue.items.push_back(Item::Gone(Topic::Sharded(channel)));
        drop(queue);
        self.ready.notify_one();
    }

    /// Takes up to `most` messages, or one loss, or one end.
    pub(super) fn take(&self, batch: &mut Vec<BrokerMessage>, most: usize) -> Taken {
        let mut queue = self.lock();
        let taken = queue.take(batch, most);
        if queue.items.is_empty() {
            queue.items.shrink_to(KEPT);
        }
        // More waits than was taken: whoever waits for `ready` next shall not wait in vain.
        if queue.ended || !queue.items.is_empty() {
            self.ready.notify_one();
        }
        taken
    }

    fn push(&self, heard: Heard) {
        let BrokerMessage { channel, data } = &heard.message;
        if self.probes.as_ref().is_some_and(|probes| probes.takes(channel, data)) {
            return;
        }
        let mut queue = self.lock();
        if queue.ended {
            return;
        }
        if self.patterns.load(Ordering::Relaxed)
            && queue.echo.is_echo(&heard.message, heard.pattern.as_deref())
        {
            return;
        }
        let cost = cost(&heard.message);
        if heard.message.data.len() > self.message_bytes {
            queue.lose(&heard, GapCause::TooLarge);
        } else if queue.messages >= self.items || queue.bytes + cost > self.bytes {
            queue.lose(&heard, GapCause::QueueFull);
        } else {
            queue.messages += 1;
            queue.bytes += cost;
            queue.items.push_back(Item::Message(heard.message));
        }
        let first = queue.items.len() == 1;
        drop(queue);
        if first {
            self.ready.notify_one();
        }
    }

    /// Nothing that comes from now on is taken in; what waits can still be taken.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncPushSender for Handover {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        if let Some(probes) = &self.probes {
            probes.hears();
        }
        match push.kind {
            PushKind::Message | PushKind::PMessage | PushKind::SMessage => {
                if let Some(heard) = Heard::read(push) {
                    self.push(heard);
                }
            }
            PushKind::SUnsubscribe => self.gone(push),
            PushKind::Disconnection => self.end(),
            // Confirmations reach whoever sent the command; the rest is not for us.
            _ => {}
        }
        Ok(())
    }
}

impl Queue {
    fn take(&mut self, batch: &mut Vec<BrokerMessage>, most: usize) -> Taken {
        let mut taken = 0;
        while taken < most {
            match self.items.pop_front() {
                Some(Item::Message(message)) => {
                    self.messages -= 1;
                    self.bytes -= cost(&message);
                    batch.push(message);
                    taken += 1;
                }
                Some(Item::TopicGap(loss)) if taken == 0 => return self.take_loss(loss),
                Some(Item::Gone(topic)) if taken == 0 => return Taken::Gone(topic),
                Some(other) => {
                    self.items.push_front(other);
                    break;
                }
                None => break,
            }
        }
        match (taken, self.ended) {
            (0, true) => Taken::Ended,
            (0, false) => Taken::Nothing,
            _ => Taken::Messages,
        }
    }

    fn take_loss(&mut self, loss: TopicGap) -> Taken {
        if let AffectedTopics::Some(topics) = &loss.topics {
            self.named -= topics.len();
        }
        self.losses -= 1;
        Taken::TopicGap(loss)
    }

    /// Enters a loss at the end of the queue, into the loss that stands there already if it has the same cause.
    fn lose(&mut self, heard: &Heard, cause: GapCause) {
        let Some(topic) = heard.topic() else { return };
        match self.items.back_mut() {
            Some(Item::TopicGap(loss)) if loss.cause == cause || self.losses >= LOSSES => {
                add(loss, topic, &mut self.named)
            }
            _ => {
                self.losses += 1;
                let mut loss =
                    TopicGap { topics: AffectedTopics::Some(Vec::new()), cause, from: Instant::now() };
                add(&mut loss, topic, &mut self.named);
                self.items.push_back(Item::TopicGap(loss));
            }
        }
    }
}

fn cost(message: &BrokerMessage) -> usize {
    message.data.len() + message.channel.len() + OVERHEAD
}

fn add(loss: &mut TopicGap, topic: Topic, named: &mut usize) {
    let AffectedTopics::Some(topics) = &mut loss.topics else { return };
    if topics.contains(&topic) {
        return;
    }
    if *named < NAMED {
        topics.push(topic);
        *named += 1;
    } else {
        *named -= topics.len();
        loss.topics = AffectedTopics::All;
    }
}

/// A message as it came, and the pattern it came by.
struct Heard {
    message: BrokerMessage,
    pattern: Option<Vec<u8>>,
    sharded: bool,
}

impl Heard {
    fn read(push: PushInfo) -> Option<Self> {
        let mut fields = push.data.into_iter().map(|value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let sharded = push.kind == PushKind::SMessage;
        let pattern = if push.kind == PushKind::PMessage { Some(fields.next()??) } else { None };
        let channel = fields.next()??;
        let data = Bytes::from(fields.next()??);
        // What is subscribed by name is text; only a pattern can bring a name that is not, and no client can ask
        // for such a channel.
        let channel = String::from_utf8(channel).ok()?;
        Some(Self { message: BrokerMessage { channel, data }, pattern, sharded })
    }

    /// The topic to name in a loss; `None` for a channel that no client can have asked for.
    fn topic(&self) -> Option<Topic> {
        if let Ok(name) = ChannelName::parse(&self.message.channel) {
            return Some(if self.sharded { Topic::Sharded(name) } else { Topic::Channel(name) });
        }
        let pattern = String::from_utf8(self.pattern.clone()?).ok()?;
        Some(Topic::Pattern(pattern.into()))
    }
}
