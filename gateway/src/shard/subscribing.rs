//! Subscriptions of a shard's connections, and which channels the shard asks the node for.
//!
//! Owns the rule that a channel is asked for once, and given up when nobody here wants it any more. Must never answer a
//! client.

use earshot_protocol::{ChannelName, ErrorCode};

use super::channels::{ChannelId, ConnectionId, Detaching, ShardChannel};
use super::connection::{Status, Subscription};
use super::reactor::Shard;
use crate::node::creators::attribution_address;
use crate::node::messages::NodeRequest;

impl Shard {
    /// Enters a subscription: ready when the shard hears the channel already, waiting otherwise.
    pub(super) fn wish(&mut self, at: ConnectionId, name: ChannelName) -> Result<ChannelId, ErrorCode> {
        let peer = || self.connections.get(at as usize).and_then(|connection| connection.link.peer());
        let id = match self.channels.find(&name) {
            Some(id) => {
                self.channels.at_mut(id).share(peer);
                id
            }
            None => {
                let from = peer();
                let ask = NodeRequest::Attach { channel: name.clone(), client_address: from };
                self.asks.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
                let slow = self.node.namespace(&name).and_then(|namespace| namespace.backpressure.clone());
                self.channels.insert(name, slow, from.and_then(attribution_address))
            }
        };
        let channel = self.channels.at_mut(id);
        let status = if channel.live { Status::Ready } else { Status::Waiting };
        // A place in the list keeps the channel from being given up, also while the reply is not written yet.
        channel.waiters.insert(at);
        if let Some(connection) = self.connections.get_mut(at as usize) {
            connection.subscriptions.push(Subscription { channel: id, status, covered: None });
        }
        self.counters.subscriptions.add(1);
        Ok(id)
    }

    /// The reply is on its way: from now on the connection hears the channel.
    pub(super) fn join(&mut self, at: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        if matches!(subscription.status, Status::Ready | Status::Recovering) {
            let channel = self.channels.at_mut(id);
            channel.waiters.remove(&at);
            subscription.status = Status::Joined(channel.join(at));
        }
    }

    /// The connection no longer hears the channel.
    pub(super) fn leave(&mut self, at: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(status) = connection.forget(id) else { return };
        self.counters.subscriptions.sub(1);
        let channel = self.channels.at_mut(id);
        match status {
            Status::Joined(place) => {
                if let Some(moved) = channel.leave(place)
                    && let Some(connection) = self.connections.get_mut(moved as usize)
                    && let Some(subscription) = connection.subscription_mut(id)
                {
                    subscription.status = Status::Joined(place);
                }
            }
            Status::Waiting | Status::Ready | Status::Recovering => {
                channel.waiters.remove(&at);
            }
        }
        self.give_up(id);
    }

    pub(super) fn leave_channels(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let channels: Vec<ChannelId> = connection.subscriptions.iter().map(|s| s.channel).collect();
        for channel in channels {
            self.leave(at, channel);
        }
    }

    /// Gives a channel up when nobody here wants it any more. While the node has not answered yet, it is kept.
    pub(super) fn give_up(&mut self, id: ChannelId) {
        let channel = self.channels.at(id);
        if channel.live && channel.is_unused() {
            let ShardChannel { name: channel, shared, .. } = self.channels.remove(id);
            self.detaching.push(Detaching { channel, shared });
            self.give_up_channels();
        }
    }

    pub(super) fn give_up_channels(&mut self) {
        while let Some(Detaching { channel, shared }) = self.detaching.pop() {
            // Wanted again meanwhile: the node is asked anew, and a late detach would make the shard deaf.
            if self.channels.find(&channel).is_some() {
                continue;
            }
            if let Err(refused) = self.asks.try_send(NodeRequest::Detach { channel, shared }) {
                if let NodeRequest::Detach { channel, shared } = refused.into_inner() {
                    self.detaching.push(Detaching { channel, shared });
                }
                return;
            }
        }
    }
}
