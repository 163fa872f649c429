//! The channels that one shard hears, and who of its connections subscribes to each.
//!
//! Owns the lists of subscribers. Must never know how a publication is written, nor what a connection is.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use earshot_protocol::{ChannelName, ChannelTag, Epoch, StreamPosition};
use slab::Slab;

use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::creators::attribution_address;

/// A channel's place in the table.
pub(super) type ChannelId = u32;

/// A connection's place in its shard.
pub(super) type ConnectionId = u32;

/// A channel as one shard sees it.
#[derive(Debug)]
pub(super) struct ShardChannel {
    pub(super) name: ChannelName,
    /// Its name in the cursors of streams, computed once.
    pub(super) tag: ChannelTag,
    /// Where the sequence stands that the subscribers have been given.
    pub(super) position: StreamPosition,
    /// Up to this position some subscriber was given everything by a recovery, and must not be given it again.
    pub(super) covered: Option<StreamPosition>,
    /// What gives way when a subscriber is slow; without a rule, the subscriber does.
    pub(super) slow: Option<Arc<BackpressurePolicy>>,
    /// The node has confirmed it; before that, connections wait.
    pub(super) live: bool,
    /// The address that it is attributed to as long as only clients of this address subscribe to it.
    pub(super) creator: Option<IpAddr>,
    /// Clients of several addresses have subscribed to it.
    pub(super) shared: bool,
    /// Connections that hear it.
    pub(super) subscribers: Vec<ConnectionId>,
    /// Connections that wait for it to become live.
    pub(super) waiters: HashSet<ConnectionId>,
}

/// A channel to be given up.
#[derive(Debug)]
pub(super) struct Detaching {
    pub(super) channel: ChannelName,
    pub(super) shared: bool,
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

    /// Enters a channel that waits to become live.
    pub(super) fn insert(
        &mut self,
        name: ChannelName,
        slow: Option<Arc<BackpressurePolicy>>,
        creator: Option<IpAddr>,
    ) -> ChannelId {
        let position = StreamPosition { epoch: Epoch::from_u64(0), offset: 0 };
        let channel = ShardChannel {
            name: name.clone(),
            tag: ChannelTag::of(&name),
            position,
            covered: None,
            slow,
            live: false,
            creator,
            shared: false,
            subscribers: Vec::new(),
            waiters: HashSet::new(),
        };
        let id = u32::try_from(self.channels.insert(channel)).unwrap_or(u32::MAX);
        self.by_name.insert(name, id);
        id
    }

    pub(super) fn at(&self, id: ChannelId) -> &ShardChannel {
        &self.channels[id as usize]
    }

    pub(super) fn at_mut(&mut self, id: ChannelId) -> &mut ShardChannel {
        &mut self.channels[id as usize]
    }

    pub(super) fn remove(&mut self, id: ChannelId) -> ShardChannel {
        let channel = self.channels.remove(id as usize);
        self.by_name.remove(&channel.name);
        if self.channels.is_empty() {
            // What a crowd needed is not kept for ever.
            *self = Self::default();
        } else if self.by_name.len() * 8 < self.by_name.capacity() {
            self.by_name.shrink_to(self.by_name.len() * 2);
        }
        channel
    }

    /// How many subscribers each channel has.
    pub(super) fn census(&self) -> Vec<(ChannelName, u32)> {
        let count = |channel: &ShardChannel| u32::try_from(channel.subscribers.len()).unwrap_or(u32::MAX);
        self.channels.iter().map(|(_, channel)| (channel.name.clone(), count(channel))).collect()
    }
}

impl ShardChannel {
    /// Whether its subscribers have been given everything up to a position.
    pub(super) fn had(&self, position: StreamPosition) -> bool {
        self.position.epoch == position.epoch && position.offset <= self.position.offset
    }

    /// Goes on to a position, if it is the next of the sequence; whether it is.
    pub(super) fn advance(&mut self, next: StreamPosition) -> bool {
        let last = self.position;
        // The first of a log follows on nothing: there was no epoch before it.
        let begins = last.epoch.is_provisional() && last.offset == 0 && next.offset == 1;
        let follows = begins || (last.epoch == next.epoch && next.offset == last.offset + 1);
        if follows {
            self.position = next;
        }
        follows
    }

    /// Another client subscribes: if its address is not that of the creator, the channel is attributed to no address. An
    /// unknown address counts as that of the creator. `peer` is called only while the channel is attributed.
    pub(super) fn share(&mut self, peer: impl FnOnce() -> Option<IpAddr>) {
        if self.creator.is_some() && peer().is_some_and(|peer| attribution_address(peer) != self.creator) {
            self.creator = None;
            self.shared = true;
        }
    }

    /// Adds a subscriber and says at which place.
    pub(super) fn join(&mut self, connection: ConnectionId) -> u32 {
        self.subscribers.push(connection);
        u32::try_from(self.subscribers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Takes the subscriber at a place away; says who moved to that place.
    pub(super) fn leave(&mut self, place: u32) -> Option<ConnectionId> {
        self.subscribers.swap_remove(place as usize);
        if self.subscribers.len() * 4 < self.subscribers.capacity() {
            self.subscribers.shrink_to(self.subscribers.len() * 2);
        }
        self.subscribers.get(place as usize).copied()
    }

    /// Nobody hears it or waits for it.
    pub(super) fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_shared_once_a_client_of_another_address_subscribes() {
        let table = [
            ("203.0.113.7", Some("203.0.113.7"), false),
            ("203.0.113.7", None, false),
            ("203.0.113.7", Some("203.0.113.8"), true),
            ("203.0.113.7", Some("10.0.0.1"), true),
            ("2001:db8::1", Some("2001:db8::2"), false),
            ("2001:db8::1", Some("2001:db8:0:1::1"), true),
        ];
        for (creator, peer, shared) in table {
            let mut channels = Channels::default();
            let name = ChannelName::parse("news").unwrap();
            let id = channels.insert(name, None, attribution_address(creator.parse().unwrap()));
            channels.at_mut(id).share(|| peer.map(|peer| peer.parse().unwrap()));
            assert_eq!(channels.remove(id).shared, shared, "{creator}, {peer:?}");
        }
    }

    #[test]
    fn a_channel_that_is_attributed_to_no_address_asks_for_none() {
        let mut channels = Channels::default();
        let id = channels.insert(ChannelName::parse("news").unwrap(), None, None);
        channels.at_mut(id).share(|| panic!("the address was asked for"));
        assert!(!channels.remove(id).shared);
    }
}
