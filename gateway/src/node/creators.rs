//! The client networks that created channels, and their idle channels.
//!
//! Must never know a connection.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use earshot_protocol::ChannelName;

use crate::auth::ClientNetwork;

/// The networks whose clients have created channels.
#[derive(Debug, Default)]
pub(super) struct Creators(DashMap<ClientNetwork, Arc<Creator>>);

/// A network whose clients have created channels.
#[derive(Debug)]
pub(super) struct Creator {
    network: ClientNetwork,
    idle: Mutex<IdleChannels>,
}

/// One creator's channels without subscribers, oldest first.
#[derive(Debug, Default)]
struct IdleChannels {
    last: u64,
    by_age: BTreeMap<NonZeroU64, ChannelName>,
}

/// The attribution of a channel to its creator, which counts the channel while it is idle.
#[derive(Debug)]
pub(super) struct Attribution {
    creator: Arc<Creator>,
    /// The key among the creator's idle channels, while the channel is idle.
    idle: Option<NonZeroU64>,
}

impl Creators {
    /// Attributes a new channel to a network.
    pub(super) fn attribute(&self, network: ClientNetwork) -> Attribution {
        let creator = || Arc::new(Creator { network, idle: Mutex::default() });
        let creator = Arc::clone(&self.0.entry(network).or_insert_with(creator));
        Attribution { creator, idle: None }
    }

    /// Ends an attribution. The creator is removed with its last attribution.
    pub(super) fn release(&self, mut attribution: Attribution) {
        attribution.end_idle();
        let network = attribution.creator.network;
        drop(attribution);
        self.0.remove_if(&network, |_, creator| Arc::strong_count(creator) == 1);
    }

    /// Releases memory; a capacity of `kept` remains.
    pub(super) fn shrink(&self, kept: usize) {
        if self.0.capacity() > kept.max(8 * self.0.len()) {
            self.0.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The maximum number of idle channels of one creator.
    #[cfg(test)]
    pub(super) fn idle_max(&self) -> usize {
        self.0.iter().map(|creator| creator.idle().by_age.len()).max().unwrap_or(0)
    }
}

impl Creator {
    fn idle(&self) -> MutexGuard<'_, IdleChannels> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attribution {
    /// Notes that the channel has no subscriber.
    pub(super) fn begin_idle(&mut self, name: &ChannelName) {
        if self.idle.is_none() {
            let mut idle = self.creator.idle();
            idle.last += 1;
            self.idle = NonZeroU64::new(idle.last);
            idle.by_age.extend(self.idle.map(|key| (key, name.clone())));
        }
    }

    /// Notes that the channel has a subscriber again, or is removed.
    pub(super) fn end_idle(&mut self) {
        if let Some(key) = self.idle.take() {
            self.creator.idle().by_age.remove(&key);
        }
    }

    /// Whether a client of this network is not the creator.
    pub(super) fn is_other(&self, network: Option<ClientNetwork>) -> bool {
        network != Some(self.creator.network)
    }

    /// The oldest idle channels of the creator beyond `max`.
    pub(super) fn excess(&self, max: usize) -> Vec<ChannelName> {
        let idle = self.creator.idle();
        let excess = idle.by_age.len().saturating_sub(max);
        idle.by_age.values().take(excess).cloned().collect()
    }

    /// Whether the channel is counted as idle.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.is_some()
    }
}
