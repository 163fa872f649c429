//! The channels of one shard, and the connections subscribed to each.
//!
//! Owns the lists of subscribers. Independent of how publications are encoded.

use std::collections::{HashMap, HashSet};

use earshot_protocol::{ChannelName, ChannelTag, Epoch, StreamPosition};
use slab::Slab;

use crate::auth::ClientNetwork;
use crate::node::namespace::{ChannelRules, ResolvedChannel};

/// A channel's index in [`Channels`].
pub(super) type ChannelId = u32;

/// A connection's index in its shard.
pub(super) type ConnectionId = u32;

/// A channel in one shard.
#[derive(Debug)]
pub(super) struct ShardChannel {
    pub(super) name: ChannelName,
    pub(super) rules: ChannelRules,
    /// Its name in the cursors of streams, computed once.
    pub(super) tag: ChannelTag,
    /// The position up to which subscribers have received the sequence.
    pub(super) position: StreamPosition,
    /// A position up to which at least one subscriber has received everything through a recovery, and must not receive
    /// it again.
    pub(super) recovered_up_to: Option<StreamPosition>,
    /// The node has confirmed the channel. Before that, connections wait.
    pub(super) attached: bool,
    /// The network that the channel is attributed to while only its clients have subscribed to it.
    pub(super) creator: Option<ClientNetwork>,
    /// Clients of several networks have subscribed to it.
    pub(super) shared: bool,
    /// Connections that receive publications.
    pub(super) subscribers: Vec<ConnectionId>,
    /// Connections that wait for the channel or for their reply.
    pub(super) waiters: HashSet<ConnectionId>,
}

/// All channels of a shard.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_name: HashMap<ChannelName, ChannelId>,
    channels: Slab<ShardChannel>,
}

impl Channels {
    pub(super) fn find(&self, name: &ChannelName) -> Option<ChannelId> {
        self.by_name.get(name).copied()
    }

    /// Adds a channel that is not attached yet.
    pub(super) fn insert(
        &mut self,
        ResolvedChannel { name, rules }: ResolvedChannel,
        creator: Option<ClientNetwork>,
    ) -> ChannelId {
        let position = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };
        let channel = ShardChannel {
            name: name.clone(),
            tag: ChannelTag::of(&name),
            position,
            recovered_up_to: None,
            rules,
            attached: false,
            creator,
            shared: false,
            subscribers: Vec::new(),
            waiters: HashSet::new(),
        };
        let id = u32::try_from(self.channels.insert(channel)).unwrap_or(u32::MAX);
        self.by_name.insert(name, id);
        id
    }

    pub(super) fn get(&self, id: ChannelId) -> &ShardChannel {
        &self.channels[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: ChannelId) -> &mut ShardChannel {
        &mut self.channels[id as usize]
    }

    pub(super) fn remove(&mut self, id: ChannelId) -> ShardChannel {
        let channel = self.channels.remove(id as usize);
        self.by_name.remove(&channel.name);
        if self.channels.is_empty() {
            // Release the memory that a peak needed.
            *self = Self::default();
        } else if self.by_name.len() * 8 < self.by_name.capacity() {
            self.by_name.shrink_to(self.by_name.len() * 2);
        }
        channel
    }

    /// The number of subscribers of each channel.
    pub(super) fn subscriber_counts(&self) -> Vec<(ChannelName, u32)> {
        let count = |channel: &ShardChannel| u32::try_from(channel.subscribers.len()).unwrap_or(u32::MAX);
        self.channels.iter().map(|(_, channel)| (channel.name.clone(), count(channel))).collect()
    }
}

impl ShardChannel {
    /// The channel with its rules, for a request to the node.
    pub(super) fn resolved(&self) -> ResolvedChannel {
        ResolvedChannel { name: self.name.clone(), rules: self.rules.clone() }
    }

    /// Whether subscribers have received everything up to a position.
    pub(super) fn already_has(&self, position: StreamPosition) -> bool {
        self.position.epoch == position.epoch && position.offset <= self.position.offset
    }

    /// Advances to `next` if it follows the current position. Returns whether it does.
    pub(super) fn advance(&mut self, next: StreamPosition) -> bool {
        let last = self.position;
        // The first publication of a log follows a provisional position, since there was no epoch before it.
        let begins = last.epoch.is_provisional() && last.offset == 0 && next.offset == 1;
        let follows = begins || (last.epoch == next.epoch && next.offset == last.offset + 1);
        if follows {
            self.position = next;
        }
        follows
    }

    /// Another client subscribes: if its network is not that of the creator, the channel is attributed to none.
    pub(super) fn share(&mut self, network: Option<ClientNetwork>) {
        if self.creator.is_some() && network != self.creator {
            self.creator = None;
            self.shared = true;
        }
    }

    /// Adds a subscriber and returns its index.
    pub(super) fn add_subscriber(&mut self, connection: ConnectionId) -> u32 {
        self.subscribers.push(connection);
        u32::try_from(self.subscribers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Removes the subscriber at an index. Returns the connection that moved to that index.
    pub(super) fn remove_subscriber(&mut self, place: u32) -> Option<ConnectionId> {
        self.subscribers.swap_remove(place as usize);
        if self.subscribers.len() * 4 < self.subscribers.capacity() {
            self.subscribers.shrink_to(self.subscribers.len() * 2);
        }
        self.subscribers.get(place as usize).copied()
    }

    /// Whether the channel has no subscribed and no waiting connections.
    pub(super) fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::namespace::fixtures::open_channel;

    #[test]
    fn shares_a_channel_when_a_client_of_another_network_subscribes() {
        let network = |address: &str| ClientNetwork::of(address.parse().unwrap());
        let table = [
            (Some("203.0.113.7"), Some("203.0.113.7"), false),
            (Some("203.0.113.7"), Some("203.0.113.8"), true),
            (Some("203.0.113.7"), None, true),
            (None, Some("203.0.113.7"), false),
            (None, None, false),
        ];
        for (creator, other, shared) in table {
            let mut channels = Channels::default();
            let id = channels.insert(open_channel("news"), creator.map(network));
            channels.get_mut(id).share(other.map(network));
            assert_eq!(channels.remove(id).shared, shared, "{creator:?}, {other:?}");
        }
    }
}
