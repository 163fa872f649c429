//! The state of a shard: deliveries to its connections, their timers and limits.
//!
//! [`ShardState`] controls the lifecycle of a connection: insertion, disconnect of a slow client, close, removal. The
//! protocols are above: [`super::sessions`], [`super::streams`].

mod closing;
mod gaps;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::Disconnect;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ShardLimits;
use super::channels::{Channels, ConnectionId};
use super::close_reason::CloseReason;
use super::connection::{Connection, Phase, TimerKind};
use super::connections::{Connections, key};
use super::delivery::{Delivery, FlushOutcome};
use super::subscriptions::Subscriptions;
use super::timer_wheel::{Tick, ticks};
use super::timers::Timers;
use super::writer::{QueueLimits, Writer};
use crate::metrics::ShardCounters;
use crate::node::messages::NodeRequest;

/// The state of a shard.
#[derive(Debug)]
pub(super) struct ShardState {
    limits: ShardLimits,
    delivery: Delivery,
    timers: Timers,
    counters: Arc<ShardCounters>,
}

impl ShardState {
    pub(super) fn new(
        limits: ShardLimits,
        registry: mio::Registry,
        node_requests: mpsc::Sender<NodeRequest>,
        counters: Arc<ShardCounters>,
    ) -> Self {
        let age = limits.client_queue_age.map_or(Tick::MAX, ticks);
        let queue_limits = QueueLimits { bytes: limits.client_queue_bytes, age };
        let subscriptions = Subscriptions::new(node_requests, Arc::clone(&counters));
        let writer = Writer::new(registry, queue_limits, Arc::clone(&counters));
        let delivery = Delivery::new(subscriptions, writer, Arc::clone(&counters));
        Self { limits, delivery, timers: Timers::new(Instant::now()), counters }
    }

    pub(super) fn limits(&self) -> &ShardLimits {
        &self.limits
    }

    pub(super) fn counters(&self) -> &ShardCounters {
        &self.counters
    }

    #[inline]
    pub(super) fn delivery(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    pub(super) fn subscriptions(&mut self) -> &mut Subscriptions {
        self.delivery.subscriptions()
    }

    pub(super) fn channels(&self) -> &Channels {
        self.delivery.channels()
    }

    pub(super) fn connections(&self) -> &Connections {
        self.delivery.connections()
    }

    pub(super) fn connection_mut(&mut self, connection_id: ConnectionId) -> Option<&mut Connection> {
        self.delivery.connection_mut(connection_id)
    }

    /// A connection with the context of its protocol.
    pub(super) fn split(
        &mut self,
        connection_id: ConnectionId,
    ) -> Option<(&mut Connection, &Channels, &ShardLimits)> {
        let (connection, channels) = self.delivery.subscriptions().split(connection_id)?;
        Some((connection, channels, &self.limits))
    }

    /// Adds a connection. Returns its index and key; `None` if its sink cannot be registered.
    pub(super) fn insert(&mut self, mut connection: Connection) -> Option<(ConnectionId, u64)> {
        let (connection_id, generation) = self.subscriptions().connections_mut().reserve();
        let key = key(connection_id, generation);
        if !self.delivery.writer().register(&mut connection.sink, key) {
            return None;
        }
        connection.generation = generation;
        connection.framing.open_connections(&self.counters).add(1);
        self.subscriptions().connections_mut().insert(connection);
        Some((connection_id, key))
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Sets the timer of a connection.
    pub(super) fn set_timer(&mut self, connection_id: ConnectionId, timer: TimerKind, wait: Duration) {
        if let Some(connection) = self.delivery.connection_mut(connection_id) {
            self.timers.set(connection_id, connection, timer, wait);
        }
    }

    /// Advances by one tick if it is over. Returns the keys for [`ShardState::expired_timer`].
    pub(super) fn advance(&mut self, now: Instant) -> Option<Vec<u64>> {
        let keys = self.timers.advance(now)?;
        self.delivery.set_now(self.timers.now());
        Some(keys)
    }

    /// The connection with a key, and its timer that fires now.
    pub(super) fn expired_timer(&mut self, key: u64) -> Option<(ConnectionId, TimerKind)> {
        let connection_id = self.connections().find(key)?;
        let connection = self.delivery.connection_mut(connection_id)?;
        Some((connection_id, self.timers.expired(connection_id, connection)?))
    }

    /// Queues a frame. Disconnects the client as slow if the queue exceeds its limit.
    pub(super) fn enqueue(&mut self, connection_id: ConnectionId, frame: Bytes) {
        if !self.delivery.enqueue(connection_id, frame) {
            self.disconnect(connection_id, Disconnect::Slow);
        }
    }

    /// Flushes the first connection of the flush queue; `None` if there is none.
    pub(super) fn flush_next(&mut self) -> Option<ConnectionId> {
        let (connection_id, outcome) = self.delivery.flush_next()?;
        match outcome {
            FlushOutcome::Written => {}
            FlushOutcome::Drained => {
                let connection = self.connection_mut(connection_id)?;
                connection.sink.shut_down();
                connection.phase = Phase::AwaitingPeerClose;
                // An SSE client sends nothing, so closing the socket does not cause a reset.
                if connection.framing.is_event_stream() {
                    self.remove(connection_id, CloseReason::StreamEnd);
                }
            }
            FlushOutcome::Broken(error) => self.remove(connection_id, CloseReason::Io(error)),
        }
        Some(connection_id)
    }

    /// The gateway shuts down: a client may take at most `close_timeout` to close its end.
    pub(super) fn limit_close_timeout(&mut self, close_timeout: Duration) {
        self.limits.close_timeout = self.limits.close_timeout.min(close_timeout);
    }

    #[cfg(test)]
    pub(super) fn change_limits(&mut self, change: impl FnOnce(&mut ShardLimits)) {
        change(&mut self.limits);
        self.delivery.writer().set_limit(self.limits.client_queue_bytes);
    }
}
