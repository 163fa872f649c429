//! PING with a time-out: the proof that a connection lives.
//!
//! Owns the question, not its consequences: whoever asks drops the connection when there is no answer.

use std::time::Duration;

use redis::ErrorKind;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::instance::Failure;

/// Asks once. Returns the moment of the question: the server was alive then or later.
pub(super) async fn ping(mut connection: MultiplexedConnection, limit: Duration) -> Result<Instant, Failure> {
    let asked = Instant::now();
    let question = redis::cmd("PING");
    let answer = tokio::time::timeout(limit, connection.send_packed_command(&question)).await;
    match answer {
        Ok(Ok(_)) => Ok(asked),
        // An ACL may forbid PING; to be told so is an answer.
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Ok(asked),
        Ok(Err(error)) => Err(Failure::Unreachable(error.to_string())),
        Err(_) => Err(Failure::Unreachable(format!("no answer to PING within {limit:?}"))),
    }
}

/// A clock that first ticks after one interval, and never catches up on ticks that were missed.
pub(super) fn clock(interval: Duration) -> Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + interval, interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
