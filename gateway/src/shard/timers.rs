//! Timers of connections: pings, heartbeats and timeouts.
//!
//! Owns the choice of a connection's next timer. A connection has one timer.

use std::time::Duration;

use tokio::time::Instant;

use super::channels::ConnectionId;
use super::connection::{Connection, TimerKind};
use super::connections::key;
use super::timer_wheel::{Tick, TimerWheel};

/// The range of factors that [`jittered`] applies.
const JITTER_MIN: f64 = 0.8;
const JITTER_MAX: f64 = 1.2;

/// The timers of all connections of a shard. Reads no clock except the wheel.
#[derive(Debug)]
pub(super) struct Timers {
    wheel: TimerWheel,
}

impl Timers {
    pub(super) fn new(started_at: Instant) -> Self {
        Self { wheel: TimerWheel::new(started_at) }
    }

    /// The current tick.
    pub(super) fn now(&self) -> Tick {
        self.wheel.now()
    }

    /// The tick after a duration.
    pub(super) fn after(&self, wait: Duration) -> Tick {
        self.wheel.after(wait)
    }

    /// Sets the timer of a connection, unless a timer of higher priority is set.
    pub(super) fn set(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
        timer: TimerKind,
        wait: Duration,
    ) {
        // A pong does not delay a disconnect because of a shutdown.
        if connection.timer == TimerKind::Drain && timer != TimerKind::Close {
            return;
        }
        // A connection that is closing has no other timer.
        if !connection.is_open() && timer != TimerKind::Close {
            return;
        }
        connection.timer = timer;
        connection.due = self.wheel.after(wait);
        if connection.due < connection.armed {
            connection.armed = self.wheel.insert(key(connection_id, connection.generation), connection.due);
        }
    }

    /// Advances by one tick if it is over. Returns the keys for [`Timers::expired`].
    pub(super) fn advance(&mut self, now: Instant) -> Option<Vec<u64>> {
        self.wheel.advance(now)
    }

    /// The timer of a connection that fires now; `None` if it was moved to a later tick.
    pub(super) fn expired(
        &mut self,
        connection_id: ConnectionId,
        connection: &mut Connection,
    ) -> Option<TimerKind> {
        if connection.armed != self.wheel.now() {
            return None;
        }
        if connection.due > connection.armed {
            connection.armed = self.wheel.insert(key(connection_id, connection.generation), connection.due);
            return None;
        }
        connection.armed = u64::MAX;
        Some(connection.timer)
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
