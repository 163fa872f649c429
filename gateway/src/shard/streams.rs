//! Drives SSE streams: passes events of the shard to [`SseStream`] and executes its actions.

use earshot_protocol::{ChannelName, Disconnect, ErrorCode, StreamPosition};

use super::channels::ConnectionId;
use super::connection::ConnectionKind;
use super::event_loop::Shard;
use super::sse_stream::{SseAction, SseStream};
use super::timers::max_jittered;
use crate::node::messages::ChannelGap;
use crate::node::namespace::ResolvedChannel;

impl Shard {
    /// Requests the channels of a stream; [`Shard::start_stream_if_ready`] follows when all are attached.
    pub(super) fn open_stream(
        &mut self,
        connection_id: ConnectionId,
        channels: Vec<ResolvedChannel>,
        rejection: Option<Disconnect>,
    ) {
        if let Some(rejection) = rejection {
            return self.disconnect(connection_id, rejection);
        }
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            connection.deferred = Some(Box::default());
        }
        for resolved in channels {
            let replay_last = resolved.rules.namespace.replay_last;
            match self.request_subscription(connection_id, resolved) {
                Ok(channel) => {
                    if let Some(stream) = self.stream(connection_id) {
                        stream.add_channel(channel, replay_last);
                    }
                }
                Err(code) => return self.reject_stream(connection_id, code),
            }
        }
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && let ConnectionKind::Sse(stream) = &mut connection.kind
        {
            stream.resume(&self.channels);
        }
        self.start_stream_if_ready(connection_id);
    }

    /// The delay before a client reconnects, at random, so that clients do not reconnect at the same time.
    pub(super) fn retry_ms(&self) -> u32 {
        let factor = 0.5 + fastrand::f64();
        u32::try_from(self.limits.sse_retry.mul_f64(factor).as_millis()).unwrap_or(u32::MAX)
    }

    fn stream(&mut self, connection_id: ConnectionId) -> Option<&mut SseStream> {
        match self.connections.get_mut(connection_id as usize).map(|connection| &mut connection.kind) {
            Some(ConnectionKind::Sse(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Starts a stream once all its channels and their recoveries are available.
    pub(super) fn start_stream_if_ready(&mut self, connection_id: ConnectionId) {
        // A stream that has ended meanwhile is unsubscribed.
        if !self.is_open(connection_id)
            || self.stream(connection_id).is_none_or(|stream| stream.is_started())
            || !self.is_ready_to_reply(connection_id)
        {
            return;
        }
        let Some(stream) = self.stream(connection_id) else { return };
        let mut pending = stream.take_pending();
        for subscription in &mut pending {
            self.start_delivery(connection_id, subscription);
        }
        let (retry_ms, heartbeat) = (self.retry_ms(), max_jittered(self.limits.sse_heartbeat));
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let ConnectionKind::Sse(stream) = &mut connection.kind else { return };
        let has_cursor = connection.framing.has_cursor();
        let actions = stream.start(pending, &self.channels, has_cursor, retry_ms, heartbeat);
        self.execute_stream_actions(connection_id, actions);
        self.send_deferred(connection_id);
        self.queue_page(connection_id);
    }

    /// Executes the actions of a stream in order.
    pub(super) fn execute_stream_actions(
        &mut self,
        connection_id: ConnectionId,
        actions: impl IntoIterator<Item = SseAction>,
    ) {
        for action in actions {
            match action {
                SseAction::Send(event) => self.send_event(connection_id, &event),
                SseAction::SendRecovered(publication) => self.enqueue_recovered(connection_id, &publication),
                SseAction::End => self.end_stream(connection_id),
            }
        }
    }

    /// Reports a gap in the sequence of a channel, which continues after a position.
    pub(super) fn stream_gap(
        &mut self,
        connection_id: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) {
        if let Some(event) = self.gap_event(connection_id, channel, reason, position) {
            self.send_event(connection_id, &event);
        }
    }

    /// Reports a gap ahead of the backlog.
    pub(super) fn write_gap(&mut self, connection_id: ConnectionId, gap: &ChannelGap) {
        if let Some(event) = self.gap_event(connection_id, &gap.channel, gap.cause.as_str(), gap.position)
            && let Some(connection) = self.connections.get(connection_id as usize)
        {
            let frame = connection.framing.event(&event);
            self.enqueue_control(connection_id, frame);
        }
    }

    fn gap_event(
        &mut self,
        connection_id: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) -> Option<Vec<u8>> {
        let connection = self.connections.get_mut(connection_id as usize)?;
        let ConnectionKind::Sse(stream) = &mut connection.kind else { return None };
        let subscribed = || connection.subscriptions.iter().map(|s| self.channels.get(s.channel));
        let place = subscribed().position(|other| other.name == *channel);
        Some(stream.on_gap(place, channel, reason, position, subscribed().map(|other| other.tag)))
    }

    /// Ends the stream because a channel is not available.
    pub(super) fn reject_stream(&mut self, connection_id: ConnectionId, code: ErrorCode) {
        let retry_ms = self.retry_ms();
        if let Some(stream) = self.stream(connection_id) {
            let actions = stream.on_subscribe_failed(code, retry_ms);
            self.execute_stream_actions(connection_id, actions);
        }
    }

    /// Queues an event.
    fn send_event(&mut self, connection_id: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        let frame = connection.framing.event(event);
        self.enqueue(connection_id, frame);
    }

    /// Sends a heartbeat, or ends a stream that has reached its maximum age.
    pub(super) fn on_heartbeat(&mut self, connection_id: ConnectionId) {
        let (now, interval) = (self.wheel.now(), max_jittered(self.limits.sse_heartbeat));
        let Some(stream) = self.stream(connection_id) else { return };
        let action = stream.on_heartbeat(now, interval);
        let continues = matches!(action, SseAction::Send(_));
        self.execute_stream_actions(connection_id, [action]);
        if continues {
            self.set_heartbeat(connection_id);
        }
    }
}
