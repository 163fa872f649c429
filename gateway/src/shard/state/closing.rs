//! Closes connections.
//!
//! Owns the order of a close: queued data, then the close frame or the last chunk, then the shutdown of the sink. A
//! client that does not close its end is removed after a timeout. The callers decide which clients to disconnect.

use earshot_protocol::Disconnect;

use tracing::field::display;

use super::ShardState;
use crate::shard::channels::ConnectionId;
use crate::shard::close_reason::CloseReason;
use crate::shard::connection::TimerKind;
use crate::shard::websocket_frames;

impl ShardState {
    /// Closes a connection with a code and a reason for the client. If the client is slow, what is queued is
    /// discarded: the client recovers it after it reconnects.
    pub(in crate::shard) fn disconnect(&mut self, connection_id: ConnectionId, disconnect: Disconnect) {
        if disconnect == Disconnect::Slow && self.connections().is_open(connection_id) {
            self.delivery.discard_unsent(connection_id);
        }
        let reason = CloseReason::Disconnect(disconnect);
        self.disconnect_with(connection_id, disconnect.code(), disconnect.reason(), reason);
    }

    /// Closes a connection with any code and text. A code that is not in [`Disconnect`] is counted as a forced
    /// disconnect.
    pub(in crate::shard) fn disconnect_with(
        &mut self,
        connection_id: ConnectionId,
        code: u16,
        text: &str,
        reason: CloseReason,
    ) {
        let Some(connection) = self.connections().get(connection_id).filter(|c| c.is_open()) else { return };
        let framing = connection.framing;
        let place = |code| Disconnect::ALL.iter().position(|other| other.code() == code);
        if let Some(place) = place(code).or_else(|| place(Disconnect::ForceDisconnect.code())) {
            self.counters.server_disconnects[place].add(1);
        }
        let close = framing.close(code, text, self.limits.retry_ms());
        self.begin_close(connection_id, reason);
        self.delivery.enqueue_control(connection_id, close);
        if framing.is_event_stream() {
            self.end_stream(connection_id);
        }
    }

    /// Closes a WebSocket with a code, or answers the client's close.
    pub(in crate::shard) fn close(
        &mut self,
        connection_id: ConnectionId,
        code: Option<u16>,
        reason: CloseReason,
    ) {
        let text = if let CloseReason::ProtocolError(text) = reason { text } else { "" };
        if self.connections().is_open(connection_id) {
            self.begin_close(connection_id, reason);
            self.delivery.enqueue_control(connection_id, websocket_frames::close_frame(code, text));
        }
    }

    /// Ends a stream after everything queued is written.
    pub(in crate::shard) fn end_stream(&mut self, connection_id: ConnectionId) {
        self.begin_close(connection_id, CloseReason::StreamEnd);
        match self.connections().get(connection_id).and_then(|connection| connection.framing.end()) {
            Some(end) => self.delivery.enqueue_control(connection_id, end),
            None => self.delivery.schedule(connection_id),
        }
    }

    /// Stops accepting input and unsubscribes from all channels.
    fn begin_close(&mut self, connection_id: ConnectionId, reason: CloseReason) {
        self.log_close(connection_id, reason);
        if self.delivery.begin_close(connection_id) {
            self.set_timer(connection_id, TimerKind::Close, self.limits.close_timeout);
        }
    }

    /// Logs the end of a connection, unless it is logged already.
    fn log_close(&self, connection_id: ConnectionId, reason: CloseReason) {
        if let Some(connection) = self.connections().get(connection_id)
            && connection.is_open()
        {
            let transport = if connection.framing.is_event_stream() { "sse" } else { "websocket" };
            let peer = || connection.sink.peer().map(display);
            tracing::debug!(transport, peer = peer(), "connection closed: {reason}");
        }
    }

    /// Removes a connection.
    pub(in crate::shard) fn remove(&mut self, connection_id: ConnectionId, reason: CloseReason) {
        self.log_close(connection_id, reason);
        if let Some(framing) = self.delivery.remove(connection_id) {
            framing.open_connections(&self.counters).sub(1);
        }
    }
}
