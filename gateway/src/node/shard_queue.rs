//! The queue from the node to one shard, bounded in events and in bytes.
//!
//! Owns the bounds, and what happens when they are reached: the channels of the rejected publications are recorded,
//! and the shard receives their gaps once it has caught up. Must never block and never grow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::messages::{ChannelGap, NodeEvent, PublicationBatch};
use super::publication::Publication;
use crate::broker::GapCause;

/// The bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct ShardQueueLimits {
    /// Events that may wait (`limits.shard_queue_items`).
    pub items: usize,
    /// Bytes of publications that may wait (`limits.shard_queue_bytes`).
    pub bytes: usize,
}

/// The end of the node.
#[derive(Clone, Debug)]
pub struct ShardSender {
    events: mpsc::Sender<NodeEvent>,
    shared: Arc<QueueState>,
    limits: ShardQueueLimits,
}

/// The end of the shard.
#[derive(Debug)]
pub struct ShardReceiver {
    events: mpsc::Receiver<NodeEvent>,
    shared: Arc<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    bytes: AtomicUsize,
    has_overflow: AtomicBool,
    /// The newest gap of each channel that found no room in the queue.
    overflow: Mutex<HashMap<ChannelName, (GapCause, StreamPosition)>>,
    overflow_recorded: Notify,
}

/// The queue was full; the channels of the publications have a gap.
#[derive(Clone, Copy, Debug)]
pub struct QueueFull {
    /// The number of channels that had no unreported gap before.
    pub channels: usize,
}

/// Creates the queue of one shard.
pub fn shard_queue(limits: ShardQueueLimits) -> (ShardSender, ShardReceiver) {
    let (sender, receiver) = mpsc::channel(limits.items);
    let shared = Arc::new(QueueState::default());
    (
        ShardSender { events: sender, shared: Arc::clone(&shared), limits },
        ShardReceiver { events: receiver, shared },
    )
}

impl ShardSender {
    /// Waits for room for one event. Returns `None` when the shard has ended.
    pub async fn reserve(&self) -> Option<mpsc::Permit<'_, NodeEvent>> {
        self.events.reserve().await.ok()
    }

    /// Sends an event; waits for room. Returns `false` when the shard has ended.
    pub async fn send(&self, event: NodeEvent) -> bool {
        self.events.send(event).await.is_ok()
    }

    /// Sends publications, or records the gaps of their channels. Does not wait.
    ///
    /// # Errors
    /// When the queue is full. A shard that has ended is not an error of the caller, but is reported as one.
    pub fn send_publications(&self, publications: Vec<Arc<Publication>>) -> Result<(), QueueFull> {
        let bytes = cost(&publications);
        let waiting = self.shared.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > self.limits.bytes {
            return Err(self.record_rejected(&publications));
        }
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let batch = PublicationBatch { publications, queued_at: Instant::now() };
        match self.events.try_send(NodeEvent::Publications(batch)) {
            Ok(()) => Ok(()),
            Err(rejected) => {
                self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                match rejected.into_inner() {
                    NodeEvent::Publications(batch) => Err(self.record_rejected(&batch.publications)),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Discards the recorded gap of a channel. The shard attaches again, so a gap before that must not be reported.
    pub fn discard_overflow(&self, channel: &ChannelName) {
        self.shared.overflow().remove(channel);
    }

    /// Sends gaps immediately, or as soon as the shard has caught up. Does not wait.
    pub fn send_gaps(&self, gaps: Vec<ChannelGap>) {
        // Recorded gaps of these channels are older, and must not be reported after these.
        let mut overflow = self.shared.overflow();
        for gap in &gaps {
            overflow.remove(&gap.channel);
        }
        let sent = self.events.try_send(NodeEvent::Gaps(gaps));
        drop(overflow);
        if let Err(rejected) = sent
            && let NodeEvent::Gaps(gaps) = rejected.into_inner()
        {
            self.record_overflow(gaps.into_iter().map(|gap| (gap.channel, gap.cause, gap.position)));
        }
    }

    fn record_rejected(&self, batch: &[Arc<Publication>]) -> QueueFull {
        let gaps = batch
            .iter()
            .map(|publication| (publication.channel.clone(), GapCause::QueueFull, publication.position));
        QueueFull { channels: self.record_overflow(gaps) }
    }

    /// Returns the number of channels that had no recorded gap before.
    fn record_overflow(&self, gaps: impl Iterator<Item = (ChannelName, GapCause, StreamPosition)>) -> usize {
        let mut overflow = self.shared.overflow();
        let new = gaps
            .filter_map(|(channel, cause, position)| {
                overflow.insert(channel, (cause, position)).is_none().then_some(())
            })
            .count();
        self.shared.has_overflow.store(true, Ordering::Release);
        drop(overflow);
        self.shared.overflow_recorded.notify_one();
        new
    }
}

impl ShardReceiver {
    /// The next event, if one is waiting.
    pub fn try_next(&mut self) -> Option<NodeEvent> {
        self.events.try_recv().ok().inspect(|event| self.shared.release(event))
    }

    /// Takes the recorded gaps. Returns none while an event waits, so that a gap is never reported before the events
    /// that precede it; the caller calls again after those events.
    pub fn take_overflow(&mut self) -> Vec<ChannelGap> {
        if !self.shared.has_overflow.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut overflow = self.shared.overflow();
        // Checked under the lock: the events that precede the recorded gaps are in the queue by now.
        if !self.events.is_empty() {
            return Vec::new();
        }
        self.shared.has_overflow.store(false, Ordering::Release);
        let gaps = std::mem::take(&mut *overflow);
        drop(overflow);
        gaps.into_iter().map(|(channel, (cause, position))| ChannelGap { channel, cause, position }).collect()
    }

    /// Waits for the next event. Returns `None` when [`ShardReceiver::take_overflow`] has gaps, or when the node has
    /// ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        tokio::select! {
            biased;
            event = self.events.recv() => event.inspect(|event| self.shared.release(event)),
            () = self.shared.overflow_recorded.notified() => None,
        }
    }
}

impl QueueState {
    fn release(&self, event: &NodeEvent) {
        if let NodeEvent::Publications(batch) = event {
            self.bytes.fetch_sub(cost(&batch.publications), Ordering::Relaxed);
        }
    }

    fn overflow(&self) -> MutexGuard<'_, HashMap<ChannelName, (GapCause, StreamPosition)>> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(batch: &[Arc<Publication>]) -> usize {
    batch.iter().map(|publication| publication.cost()).sum()
}
