//! The clients of a shard to be unsubscribed after gaps.
//!
//! Limits the number of clients unsubscribed in one tick, so that they do not all resubscribe at the same time.

use std::collections::VecDeque;

use earshot_protocol::ChannelName;

/// Maximum number of clients unsubscribed after gaps in one tick.
const RESUBSCRIBES_PER_TICK: usize = 200;

#[derive(Debug)]
pub(super) struct ResubscribeQueue {
    /// Keys of connections, and the channel.
    waiting: VecDeque<(u64, ChannelName)>,
    left: usize,
}

impl ResubscribeQueue {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), left: RESUBSCRIBES_PER_TICK }
    }

    /// Starts a tick, in which clients may be unsubscribed again.
    pub(super) fn start_tick(&mut self) {
        self.left = RESUBSCRIBES_PER_TICK;
    }

    /// Whether a client can be unsubscribed in this tick.
    pub(super) fn is_due(&self) -> bool {
        self.left > 0 && !self.waiting.is_empty()
    }

    /// Adds a client and a channel.
    pub(super) fn push(&mut self, key: u64, channel: ChannelName) {
        self.waiting.push_back((key, channel));
    }

    /// Removes the first client; `None` if this tick has no unsubscribe left.
    pub(super) fn pop(&mut self) -> Option<(u64, ChannelName)> {
        if self.left == 0 { None } else { self.waiting.pop_front() }
    }

    /// A client that was removed from the queue is unsubscribed.
    pub(super) fn count(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Uses up the unsubscribes of this tick.
    #[cfg(test)]
    pub(super) fn use_up(&mut self) {
        self.left = 0;
    }
}
