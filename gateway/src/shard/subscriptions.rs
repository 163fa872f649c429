//! The subscriptions of a shard: its connections, its channels, and which connection is subscribed to which channel.
//!
//! Owns both sides of each subscription, the entry of the connection and the one of the channel. Owns the rule that a
//! channel is requested from the node once, and detached when no connection needs it.

use std::sync::Arc;

use earshot_protocol::{ChannelName, ErrorCode, StreamPosition};
use tokio::sync::mpsc;

use super::channels::{ChannelId, Channels, ConnectionId, ShardChannel};
use super::connection::Connection;
use super::connections::{Connections, key};
use super::detach_queue::DetachQueue;
use super::pages::Pages;
use super::pending_subscription::PendingSubscription;
use super::resubscribe_queue::ResubscribeQueue;
use super::subscription::{Status, Subscription};
use crate::metrics::ShardCounters;
use crate::node::messages::NodeRequest;
use crate::node::namespace::ResolvedChannel;

/// The subscriptions of a shard.
#[derive(Debug)]
pub(super) struct Subscriptions {
    connections: Connections,
    channels: Channels,
    /// Channels whose detach request did not fit into the queue of the node.
    detach_queue: DetachQueue,
    /// Clients to be unsubscribed after gaps.
    resubscribe_queue: ResubscribeQueue,
    node_requests: mpsc::Sender<NodeRequest>,
    counters: Arc<ShardCounters>,
}

