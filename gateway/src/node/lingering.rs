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
        let now = Instant::now();
        state.idle_since = Some(now);
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            let due = now + channel.worth(self.limits.linger);
            self.queue().push(Lingering { due, channel: Arc::clone(channel) });
        }
    }

    /// Lets go the channels whose time is over, each with a call to `let_go` before anybody can enter it again; and
    /// says when to ask the next time.
    pub(super) fn expire(&self, now: Instant, let_go: impl Fn(&ChannelName)) -> Instant {
        loop {
            let channel = {
                let mut queue = self.queue();
                match queue.peek() {
                    Some(first) if first.due <= now => queue.pop().map(|first| first.channel),
                    Some(first) => return first.due.min(now + LOOK),
                    None => return now + LOOK,
                }
            };
            if let Some(channel) = channel {
                self.expire_one(&channel, now, &let_go);
            }
        }
    }

    pub(super) fn expire_one(&self, channel: &Arc<Channel>, now: Instant, let_go: impl Fn(&ChannelName)) {
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
