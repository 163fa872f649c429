//! How a channel is let go when nobody wants it any more.
//!
//! Owns the time it lingers after its last listener left: as long as what it remembers is worth something, and there is
//! room for it. Must never let go a channel that somebody is about to enter.

use std::collections::BinaryHeap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::time::Instant;

use super::channel::{Channel, State};
use super::registry::Registry;

/// How long the node waits at the most before it looks for channels to let go.
const LOOK: Duration = Duration::from_millis(500);

/// Room for this many channels is kept in any case.
const ROOM_KEPT: usize = 1024;

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
    /// Its creator has left too many behind.
    Creator,
}

impl Registry {
    /// A channel that nobody hears any more is kept for a while; `release` is called when it is not.
    pub(super) fn linger(
        &self,
        channel: &Arc<Channel>,
        mut state: MutexGuard<'_, State>,
        release: impl Fn(&ChannelName),
    ) {
        if !state.is_idle() {
            return;
        }
        // Since its last listener left: whoever asks in vain, again and again, does not keep it.
        let since = state.begin_idle(Instant::now());
        if state.idle_of_creator() > self.limits.idle_per_creator {
            drop(state);
            return self.evict(channel, Eviction::Creator, release);
        }
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = since + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    /// Makes room for one more channel: those without a subscriber are a cache, of which those go first whose time would
    /// be over first. `false` when every channel has a subscriber.
    pub(super) fn make_room(&self, release: impl Fn(&ChannelName)) -> bool {
        while self.channels.len() >= self.limits.channels {
            let Some(Lingering { due, channel }) = self.queue().pop() else { return false };
            let mut state = channel.state();
            state.lingering = false;
            let ends = state.idle_since.map(|since| since + channel.worth(self.limits.linger));
            drop(state);
            match ends {
                // It had subscribers since, and is not as old as it seemed.
                Some(ends) if ends > due => self.relinger(&channel),
                _ => self.evict(&channel, Eviction::Limit, &release),
            }
        }
        true
    }

    fn evict(&self, channel: &Arc<Channel>, why: Eviction, release: impl Fn(&ChannelName)) {
        if self.let_go_if(channel, release, |_| true) {
            let evicted = &self.metrics.control.channels_evicted;
            match why {
                Eviction::Limit => evicted.limit.add(1),
                Eviction::Creator => evicted.address.add(1),
            }
        }
    }

    /// Lets go the channels whose time is over, each with a call to `release` before anybody can enter it again; and
    /// says when to ask the next time.
    pub(super) fn expire(&self, now: Instant, release: impl Fn(&ChannelName)) -> Instant {
        let mut gone = 0;
        while let Some(channel) = self.next_over(now) {
            gone += usize::from(self.expire_one(&channel, now, &release));
        }
        if gone > 0 {
            self.shrink();
        }
        let latest = now + LOOK;
        self.queue().peek().map_or(latest, |first| first.due.min(latest))
    }

    /// The next channel whose time is over.
    fn next_over(&self, now: Instant) -> Option<Arc<Channel>> {
        let mut queue = self.queue();
        let is_over = queue.peek().is_some_and(|first| first.due <= now);
        is_over.then(|| queue.pop()).flatten().map(|first| first.channel)
    }

    /// What a crowd needed is not kept for ever: when few channels are left of many, the maps give memory back.
    fn shrink(&self) {
        if self.channels.capacity() > ROOM_KEPT.max(8 * self.channels.len()) {
            self.channels.shrink_to_fit();
            self.creators.shrink();
            self.queue().shrink_to_fit();
        }
    }

    /// Lets one channel go, if nobody wants it any more; says whether it is gone.
    pub(super) fn expire_one(
        &self,
        channel: &Arc<Channel>,
        now: Instant,
        release: impl Fn(&ChannelName),
    ) -> bool {
        let linger = self.limits.linger;
        let is_over =
            |state: &State| state.idle_since.is_some_and(|since| since + channel.worth(linger) <= now);
        let gone = self.let_go_if(channel, release, is_over);
        if !gone {
            channel.state().lingering = false;
            self.relinger(channel);
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
            && let Some(creator) = channel.state().go(&self.budget)
        {
            self.creators.release(creator);
        }
        removed.is_some()
    }

    pub(super) fn relinger(&self, channel: &Arc<Channel>) {
        let mut state = channel.state();
        let Some(since) = state.idle_since.filter(|_| state.is_idle()) else { return };
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = since + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, BinaryHeap<Lingering>> {
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
