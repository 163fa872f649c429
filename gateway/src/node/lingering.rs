//! How a channel is let go when nobody wants it any more.
//!
//! Owns the time it lingers after its last listener left: as long as what it remembers is worth something. Must never
//! let go a channel that somebody is about to enter.

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

impl Registry {
    pub(super) fn linger(&self, channel: &Arc<Channel>, mut state: MutexGuard<'_, State>) {
        if !state.is_idle() {
            return;
        }
        // Since its last listener left: whoever asks in vain, again and again, does not keep it.
        let since = *state.idle_since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = since + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    /// Lets go the channels whose time is over, each with a call to `let_go` before anybody can enter it again; and
    /// says when to ask the next time.
    pub(super) fn expire(&self, now: Instant, let_go: impl Fn(&ChannelName)) -> Instant {
        let mut gone = 0;
        while let Some(channel) = self.next_over(now) {
            gone += usize::from(self.expire_one(&channel, now, &let_go));
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

    /// What a crowd needed is not kept for ever: when few channels are left of many, the map gives memory back.
    fn shrink(&self) {
        if self.channels.capacity() > ROOM_KEPT.max(8 * self.channels.len()) {
            self.channels.shrink_to_fit();
            self.queue().shrink_to_fit();
        }
    }

    /// Lets one channel go, if nobody wants it any more; says whether it is gone.
    pub(super) fn expire_one(
        &self,
        channel: &Arc<Channel>,
        now: Instant,
        let_go: impl Fn(&ChannelName),
    ) -> bool {
        // The map's entry is held while the channel is judged, so that nobody can enter it meanwhile.
        let removed = self.channels.remove_if(&channel.name, |name, present| {
            let over = Arc::ptr_eq(present, channel) && {
                let state = channel.state();
                state.is_idle()
                    && state.idle_since.is_some_and(|since| since + channel.worth(self.limits.linger) <= now)
            };
            if over {
                let_go(name);
            }
            over
        });
        if removed.is_some() {
            channel.state().go(&self.budget);
        } else {
            channel.state().lingering = false;
            self.relinger(channel);
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
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::node::history::{HistoryBudget, HistoryRules};
    use crate::node::registry::ChannelLimits;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_in_vain_does_not_keep_a_channel() {
        let limits = ChannelLimits {
            channels: 10,
            linger: Duration::from_secs(30),
            publication_bytes: 100,
            recovery_publications: 1,
        };
        let registry = Registry::new(Arc::from([]), limits, HistoryBudget::new(100), Metrics::new(1));
        let name = ChannelName::parse("a").unwrap();
        let rules = HistoryRules { size: 0, ttl: Duration::ZERO, bytes: 0 };
        for second in 0..40 {
            let channel = registry.enter(&name, rules, None).unwrap();
            registry.abandon(&channel);
            assert_eq!(registry.channels(), 1);
            tokio::time::advance(Duration::from_secs(1)).await;
            registry.expire(Instant::now(), |_| {});
            if registry.channels() == 0 {
                return assert_eq!(second, 29);
            }
        }
        panic!("it is still there");
    }
}
