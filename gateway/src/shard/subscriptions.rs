//! Subscriptions of connections, and the channels that the shard requests from the node.
//!
//! Owns the rule that a channel is requested once, and detached when no connection needs it.

use earshot_protocol::ErrorCode;

use super::channels::{ChannelId, ConnectionId, ShardChannel};
use super::event_loop::Shard;
use super::subscription::{Status, Subscription};
use crate::node::messages::NodeRequest;
use crate::node::namespace::ResolvedChannel;

impl Shard {
    /// Adds a subscription: ready if the channel is attached, waiting otherwise.
    pub(super) fn request_subscription(
        &mut self,
        connection_id: ConnectionId,
        resolved: ResolvedChannel,
    ) -> Result<ChannelId, ErrorCode> {
        let network = self.connections.get(connection_id as usize).and_then(|connection| connection.network);
        let id = match self.channels.find(&resolved.name) {
            Some(id) => {
                self.channels.get_mut(id).share(network);
                id
            }
            None => {
                let ask = NodeRequest::Attach { channel: resolved.clone(), network };
                self.node_requests.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
                self.channels.insert(resolved, network)
            }
        };
        let channel = self.channels.get_mut(id);
        let status = if channel.attached { Status::Ready } else { Status::Waiting };
        // The entry keeps the channel from being released until the reply is written.
        channel.waiters.insert(connection_id);
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            connection.subscriptions.push(Subscription { channel: id, status, recovered_up_to: None });
        }
        self.counters.subscriptions.add(1);
        Ok(id)
    }

    /// The reply is queued: from here on the connection receives publications.
    pub(super) fn activate(&mut self, connection_id: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        if matches!(subscription.status, Status::Ready | Status::Recovering) {
            let channel = self.channels.get_mut(id);
            channel.waiters.remove(&connection_id);
            subscription.status = Status::Joined(channel.add_subscriber(connection_id));
        }
    }

    /// Removes a subscription.
    pub(super) fn unsubscribe_from(&mut self, connection_id: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let Some(status) = connection.remove(id) else { return };
        self.counters.subscriptions.sub(1);
        let channel = self.channels.get_mut(id);
        match status {
            Status::Joined(place) => {
                if let Some(moved) = channel.remove_subscriber(place)
                    && let Some(connection) = self.connections.get_mut(moved as usize)
                    && let Some(subscription) = connection.subscription_mut(id)
                {
                    subscription.status = Status::Joined(place);
                }
            }
            Status::Waiting | Status::Ready | Status::Recovering => {
                channel.waiters.remove(&connection_id);
            }
        }
        self.release_channel(id);
    }

    pub(super) fn unsubscribe_all(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let channels: Vec<ChannelId> = connection.subscriptions.iter().map(|s| s.channel).collect();
        for channel in channels {
            self.unsubscribe_from(connection_id, channel);
        }
    }

    /// Detaches a channel that no connection needs. A channel that the node has not confirmed yet is kept.
    pub(super) fn release_channel(&mut self, id: ChannelId) {
        let channel = self.channels.get(id);
        if channel.attached && channel.is_unused() {
            let ShardChannel { name, rules, shared, .. } = self.channels.remove(id);
            self.detach_queue.push(ResolvedChannel { name, rules }, shared);
            self.detach_queue.send(&self.channels, &self.node_requests);
        }
    }
}
