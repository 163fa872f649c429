//! Closes connections.
//!
//! Owns the order of a close: what is queued, then the close frame or the last chunk, then the shutdown of the sink. A
//! client that does not close its end is removed after a timeout. The callers decide which clients to disconnect.

use earshot_protocol::Disconnect;

use super::ShardState;
use crate::shard::channels::ConnectionId;
use crate::shard::connection::{Phase, TimerKind};
use crate::shard::websocket_frames;

impl ShardState {
    /// Closes a connection with a code and a reason for the client. If the client is slow, what is queued is
    /// discarded: the client recovers it after it reconnects.
    pub(in crate::shard) fn disconnect(&mut self, connection_id: ConnectionId, disconnect: Disconnect) {
        let Some(connection) = self.connections().get(connection_id).filter(|c| c.is_open()) else { return };
        let framing = connection.framing;
        if disconnect == Disconnect::Slow {
            self.delivery.discard_unsent(connection_id);
        }
        if let Some(place) = Disconnect::ALL.iter().position(|other| *other == disconnect) {
            self.counters.server_disconnects[place].add(1);
        }
        let close = framing.close(disconnect, self.limits.retry_ms());
        self.begin_close(connection_id);
        self.delivery.enqueue_control(connection_id, close);
        if framing.is_event_stream() {
            self.end_stream(connection_id);
        }
    }

    /// Closes a WebSocket, or answers the client's close.
    pub(in crate::shard) fn close(&mut self, connection_id: ConnectionId, code: Option<u16>, reason: &str) {
        if self.connections().is_open(connection_id) {
            self.begin_close(connection_id);
            self.delivery.enqueue_control(connection_id, websocket_frames::close_frame(code, reason));
        }
    }

    /// Ends a stream after what is queued.
    pub(in crate::shard) fn end_stream(&mut self, connection_id: ConnectionId) {
        self.begin_close(connection_id);
        match self.connections().get(connection_id).and_then(|connection| connection.framing.end()) {
            Some(end) => self.delivery.enqueue_control(connection_id, end),
            None => self.delivery.schedule(connection_id),
        }
    }

    /// Stops accepting input and unsubscribes from all channels.
    fn begin_close(&mut self, connection_id: ConnectionId) {
        if self.delivery.begin_close(connection_id) {
            self.set_timer(connection_id, TimerKind::Close, self.limits.close_timeout);
        }
    }

    /// Everything was written to a connection that is closing.
    pub(super) fn on_drained(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connection_mut(connection_id) else { return };
        connection.sink.shut_down();
        connection.phase = Phase::AwaitingPeerClose;
        // An SSE client sends nothing, so closing the socket does not cause a reset.
        if connection.framing.is_event_stream() {
            self.remove(connection_id);
        }
    }

    /// Removes a connection.
    pub(in crate::shard) fn remove(&mut self, connection_id: ConnectionId) {
        if let Some(framing) = self.delivery.remove(connection_id) {
            framing.open_connections(&self.counters).sub(1);
        }
    }
}
