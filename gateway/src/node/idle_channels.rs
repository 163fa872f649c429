//! The delayed unsubscribe of channels without a subscriber.
//!
//! Owns the lifetime of idle channels, and the choice of channels to evict early. Must never remove a channel while an
//! attach is in progress.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::channel::{Channel, ChannelState};
use super::idle_queue::IdleEntry;
use super::registry::ChannelRegistry;

/// The longest interval between two scans for due channels.
const SCAN_INTERVAL_MAX: Duration = Duration::from_millis(500);

/// The capacity that the maps keep in any case.
const CAPACITY_MIN: usize = 128;

/// Channels that are removed in one turn: a million may be due at once, and other tasks wait for the thread.
const EXPIRED_PER_TURN_MAX: usize = 1000;

/// Why an idle channel is removed before it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eviction {
    /// `limits.channels` is reached, and another channel is needed.
    Limit,
    /// Its creator has too many idle channels, and this is the oldest one.
    Creator,
}

impl ChannelRegistry {
    /// Schedules the unsubscribe of an idle channel. The oldest idle channels of its creator are evicted beyond
    /// `limits.idle_channels_per_address`, each with a call to `release`.
    pub(super) fn schedule_unsubscribe(
        &self,
        channel: &Arc<Channel>,
        mut state: MutexGuard<'_, ChannelState>,
        release: impl Fn(&Channel),
    ) {
        if !state.is_idle() {
            return;
        }
        // The time counts from the end of the last subscription: failed subscribes do not prolong it.
        let excess = state.begin_idle(&channel.name, Instant::now(), self.limits.idle_per_creator);
        self.reschedule(channel, state);
        for name in excess {
            if let Some(oldest) = self.find(&name) {
                self.evict(&oldest, Eviction::Creator, &release, ChannelState::counts_as_idle);
            }
        }
    }

    /// Adds an idle channel to the queue, unless it is there.
    fn reschedule(&self, channel: &Arc<Channel>, mut state: MutexGuard<'_, ChannelState>) {
        let Some(since) = state.idle_since.filter(|_| state.is_idle()) else { return };
        if std::mem::replace(&mut state.is_scheduled, true) {
            return;
        }
        drop(state);
        let due = since + channel.retention(self.limits.unsubscribe_delay);
        let channels = self.channels.len();
        let mut queue = self.idle.lock();
        queue.push(IdleEntry { due, channel: Arc::clone(channel) });
        // Evicted channels leave their entries behind, which hold the channels in memory. Each other channel has at
        // most one entry, so this happens once in many calls.
        if queue.len() > 2 * channels + CAPACITY_MIN {
            queue.retain(|entry| !entry.channel.state().is_closed());
        }
    }

    /// Makes room for one more channel by evicting the idle channel that is due first. Returns `false` when every
    /// channel has a subscriber.
    pub(super) fn make_room(&self, release: impl Fn(&Channel)) -> bool {
        while self.channels.len() >= self.limits.channels {
            let Some(IdleEntry { due, channel }) = self.idle.lock().pop() else { return false };
            channel.state().is_scheduled = false;
            let retention = channel.retention(self.limits.unsubscribe_delay);
            // If it had subscribers since it was added to the queue, it is due later than `due`.
            let is_due =
                |state: &ChannelState| state.idle_since.is_some_and(|since| since + retention <= due);
            if !self.evict(&channel, Eviction::Limit, &release, is_due) {
                self.reschedule(&channel, channel.state());
            }
        }
        true
    }

    fn evict(
        &self,
        channel: &Arc<Channel>,
        why: Eviction,
        release: impl Fn(&Channel),
        is_over: impl Fn(&ChannelState) -> bool,
    ) -> bool {
        let removed = self.remove_if_due(channel, release, is_over);
        if removed {
            let evicted = &self.metrics.control.channels_evicted;
            match why {
                Eviction::Limit => evicted.limit.add(1),
                Eviction::Creator => evicted.address.add(1),
            }
        }
        removed
    }

    /// Removes channels that are due, each with a call to `release` before it can be acquired again. Returns when to
    /// call again: `now` when more are due than one turn removes.
    pub(super) fn unsubscribe_idle(&self, now: Instant, release: impl Fn(&Channel)) -> Instant {
        for _ in 0..EXPIRED_PER_TURN_MAX {
            let Some(channel) = self.idle.next_due(now) else { break };
            self.unsubscribe_if_due(&channel, now, &release);
        }
        self.shrink();
        let latest = now + SCAN_INTERVAL_MAX;
        self.idle.lock().peek().map_or(latest, |first| first.due.min(latest))
    }

    /// Releases memory when few channels remain of many.
    fn shrink(&self) {
        if self.channels.capacity() > CAPACITY_MIN.max(8 * self.channels.len()) {
            self.channels.shrink_to_fit();
        }
        self.creators.shrink(CAPACITY_MIN);
        let mut queue = self.idle.lock();
        if queue.capacity() > CAPACITY_MIN.max(8 * queue.len()) {
            queue.shrink_to_fit();
        }
    }

    /// Removes a channel if it is due; otherwise schedules it again. Returns whether it was removed.
    pub(super) fn unsubscribe_if_due(
        &self,
        channel: &Arc<Channel>,
        now: Instant,
        release: impl Fn(&Channel),
    ) -> bool {
        let unsubscribe_delay = self.limits.unsubscribe_delay;
        let is_over = |state: &ChannelState| {
            state.idle_since.is_some_and(|since| since + channel.retention(unsubscribe_delay) <= now)
        };
        let removed = self.remove_if_due(channel, release, is_over);
        if !removed {
            let mut state = channel.state();
            state.is_scheduled = false;
            self.reschedule(channel, state);
        }
        removed
    }

    /// Removes an idle channel if `is_over`. Returns whether it was removed.
    fn remove_if_due(
        &self,
        channel: &Arc<Channel>,
        release: impl Fn(&Channel),
        is_over: impl Fn(&ChannelState) -> bool,
    ) -> bool {
        // The map's entry is held meanwhile, so that the channel cannot be acquired.
        let removed = self.channels.remove_if(&channel.name, |_, present| {
            let over = Arc::ptr_eq(present, channel) && {
                let state = channel.state();
                state.is_idle() && is_over(&state)
            };
            if over {
                release(present);
            }
            over
        });
        if removed.is_some()
            && let Some(attribution) = channel.state().close(&self.budget)
        {
            self.creators.release(attribution);
        }
        removed.is_some()
    }
}

#[cfg(test)]
mod tests;
