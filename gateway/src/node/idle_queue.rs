//! The queue of channels without a subscriber, by when they are due.
//!
//! Must never decide whether a channel is removed: [`super::idle_channels`] does.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::channel::Channel;

/// An idle channel; the one that is due first comes first.
#[derive(Debug)]
pub(super) struct IdleEntry {
    pub(super) due: Instant,
    pub(super) channel: Arc<Channel>,
}

impl PartialEq for IdleEntry {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for IdleEntry {}

impl PartialOrd for IdleEntry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for IdleEntry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

/// The idle channels by when they are due.
#[derive(Debug, Default)]
pub(super) struct IdleQueue(Mutex<BinaryHeap<IdleEntry>>);

impl IdleQueue {
    /// The next channel that is due.
    pub(super) fn next_due(&self, now: Instant) -> Option<Arc<Channel>> {
        let mut queue = self.lock();
        let is_over = queue.peek().is_some_and(|first| first.due <= now);
        is_over.then(|| queue.pop()).flatten().map(|first| first.channel)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BinaryHeap<IdleEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
