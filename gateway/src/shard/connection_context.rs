//! What the protocol of one connection works with.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{Disconnect, ErrorCode};
use tokio::sync::mpsc;

use super::ShardLimits;
use super::broadcast::Broadcast;
use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, TimerKind};
use super::connections::key;
use super::recovery::Recoveries;
use super::state::ShardState;
use crate::node::Node;
use crate::node::messages::{NodeRequest, RequestId};
use crate::node::namespace::ResolvedChannel;

/// One connection of a shard, with the parts of the shard that its protocol uses.
#[derive(Debug)]
pub(super) struct ConnectionContext<'a> {
    pub(super) id: ConnectionId,
    pub(super) node: &'a Node,
    pub(super) node_requests: &'a mpsc::Sender<NodeRequest>,
    pub(super) state: &'a mut ShardState,
    pub(super) broadcast: &'a mut Broadcast,
    pub(super) recoveries: &'a mut Recoveries,
}

impl ConnectionContext<'_> {
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.state.connection_mut(self.id)
    }

    pub(super) fn limits(&self) -> &ShardLimits {
        self.state.limits()
    }

    /// Whether the connection exists and is not closing.
    pub(super) fn is_open(&self) -> bool {
        self.state.connections().is_open(self.id)
    }

    /// Queues a frame.
    pub(super) fn enqueue(&mut self, frame: Bytes) {
        self.state.enqueue(self.id, frame);
    }

    /// Closes the connection with a code and a reason for the client.
    pub(super) fn disconnect(&mut self, disconnect: Disconnect) {
        self.state.disconnect(self.id, disconnect);
    }

    /// Sets the timer of the connection.
    pub(super) fn set_timer(&mut self, timer: TimerKind, wait: Duration) {
        self.state.set_timer(self.id, timer, wait);
    }

    /// Sets the timer of the connection, earlier if the login of the client ends earlier.
    pub(super) fn set_timer_within_login(&mut self, timer: TimerKind, wait: Duration) {
        let left = self.connection().and_then(|connection| connection.time_left());
        self.set_timer(timer, left.map_or(wait, |left| wait.min(left)));
    }

    /// The id of a new request to the node, for a WebSocket.
    pub(super) fn request_id(&mut self) -> Option<RequestId> {
        let id = self.id;
        let connection = self.connection()?;
        let key = key(id, connection.generation);
        Some(RequestId { connection: key, reply: connection.session()?.next_reply() })
    }

    /// Adds a subscription.
    ///
    /// # Errors
    /// If the queue of the node is full.
    pub(super) fn subscribe(&mut self, channel: ResolvedChannel) -> Result<ChannelId, ErrorCode> {
        self.state.subscriptions().subscribe(self.id, channel)
    }

    /// Removes a subscription.
    pub(super) fn unsubscribe(&mut self, channel: ChannelId) {
        self.state.subscriptions().unsubscribe(self.id, channel);
    }

    /// Whether everything that the next reply or event contains is available; requests what is not.
    pub(super) fn is_ready_to_reply(&mut self) -> bool {
        self.recoveries.is_ready_to_reply(self.state, self.id)
    }

    /// The reply or event of a subscription was queued: sends what arrived meanwhile, and the next page of its recovery.
    pub(super) fn continue_delivery(&mut self) {
        self.broadcast.send_deferred(self.state, self.id);
        self.recoveries.queue_page(self.state, self.id);
    }
}