impl Subscriptions {
    pub(super) fn new(node_requests: mpsc::Sender<NodeRequest>, counters: Arc<ShardCounters>) -> Self {
        Self {
            connections: Connections::default(),
            channels: Channels::default(),
            detach_queue: DetachQueue::default(),
            resubscribe_queue: ResubscribeQueue::new(),
            node_requests,
            counters,
        }
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(super) fn connections_mut(&mut self) -> &mut Connections {
        &mut self.connections
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    pub(super) fn channel_mut(&mut self, channel: ChannelId) -> &mut ShardChannel {
        self.channels.get_mut(channel)
    }

    /// A connection, and the channels.
    #[inline]
    pub(super) fn split(&mut self, connection_id: ConnectionId) -> Option<(&mut Connection, &Channels)> {
        Some((self.connections.get_mut(connection_id)?, &self.channels))
    }

    /// Adds a subscription: ready if the channel is attached, waiting otherwise.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyRequests`] if the queue of the node is full.
    pub(super) fn subscribe(
        &mut self,
        connection_id: ConnectionId,
        resolved: ResolvedChannel,
    ) -> Result<ChannelId, ErrorCode> {
        let network = self.connections.get(connection_id).and_then(|connection| connection.network);
        let id = match self.channels.find(&resolved.name) {
            Some(id) => {
                self.channels.get_mut(id).share(network);
                id
            }
            None => {
                let attach = NodeRequest::Attach { channel: resolved.clone(), network };
                self.node_requests.try_send(attach).map_err(|_| ErrorCode::TooManyRequests)?;
                self.channels.insert(resolved, network)
            }
        };
        let channel = self.channels.get_mut(id);
        let status = if channel.attached { Status::Ready } else { Status::Waiting };
        // The entry keeps the channel from being released until the reply is written.
        channel.waiters.insert(connection_id);
        if let Some(connection) = self.connections.get_mut(connection_id) {
            connection.subscriptions.push(Subscription { channel: id, status, recovered_up_to: None });
        }
        self.counters.subscriptions.add(1);
        Ok(id)
    }

    /// The reply is queued: from here on the connection receives publications.
    pub(super) fn activate(&mut self, connection_id: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        if matches!(subscription.status, Status::Ready | Status::Recovering) {
            let channel = self.channels.get_mut(id);
            channel.waiters.remove(&connection_id);
            subscription.status = Status::Joined(channel.add_subscriber(connection_id));
        }
    }

    /// Activates a subscription after a recovery that delivered everything up to `top`. Publications up to `top` that
    /// the shard has not delivered yet are skipped for this subscriber.
    pub(super) fn activate_after(&mut self, connection_id: ConnectionId, id: ChannelId, top: StreamPosition) {
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let channel = self.channels.get_mut(id);
        // Events of the node are in order: a different epoch is one that the shard has not reached yet, and no
        // publication of an earlier epoch follows.
        let behind = channel.position.epoch != top.epoch || channel.position.offset < top.offset;
        let recovered_up_to = behind.then_some(top);
        if behind {
            channel.recovered_up_to = recovered_up_to;
        }
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.recovered_up_to = recovered_up_to;
        }
        self.activate(connection_id, id);
    }

    /// The reply or event of a subscription is queued: activates it if its recovery is complete. Otherwise the other
    /// pages follow first.
    pub(super) fn start_delivery(&mut self, connection_id: ConnectionId, pending: &mut PendingSubscription) {
        let position = match &pending.recovery {
            Some(first) if !first.is_complete => first.end(),
            _ => return self.activate(connection_id, pending.channel),
        };
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let Some(subscription) = connection.subscription_mut(pending.channel) else { return };
        subscription.status = Status::Recovering;
        let pages = Pages { channel: pending.channel, position, kept: std::mem::take(&mut pending.rest) };
        connection.paged_recovery.get_or_insert_default().push(pages);
    }

    /// Removes a subscription.
    pub(super) fn unsubscribe(&mut self, connection_id: ConnectionId, id: ChannelId) {
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let Some(status) = connection.remove(id) else { return };
        self.counters.subscriptions.sub(1);
        let channel = self.channels.get_mut(id);
        match status {
            Status::Joined(place) => {
                if let Some(moved) = channel.remove_subscriber(place)
                    && let Some(connection) = self.connections.get_mut(moved)
                    && let Some(subscription) = connection.subscription_mut(id)
                {
                    subscription.status = Status::Joined(place);
                }
            }
            Status::Waiting | Status::Ready | Status::Recovering => {
                channel.waiters.remove(&connection_id);
            }
        }
        self.release(id);
    }

    /// Removes all subscriptions of a connection.
    pub(super) fn unsubscribe_all(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let channels: Vec<ChannelId> = connection.subscriptions.iter().map(|s| s.channel).collect();
        for channel in channels {
            self.unsubscribe(connection_id, channel);
        }
    }

    /// Removes a subscription because of a gap. [`Subscriptions::next_resubscribe`] returns it when its client may be
    /// unsubscribed.
    pub(super) fn unsubscribe_after_gap(
        &mut self,
        connection_id: ConnectionId,
        id: ChannelId,
        name: ChannelName,
    ) {
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        connection.awaiting_resubscribe.push(name.clone());
        self.resubscribe_queue.push(key(connection_id, connection.generation), name);
        self.unsubscribe(connection_id, id);
    }

    /// Whether [`Subscriptions::next_resubscribe`] may return a client.
    pub(super) fn is_resubscribe_due(&self) -> bool {
        self.resubscribe_queue.is_due()
    }

    /// The next client to be unsubscribed after a gap; `None` if this tick has none left.
    pub(super) fn next_resubscribe(&mut self) -> Option<(ConnectionId, ChannelName)> {
        while let Some((key, name)) = self.resubscribe_queue.pop() {
            let Some(connection_id) = self.connections.find(key) else { continue };
            let Some(connection) = self.connections.get_mut(connection_id) else { continue };
            let awaiting = connection.awaiting_resubscribe.len();
            connection.awaiting_resubscribe.retain(|awaiting| *awaiting != name);
            // The client may have unsubscribed or resubscribed meanwhile.
            if connection.awaiting_resubscribe.len() < awaiting && connection.is_open() {
                self.resubscribe_queue.count();
                return Some((connection_id, name));
            }
        }
        None
    }

    /// The node has attached the shard to a channel. Returns the connections that wait for it;
    /// [`Subscriptions::release_unused`] follows when they are handled.
    pub(super) fn on_attached(&mut self, name: &ChannelName, position: StreamPosition) -> Vec<ConnectionId> {
        let Some(id) = self.channels.find(name) else { return Vec::new() };
        let channel = self.channels.get_mut(id);
        channel.attached = true;
        channel.position = position;
        channel.recovered_up_to = None;
        let waiters: Vec<ConnectionId> = channel.waiters.iter().copied().collect();
        for connection_id in &waiters {
            if let Some(connection) = self.connections.get_mut(*connection_id)
                && let Some(subscription) = connection.subscription_mut(id)
                && subscription.status == Status::Waiting
            {
                subscription.status = Status::Ready;
            }
        }
        waiters
    }

    /// The node could not attach the shard to a channel. Returns the channel and the connections that waited for it;
    /// their subscriptions are removed.
    pub(super) fn on_attach_failed(&mut self, name: &ChannelName) -> Option<(ChannelId, Vec<ConnectionId>)> {
        let id = self.channels.find(name)?;
        let waiters: Vec<ConnectionId> = self.channels.remove(id).waiters.into_iter().collect();
        for connection_id in &waiters {
            self.counters.subscriptions.sub(1);
            if let Some(connection) = self.connections.get_mut(*connection_id) {
                connection.remove(id);
            }
        }
        Some((id, waiters))
    }

    /// Detaches a channel that no connection needs. A channel that the node has not confirmed yet is kept.
    fn release(&mut self, id: ChannelId) {
        let channel = self.channels.get(id);
        if channel.attached && channel.is_unused() {
            let ShardChannel { name, rules, shared, .. } = self.channels.remove(id);
            self.detach_queue.push(ResolvedChannel { name, rules }, shared);
            self.detach_queue.send(&self.channels, &self.node_requests);
        }
    }

    /// Detaches a channel, unless a connection needs it or it was detached meanwhile.
    pub(super) fn release_unused(&mut self, name: &ChannelName) {
        if let Some(id) = self.channels.find(name) {
            self.release(id);
        }
    }

    /// Starts a tick: sends the detach requests that wait, and allows further clients to be unsubscribed.
    pub(super) fn on_tick(&mut self) {
        self.detach_queue.send(&self.channels, &self.node_requests);
        self.resubscribe_queue.start_tick();
    }

    /// Uses up the unsubscribes of this tick.
    #[cfg(test)]
    pub(super) fn use_up_resubscribes(&mut self) {
        self.resubscribe_queue.use_up();
    }
}
