//! How a channel without a subscriber is let go.
//!
//! Owns the time that it stays after its last subscriber left, and which channel is evicted earlier to make room. Must
//! never let go a channel that is being entered.

use std::collections::BinaryHeap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::time::Instant;

use super::channel::{Channel, State};
use super::registry::ChannelRegistry;

/// How long the node waits at the most before it looks for channels to let go.
const LOOK: Duration = Duration::from_millis(500);

/// Channels for which the maps keep room in any case.
const ROOM_KEPT: usize = 128;

/// Channels that are let go in one turn at most: a million may be due at once, and other tasks wait for the thread.
const EXPIRED_PER_TURN_MAX: usize = 1000;

/// A channel that may be let go, first due first out.
#[derive(Debug)]
pub(super) struct Lingering {
    due: Instant,
    channel: Arc<Channel>,
}

impl PartialEq for Lingering {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Lingering {}

impl PartialOrd for Lingering {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lingering {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

/// Why a channel without a subscriber is let go before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    /// The node's limit of channels is reached, and another one is wanted.
    Limit,
    /// Its creator has too many channels without a subscriber, and this is the oldest of them.
    Creator,
}

impl ChannelRegistry {
    /// Keeps a channel without a subscriber for a while. The oldest idle channels of its creator are evicted beyond
    /// `limits.idle_channels_per_address`, each with a call to `release`.
    pub(super) fn linger(
        &self,
        channel: &Arc<Channel>,
        mut state: MutexGuard<'_, State>,
        release: impl Fn(&ChannelName),
    ) {
        if !state.is_idle() {
            return;
        }
        // The time counts from the end of the last subscription: subscribes that fail do not prolong it.
        let excess = state.begin_idle(&channel.name, Instant::now(), self.limits.idle_per_creator);
        self.enqueue(channel, state);
        for name in excess {
            if let Some(oldest) = self.find(&name) {
                self.evict(&oldest, Eviction::Creator, &release, State::is_counted);
            }
        }
    }

    /// Enters an idle channel into the queue, unless it is there.
    fn enqueue(&self, channel: &Arc<Channel>, mut state: MutexGuard<'_, State>) {
        let Some(since) = state.idle_since.filter(|_| state.is_idle()) else { return };
        if std::mem::replace(&mut state.lingering, true) {
            return;
        }
        drop(state);
        let due = since + channel.worth(self.limits.unsubscribe_delay);
        let channels = self.channels.len();
        let mut queue = self.queue();
        queue.push(Lingering { due, channel: Arc::clone(channel) });
        // Evicted channels leave their entries behind, which hold the channels in memory. Each other channel has one
        // entry at most, so this happens once in many calls.
        if queue.len() > 2 * channels + ROOM_KEPT {
            queue.retain(|entry| !entry.channel.state().is_gone());
        }
    }

    /// Makes room for one more channel: those without a subscriber are a cache. The one whose time would be over first
    /// is evicted first. `false` when every channel has a subscriber.
    pub(super) fn make_room(&self, release: impl Fn(&ChannelName)) -> bool {
        while self.channels.len() >= self.limits.channels {
            let Some(Lingering { due, channel }) = self.queue().pop() else { return false };
            channel.state().lingering = false;
            let worth = channel.worth(self.limits.unsubscribe_delay);
            // If it had subscribers since it was entered into the queue, its time ends later than `due`.
            let is_due = |state: &State| state.idle_since.is_some_and(|since| since + worth <= due);
            if !self.evict(&channel, Eviction::Limit, &release, is_due) {
                self.enqueue(&channel, channel.state());
            }
        }
        true
    }

    fn evict(
        &self,
        channel: &Arc<Channel>,
        why: Eviction,
        release: impl Fn(&ChannelName),
        is_over: impl Fn(&State) -> bool,
    ) -> bool {
        let gone = self.let_go_if(channel, release, is_over);
        if gone {
            let evicted = &self.metrics.control.channels_evicted;
            match why {
                Eviction::Limit => evicted.limit.add(1),
                Eviction::Creator => evicted.address.add(1),
            }
        }
        gone
    }

    /// Lets go channels whose time is over, each with a call to `release` before it can be entered again. Returns when
    /// to call it again: `now` when more are due than one turn lets go.
    pub(super) fn expire(&self, now: Instant, release: impl Fn(&ChannelName)) -> Instant {
        for _ in 0..EXPIRED_PER_TURN_MAX {
            let Some(channel) = self.next_over(now) else { break };
            self.expire_one(&channel, now, &release);
        }
        self.shrink();
        let latest = now + LOOK;
        self.queue().peek().map_or(latest, |first| first.due.min(latest))
    }

    /// The next channel whose time is over.
    fn next_over(&self, now: Instant) -> Option<Arc<Channel>> {
        let mut queue = self.queue();
        let is_over = queue.peek().is_some_and(|first| first.due <= now);
        is_over.then(|| queue.pop()).flatten().map(|first| first.channel)
    }

    /// Gives memory back when few channels are left of many.
    fn shrink(&self) {
        if self.channels.capacity() > ROOM_KEPT.max(8 * self.channels.len()) {
            self.channels.shrink_to_fit();
        }
        self.creators.shrink(ROOM_KEPT);
        let mut queue = self.queue();
        if queue.capacity() > ROOM_KEPT.max(8 * queue.len()) {
            queue.shrink_to_fit();
        }
    }

    /// Lets one channel go, if nobody wants it any more; says whether it is gone.
    pub(super) fn expire_one(
        &self,
        channel: &Arc<Channel>,
        now: Instant,
        release: impl Fn(&ChannelName),
    ) -> bool {
        let linger = self.limits.unsubscribe_delay;
        let is_over =
            |state: &State| state.idle_since.is_some_and(|since| since + channel.worth(linger) <= now);
        let gone = self.let_go_if(channel, release, is_over);
        if !gone {
            let mut state = channel.state();
            state.lingering = false;
            self.enqueue(channel, state);
        }
        gone
    }

    /// Removes a channel that nobody wants, if it is `over`; says whether it is gone.
    fn let_go_if(
        &self,
        channel: &Arc<Channel>,
        release: impl Fn(&ChannelName),
        is_over: impl Fn(&State) -> bool,
    ) -> bool {
        // The map's entry is held while the channel is judged, so that nobody can enter it meanwhile.
        let removed = self.channels.remove_if(&channel.name, |name, present| {
            let over = Arc::ptr_eq(present, channel) && {
                let state = channel.state();
                state.is_idle() && is_over(&state)
            };
            if over {
                release(name);
            }
            over
        });
        if removed.is_some()
            && let Some(attribution) = channel.state().go(&self.budget)
        {
            self.creators.release(attribution);
        }
        removed.is_some()
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, BinaryHeap<Lingering>> {
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
