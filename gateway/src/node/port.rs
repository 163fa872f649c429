//! The way from the node to one shard: a queue bounded in items and in bytes.
//!
//! Owns the bounds and what happens when they are reached: the channels concerned are remembered, and the shard is
//! told of the hole in their sequence once it has caught up. Must never block and never grow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::sync::{Notify, mpsc, oneshot};

use super::SubscribeError;
use super::lane::Ticket;
use super::publication::Publication;
use super::recovery::Recovery;
use crate::broker::GapCause;

/// What the node tells a shard, in the order in which it happened.
#[derive(Debug)]
pub enum Delivery {
    /// Publications, in order for each channel.
    Publications(Vec<Arc<Publication>>),
    /// The shard hears the channel from this position on.
    Attached(ChannelName, StreamPosition),
    /// What a connection of the shard has missed of the channel.
    Recovered(Ticket, ChannelName, Recovery),
    /// What a connection has missed cannot be found out now.
    RecoverFailed(Ticket, ChannelName, SubscribeError),
    /// The channel cannot be heard.
    AttachFailed(ChannelName, SubscribeError),
    /// Publications of these channels may be missing; each goes on from the position beside it.
    Gaps(Vec<Gap>),
    /// The shard shall say how many subscribers each of its channels has.
    Census(oneshot::Sender<Vec<(ChannelName, u32)>>),
}

impl Delivery {
    /// The publications in it.
    pub fn publications(&self) -> usize {
        match self {
            Self::Publications(publications) => publications.len(),
            Self::Recovered(_, _, recovery) => recovery.publications.len(),
            _ => 0,
        }
    }
}

/// A hole in a channel's sequence.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The channel.
    pub channel: ChannelName,
    /// Why publications may be missing.
    pub cause: GapCause,
    /// From where the sequence goes on.
    pub position: StreamPosition,
}

/// The bounds of the way to a shard.
#[derive(Clone, Copy, Debug)]
pub struct PortLimits {
    /// Deliveries that may wait (`limits.shard_queue_items`).
    pub items: usize,
    /// Bytes of publications that may wait (`limits.shard_queue_bytes`).
    pub bytes: usize,
}

/// The node's end.
#[derive(Clone, Debug)]
pub struct Port {
    queue: mpsc::Sender<Delivery>,
    shared: Arc<Shared>,
    limits: PortLimits,
}

/// The shard's end.
#[derive(Debug)]
pub struct Inbox {
    queue: mpsc::Receiver<Delivery>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
    overflow: Mutex<HashMap<ChannelName, (GapCause, StreamPosition)>>,
    wake: Notify,
}

/// Makes both ends of the way to one shard.
pub fn port(limits: PortLimits) -> (Port, Inbox) {
    let (sender, receiver) = mpsc::channel(limits.items);
    let shared = Arc::new(Shared::default());
    (Port { queue: sender, shared: Arc::clone(&shared), limits }, Inbox { queue: receiver, shared })
}

impl Port {
    /// Waits for a place in the queue, to be filled later without waiting.
    /// `None` when the shard has ended.
    pub async fn reserve(&self) -> Option<mpsc::Permit<'_, Delivery>> {
        self.queue.reserve().await.ok()
    }

    /// Sends what may wait, be it only for want of a place. `false` when the shard has ended.
    pub async fn send(&self, delivery: Delivery) -> bool {
        self.queue.send(delivery).await.is_ok()
    }

    /// Hands publications over, or remembers that they are missing.
    pub fn publications(&self, batch: Vec<Arc<Publication>>) -> Result<(), HandoverFull> {
        let bytes = cost(&batch);
        let waiting = self.shared.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > self.limits.bytes {
            return Err(self.missed(&batch));
        }
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.queue.try_send(Delivery::Publications(batch)) {
            Ok(()) => Ok(()),
            Err(refused) => {
                self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                match refused.into_inner() {
                    Delivery::Publications(batch) => Err(self.missed(&batch)),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The shard begins to hear a channel anew: what it missed before must not be told after that.
    pub fn forget_overflow(&self, channel: &ChannelName) {
        self.shared.overflow().remove(channel);
    }

    /// Tells of gaps, at once or as soon as the shard has caught up.
    pub fn gaps(&self, gaps: Vec<Gap>) {
        // What was remembered of these channels is older, and must not be told after this.
        let mut overflow = self.shared.overflow();
        for gap in &gaps {
            overflow.remove(&gap.channel);
        }
        let sent = self.queue.try_send(Delivery::Gaps(gaps));
        drop(overflow);
        if let Err(refused) = sent
            && let Delivery::Gaps(gaps) = refused.into_inner()
        {
            self.remember(gaps.into_iter().map(|gap| (gap.channel, gap.cause, gap.position)));
        }
    }

    fn missed(&self, batch: &[Arc<Publication>]) -> HandoverFull {
        let missed = batch.iter().map(|p| (p.channel.clone(), GapCause::HandoverFull, p.position));
        HandoverFull { channels: self.remember(missed) }
    }

    fn remember(&self, lost: impl Iterator<Item = (ChannelName, GapCause, StreamPosition)>) -> usize {
        let mut overflow = self.shared.overflow();
        let new = lost
            .filter_map(|(channel, cause, position)| {
                overflow.insert(channel, (cause, position)).is_none().then_some(())
            })
            .count();
        self.shared.overflowed.store(true, Ordering::Release);
        drop(overflow);
        self.shared.wake.notify_one();
        new
    }
}

/// The way to a shard was full: its subscribers have a gap.
#[derive(Clone, Copy, Debug)]
pub struct HandoverFull {
    /// How many channels have a gap now that had none before.
    pub channels: usize,
}

impl Inbox {
    /// The next delivery, when there is one.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.queue.try_recv().ok().inspect(|delivery| self.shared.released(delivery))
    }

    /// What could not be handed over since the last call; nothing as long as the queue holds anything, so that a gap is
    /// never told before what came before it. To be asked again then, after what the queue held.
    pub fn take_overflow(&mut self) -> Vec<Gap> {
        if !self.shared.overflowed.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut overflow = self.shared.overflow();
        // Looked at under the lock: what is remembered by now was preceded by what the queue held then.
        if !self.queue.is_empty() {
            return Vec::new();
        }
        self.shared.overflowed.store(false, Ordering::Release);
        let lost = std::mem::take(&mut *overflow);
        drop(overflow);
        lost.into_iter().map(|(channel, (cause, position))| Gap { channel, cause, position }).collect()
    }

    /// Waits for the next delivery; `None` when something is to be taken by [`Inbox::take_overflow`] or the node has
    /// ended. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        tokio::select! {
            biased;
            delivery = self.queue.recv() => delivery.inspect(|delivery| self.shared.released(delivery)),
            () = self.shared.wake.notified() => None,
        }
    }
}

impl Shared {
    fn released(&self, delivery: &Delivery) {
        if let Delivery::Publications(batch) = delivery {
            self.bytes.fetch_sub(cost(batch), Ordering::Relaxed);
        }
    }

    fn overflow(&self) -> MutexGuard<'_, HashMap<ChannelName, (GapCause, StreamPosition)>> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(batch: &[Arc<Publication>]) -> usize {
    batch.iter().map(|publication| publication.cost()).sum()
}
