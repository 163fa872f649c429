//! Timers of connections: pings, heartbeats and timeouts.
//!
//! Owns which timer of a connection comes next. Reads no clock except the wheel.

use std::time::Duration;

use earshot_protocol::Disconnect;
use tokio::time::Instant;

use super::channels::ConnectionId;
use super::connection::{ConnectionKind, TimerKind};
use super::event_loop::{Shard, key};
use super::timer_wheel::Tick;
use super::websocket_frames;

/// Ticks between two polls of the streams that hyper serves, in case a wake-up was lost.
const HYPER_POLL_TICKS: u64 = 5;

/// The range of factors that [`jittered`] applies.
const JITTER_MIN: f64 = 0.8;
const JITTER_MAX: f64 = 1.2;

impl Shard {
    /// Sets the timer of a connection. A connection has one timer.
    pub(super) fn set_timer(&mut self, connection_id: ConnectionId, timer: TimerKind, wait: Duration) {
        let due = self.wheel.after(wait);
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        // A pong does not delay a disconnect because of a shutdown.
        if connection.timer == TimerKind::Drain && timer != TimerKind::Close {
            return;
        }
        // A connection that is closing has no other timer.
        if !connection.is_open() && timer != TimerKind::Close {
            return;
        }
        connection.timer = timer;
        connection.due = due;
        if due < connection.armed {
            connection.armed = self.wheel.insert(key(connection_id, connection.generation), due);
        }
    }

    pub(super) fn set_heartbeat(&mut self, connection_id: ConnectionId) {
        self.set_timer(connection_id, TimerKind::Heartbeat, jittered(self.limits.sse_heartbeat));
    }

    /// When a stream that starts now ends.
    pub(super) fn max_age_at(&self) -> Option<Tick> {
        self.limits.sse_max_age.map(|age| self.wheel.after(jittered(age)))
    }

    pub(super) fn on_tick(&mut self) {
        self.detach_queue.send(&self.channels, &self.node_requests);
        self.retry_recoveries();
        self.resubscribe_queue.start_tick();
        if self.wheel.now().is_multiple_of(HYPER_POLL_TICKS) {
            self.poll_hyper_streams();
        }
        while let Some(keys) = self.wheel.advance(Instant::now()) {
            for key in keys {
                self.on_timer(key);
            }
        }
    }

    pub(super) fn on_timer(&mut self, key: u64) {
        let Some(connection_id) = self.find(key) else { return };
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection.armed != self.wheel.now() {
            return;
        }
        if connection.due > connection.armed {
            connection.armed = self.wheel.insert(key, connection.due);
            return;
        }
        connection.armed = u64::MAX;
        match connection.timer {
            TimerKind::Connect => self.disconnect(connection_id, Disconnect::Stale),
            TimerKind::Ping => self.send_ping(connection_id),
            TimerKind::Pong => self.on_pong_timeout(connection_id),
            TimerKind::Heartbeat => self.on_heartbeat(connection_id),
            TimerKind::Drain => self.drain_one(connection_id),
            TimerKind::Close => self.remove(connection_id),
        }
    }

    pub(super) fn send_ping(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        connection.wrote_since_timer = false;
        let Some(session) = connection.session() else { return };
        session.on_ping_sent();
        let ping = websocket_frames::ping(session.encoding());
        self.enqueue_control(connection_id, ping);
        self.set_timer(connection_id, TimerKind::Pong, self.limits.pong_timeout);
    }

    /// The pong did not arrive in time. A client that is still reading what was sent before the ping has not received
    /// the ping, and gets more time while it reads. So does a client whose pong may not have been read, because its
    /// commands wait for the node.
    pub(super) fn on_pong_timeout(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let read_is_due = connection.has_pending_read
            || matches!(&connection.kind, ConnectionKind::WebSocket(session) if session.is_paused());
        let reads = connection.blocked && std::mem::take(&mut connection.wrote_since_timer);
        if reads || (!connection.blocked && read_is_due) {
            return self.set_timer(connection_id, TimerKind::Pong, self.limits.pong_timeout);
        }
        self.disconnect(connection_id, Disconnect::NoPong);
    }

    /// Checks the streams whose wake-up found the queue full.
    pub(super) fn poll_hyper_streams(&mut self) {
        for key in std::mem::take(&mut self.streams) {
            if let Some(connection_id) = self.find(key) {
                self.streams.push(key);
                self.on_hyper_wake(connection_id);
            }
        }
    }
}

/// A duration, plus or minus 20 %.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(JITTER_MIN + fastrand::f64() * (JITTER_MAX - JITTER_MIN))
}

/// The longest duration that [`jittered`] returns.
pub(super) fn max_jittered(time: Duration) -> Duration {
    time.mul_f64(JITTER_MAX)
}
