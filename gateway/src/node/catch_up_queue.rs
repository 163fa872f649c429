//! The queue of channels whose log must be read.
//!
//! Must never hold its lock across an await.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::channel::Channel;

/// Channels whose log must be read; each at most once.
#[derive(Debug, Default)]
pub(super) struct CatchUpQueue {
    channels: Mutex<VecDeque<Arc<Channel>>>,
    pushed: Notify,
}

impl CatchUpQueue {
    pub(super) fn push(&self, channel: Arc<Channel>) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).push_back(channel);
        self.pushed.notify_one();
    }

    /// Waits for channels, and takes up to `max` of them.
    pub(super) async fn pop(&self, max: usize) -> Vec<Arc<Channel>> {
        loop {
            let some: Vec<_> = {
                let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
                let some = channels.len().min(max);
                channels.drain(..some).collect()
            };
            if !some.is_empty() {
                return some;
            }
            self.pushed.notified().await;
        }
    }
}
