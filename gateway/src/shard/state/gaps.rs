//! Reports gaps to the subscribers of a channel.

use earshot_protocol::{ChannelName, Disconnect, StreamPosition, UnsubscribeCode};

use super::ShardState;
use crate::broker::GapCause;
use crate::node::messages::ChannelGap;
use crate::shard::channels::{ChannelId, ConnectionId};

impl ShardState {
    /// Handles gaps in the sequences of channels.
    pub(in crate::shard) fn on_gaps(&mut self, gaps: Vec<ChannelGap>) {
        for ChannelGap { channel, cause, position } in gaps {
            let Some(id) = self.channels().find(&channel) else { continue };
            let channel = self.channels().get(id);
            if channel.attached && !channel.already_has(position) {
                self.on_gap(id, cause, position);
            }
        }
    }

    /// Handles a gap in a channel's sequence, which continues after the given position.
    pub(in crate::shard) fn on_gap(&mut self, id: ChannelId, cause: GapCause, position: StreamPosition) {
        let channel = self.subscriptions().channel_mut(id);
        channel.position = position;
        let name = channel.name.clone();
        for connection_id in channel.subscribers.clone() {
            // A recovery may already have delivered the publications that the shard missed to this subscriber.
            if self.connections().get(connection_id).is_some_and(|c| c.already_has(id, position)) {
                continue;
            }
            self.report_gap(connection_id, id, ChannelGap { channel: name.clone(), cause, position });
        }
    }

    /// Reports a gap to a subscriber. A stream continues. A WebSocket client is unsubscribed: it resubscribes from its
    /// last position, recovers what is available, and is notified of the rest.
    pub(in crate::shard) fn report_gap(
        &mut self,
        connection_id: ConnectionId,
        id: ChannelId,
        gap: ChannelGap,
    ) {
        if let Some(ChannelGap { channel, cause, position }) = self.delivery.push_gap(connection_id, id, gap)
        {
            self.enqueue_gap(connection_id, &channel, cause.as_str(), position);
        }
    }

    /// Queues the event of a gap in a channel's sequence, which continues after the given position.
    pub(in crate::shard) fn enqueue_gap(
        &mut self,
        connection_id: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) {
        if let Some((connection, channels)) = self.subscriptions().split(connection_id)
            && let Some(frame) = connection.gap_frame(channels, channel, reason, position)
        {
            self.enqueue(connection_id, frame);
        }
    }

    /// Unsubscribes clients after gaps, as many as this tick has left.
    pub(in crate::shard) fn send_resubscribes(&mut self) {
        while let Some((connection_id, name)) = self.subscriptions().next_resubscribe() {
            let Some(connection) = self.connection_mut(connection_id) else { continue };
            // The client cannot resubscribe to a channel of its connect command by itself.
            if connection.session().is_some_and(|session| session.server_side.contains(&name)) {
                self.disconnect(connection_id, Disconnect::InsufficientState);
                continue;
            }
            let frame = connection.framing.unsubscribe_push(&name, UnsubscribeCode::InsufficientState);
            self.enqueue(connection_id, frame);
        }
    }
}
