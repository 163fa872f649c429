//! What happens by itself: pings, heartbeats, and the deadlines of connections.
//!
//! Owns which deadline comes next for a connection. Must never read a clock but the wheel.

use std::time::Duration;

use earshot_protocol::Disconnect;
use tokio::time::Instant;

use super::channels::ConnectionId;
use super::connection::{Connection, Deadline, Kind};
use super::reactor::{NOTICES_PER_TICK, Shard, key};
use super::wheel::Tick;
use super::{sse, websocket};

/// Ticks between two looks at the streams that hyper carries, in case a wake was lost.
const STREAM_LOOK_TICKS: u64 = 5;

/// The range of factors that [`jittered`] applies.
const JITTER_MIN: f64 = 0.8;
const JITTER_MAX: f64 = 1.2;

impl Shard {
    /// What is to happen with a connection next, and when.
    pub(super) fn set_deadline(&mut self, at: ConnectionId, deadline: Deadline, wait: Duration) {
        let due = self.wheel.after(wait);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        // Whoever is about to leave with the gateway is not kept by a pong.
        if connection.deadline == Deadline::Leave && deadline != Deadline::Close {
            return;
        }
        // Nor is one that ends kept by whatever was about to happen with it.
        if !connection.is_open() && deadline != Deadline::Close {
            return;
        }
        connection.deadline = deadline;
        connection.due = due;
        if due < connection.armed {
            connection.armed = self.wheel.enter(key(at, connection.generation), due);
        }
    }

    pub(super) fn set_heartbeat(&mut self, at: ConnectionId) {
        self.set_deadline(at, Deadline::Heartbeat, jittered(self.limits.sse_heartbeat));
    }

    /// When a stream that begins now is to end.
    pub(super) fn age_limit(&self) -> Option<Tick> {
        self.limits.sse_max_age.map(|age| self.wheel.after(jittered(age)))
    }

    /// A stream is kept alive, or ended when it is old enough.
    pub(super) fn heartbeat(&mut self, at: ConnectionId) {
        let Some(Connection { kind: Kind::Sse(stream), .. }) = self.connections.get(at as usize) else {
            return;
        };
        if stream.ends.is_some_and(|ends| ends <= self.wheel.now()) {
            return self.finish(at);
        }
        let heartbeat = if stream.ping { self.stream_ping() } else { sse::heartbeat() };
        self.event(at, &heartbeat);
        self.set_heartbeat(at);
    }

    /// The ping of a stream that requests such events.
    pub(super) fn stream_ping(&self) -> Vec<u8> {
        sse::ping(self.limits.sse_heartbeat.mul_f64(JITTER_MAX))
    }

    pub(super) fn tick(&mut self) {
        self.give_up_channels();
        self.ask_again();
        self.notices_left = NOTICES_PER_TICK;
        self.send_notices();
        if self.wheel.now().is_multiple_of(STREAM_LOOK_TICKS) {
            self.look_at_streams();
        }
        while let Some(keys) = self.wheel.turn(Instant::now()) {
            for key in keys {
                self.turn_of(key);
            }
        }
    }

    pub(super) fn turn_of(&mut self, key: u64) {
        let Some(at) = self.find(key) else { return };
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.armed != self.wheel.now() {
            return;
        }
        if connection.due > connection.armed {
            connection.armed = self.wheel.enter(key, connection.due);
            return;
        }
        connection.armed = u64::MAX;
        match connection.deadline {
            Deadline::Connect => self.disconnect(at, Disconnect::Stale),
            Deadline::Ping => self.ping(at),
            Deadline::Pong => self.no_pong(at),
            Deadline::Heartbeat => self.heartbeat(at),
            Deadline::Leave => self.leave_one(at),
            Deadline::Close => self.remove(at),
        }
    }

    pub(super) fn ping(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.progress = false;
        let Some(session) = connection.session() else { return };
        session.pong_due = true;
        let ping = websocket::ping(session.encoding);
        self.push_control(at, ping);
        self.set_deadline(at, Deadline::Pong, self.limits.pong_timeout);
    }

    /// The pong did not come in time. A client that is still busy reading what stood before the ping has not even
    /// seen it; it is given more time as long as it goes on reading. So is a client whose pong may not have been read,
    /// because its commands wait for the node.
    pub(super) fn no_pong(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let read_is_due =
            connection.unread || matches!(&connection.kind, Kind::WebSocket(session) if session.paused);
        let reads = connection.blocked && std::mem::take(&mut connection.progress);
        if reads || (!connection.blocked && read_is_due) {
            return self.set_deadline(at, Deadline::Pong, self.limits.pong_timeout);
        }
        self.disconnect(at, Disconnect::NoPong);
    }

    /// Streams whose wake found no place are looked at here.
    pub(super) fn look_at_streams(&mut self) {
        for key in std::mem::take(&mut self.streams) {
            if let Some(at) = self.find(key) {
                self.streams.push(key);
                self.stream_woken(at);
            }
        }
    }
}

/// A random duration within 20 % of `time`.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(JITTER_MIN + fastrand::f64() * (JITTER_MAX - JITTER_MIN))
}
