//! The context in which the protocol of one connection runs.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{Disconnect, ErrorCode, UnsubscribeCode};
use tokio::sync::mpsc;

use super::ShardLimits;
use super::broadcast::Broadcast;
use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, TimerKind};
use super::connections::key;
use super::expiry;
use super::recovery::Recoveries;
use super::state::ShardState;
use crate::auth::UnixSeconds;
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

    /// Makes the next ping or heartbeat come when the login or a subscription expires, if that is earlier.
    pub(super) fn bring_timer_forward(&mut self) {
        let Some(connection) = self.state.connections().get(self.id) else { return };
        let Some(left) = connection.time_left() else { return };
        let (timer, due) = (connection.timer, connection.due);
        if matches!(timer, TimerKind::Ping | TimerKind::Heartbeat) && self.state.timers().after(left) < due {
            self.set_timer(timer, left);
        }
    }

    /// Sets when a subscription of a WebSocket expires, and returns the seconds until then.
    pub(super) fn set_subscription_expiry(
        &mut self,
        channel: ChannelId,
        expires_at: Option<UnixSeconds>,
    ) -> Option<u32> {
        self.connection()?.session()?.expiry.set_subscription(channel, expires_at);
        self.bring_timer_forward();
        expiry::time_to_live(expires_at)
    }

    /// Ends the subscriptions whose token has expired. The client subscribes again with a new token.
    pub(super) fn end_expired_subscriptions(&mut self) {
        let session = self.connection().and_then(|connection| connection.session());
        let expired = session.map(|session| session.expiry.expired_subscriptions());
        for channel in expired.into_iter().flatten() {
            let name = self.state.channels().get(channel).name.clone();
            let Some(connection) = self.connection() else { return };
            let push = connection.framing.unsubscribe_push(&name, UnsubscribeCode::Expired);
            self.unsubscribe(channel);
            self.enqueue(push);
        }
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

    /// Whether the content of the next reply or event is complete; requests the missing parts.
    pub(super) fn is_ready_to_reply(&mut self) -> bool {
        self.recoveries.is_ready_to_reply(self.state, self.id)
    }

    /// The reply or event of a subscription was queued: sends the events that arrived in the meantime, and the next
    /// page of its recovery.
    pub(super) fn continue_delivery(&mut self) {
        self.broadcast.send_deferred(self.state, self.id);
        self.recoveries.queue_page(self.state, self.id);
    }
}
