//! Dispatches the events of a connection to the driver of its protocol.
//!
//! Events and replies of the node, timers and completed writes arrive here.

use earshot_protocol::{ChannelName, Disconnect, ErrorCode};
use tokio::time::Instant;

use super::channels::{ChannelId, ConnectionId};
use super::close_reason::CloseReason;
use super::commands;
use super::connection::{ConnectionKind, TimerKind};
use super::connection_context::ConnectionContext;
use super::event_loop::Shard;
use super::sessions::SessionDriver;
use super::streams::StreamDriver;
use crate::node::messages::{NodeEvent, NodeResponse, SubscribeError};

/// Connections flushed in one turn.
const FLUSHES_PER_TURN: usize = 256;

/// Ticks between two polls of the streams that hyper serves, in case a wake-up was lost.
const HYPER_POLL_TICKS: u64 = 5;

impl Shard {
    pub(super) fn context(&mut self, connection_id: ConnectionId) -> ConnectionContext<'_> {
        ConnectionContext {
            id: connection_id,
            node: &self.node,
            node_requests: &self.node_requests,
            state: &mut self.state,
            broadcast: &mut self.broadcast,
            recoveries: &mut self.recoveries,
        }
    }

    pub(super) fn session(&mut self, connection_id: ConnectionId) -> SessionDriver<'_> {
        SessionDriver::new(self.context(connection_id))
    }

    pub(super) fn stream(&mut self, connection_id: ConnectionId) -> StreamDriver<'_> {
        StreamDriver::new(self.context(connection_id))
    }

    /// Handles an event of the node. Events must be handled in order.
    pub(super) fn on_node_event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Publications(batch) => {
                self.latency_sampler.start(batch.queued_at);
                self.broadcast.on_publications(&mut self.state, &batch.publications);
            }
            NodeEvent::Attached(name, position) => {
                for connection_id in self.state.subscriptions().on_attached(&name, position) {
                    self.resume_pending(connection_id);
                }
                self.state.subscriptions().release_unused(&name);
            }
            NodeEvent::Recovered(request_id, name, recovery) => {
                let resumed = self.recoveries.on_recovered(&mut self.state, request_id, &name, recovery);
                if let Some(connection_id) = resumed {
                    self.resume_pending(connection_id);
                }
            }
            NodeEvent::RecoverFailed(request_id, name, error) => {
                let failed = self.recoveries.on_recovery_failed(&mut self.state, request_id, &name);
                if let Some((connection_id, channel)) = failed {
                    self.on_subscribe_failed(connection_id, channel, &error);
                }
            }
            NodeEvent::AttachFailed(name, error) => self.on_attach_failed(&name, &error),
            NodeEvent::Gaps(gaps) => self.state.on_gaps(gaps),
            // The request may have been cancelled.
            NodeEvent::CountSubscribers(answer) => {
                drop(answer.send(self.state.channels().subscriber_counts()));
            }
        }
    }

    fn on_attach_failed(&mut self, name: &ChannelName, error: &SubscribeError) {
        let Some((channel, waiters)) = self.state.subscriptions().on_attach_failed(name) else { return };
        for connection_id in waiters {
            self.on_subscribe_failed(connection_id, channel, error);
        }
    }

    /// A channel that a connection waits for is not available.
    fn on_subscribe_failed(
        &mut self,
        connection_id: ConnectionId,
        channel: ChannelId,
        error: &SubscribeError,
    ) {
        let code = ErrorCode::from(error);
        match self.state.connections().get(connection_id).map(|connection| &connection.kind) {
            Some(ConnectionKind::WebSocket(_)) => {
                self.session(connection_id).on_subscribe_failed(channel, code);
            }
            Some(ConnectionKind::Sse(_)) => self.stream(connection_id).on_subscribe_failed(code),
            None => {}
        }
    }

    /// A part of the next reply or event of a connection is available.
    fn resume_pending(&mut self, connection_id: ConnectionId) {
        match self.state.connections().get(connection_id).map(|connection| &connection.kind) {
            Some(ConnectionKind::WebSocket(_)) => self.session(connection_id).flush_ready_replies(),
            Some(ConnectionKind::Sse(_)) => self.stream(connection_id).start_if_ready(),
            None => {}
        }
    }

    /// Handles a reply of the node.
    pub(super) fn on_node_reply(&mut self, response: NodeResponse) {
        let (request_id, reply) = commands::node_reply(response);
        if let Some(connection_id) = self.state.connections().find(request_id.connection) {
            self.session(connection_id).on_node_reply(request_id.reply, reply);
        }
    }

    /// Flushes a bounded number of connections.
    pub(super) fn flush_batch(&mut self) {
        let waiting = self.state.delivery().scheduled();
        self.state.delivery().start_turn();
        let mut flushed = 0;
        while flushed < FLUSHES_PER_TURN {
            let Some(connection_id) = self.state.flush_next() else {
                // The queue is empty, also of connections that were removed.
                flushed = usize::MAX;
                break;
            };
            flushed += 1;
            if self.recoveries.on_bytes_written(&mut self.state, connection_id) {
                self.session(connection_id).flush_ready_replies();
            }
        }
        self.state.delivery().finish_turn();
        if let Some(latency) = self.latency_sampler.on_flush(waiting, flushed) {
            self.state.counters().delivery_latency.record(latency);
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.state.subscriptions().on_tick();
        // Recovery requests for which the queue of the node had no room.
        for connection_id in self.recoveries.take_retries(&self.state) {
            self.resume_pending(connection_id);
        }
        if self.state.timers().now().is_multiple_of(HYPER_POLL_TICKS) {
            self.poll_hyper_streams();
        }
        while let Some(keys) = self.state.advance(Instant::now()) {
            for key in keys {
                self.on_timer(key);
            }
        }
    }

    fn on_timer(&mut self, key: u64) {
        let Some((connection_id, timer)) = self.state.expired_timer(key) else { return };
        match timer {
            TimerKind::Connect => self.state.disconnect(connection_id, Disconnect::Stale),
            TimerKind::Ping => self.session(connection_id).send_ping(),
            TimerKind::Pong => self.session(connection_id).on_pong_timeout(),
            TimerKind::Heartbeat => self.stream(connection_id).on_heartbeat(),
            TimerKind::Drain => self.state.disconnect(connection_id, Disconnect::Shutdown),
            TimerKind::Close => self.state.remove(connection_id, CloseReason::CloseTimeout),
        }
    }
}
