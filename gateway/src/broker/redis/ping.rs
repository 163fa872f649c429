//! PING with a time-out: the proof that a connection lives.
//!
//! Owns the question, not its consequences: the caller drops the connection when there is no answer.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::error_reply::ErrorReply;
use earshot_redis_link::LinkError;

/// Asks once. Returns the moment of the question: the server was alive then or later.
pub(super) async fn ping(
    mut connection: MultiplexedConnection,
    limit: Duration,
) -> Result<Instant, LinkError> {
    let asked = Instant::now();
    let question = redis::cmd("PING");
    let answer = tokio::time::timeout(limit, connection.send_packed_command(&question)).await;
    match answer.map(|answer| answer.and_then(Value::extract_error)) {
        Ok(Ok(_)) => Ok(asked),
        Ok(Err(error)) => match ErrorReply::text(&error) {
            Some(text) => match ErrorReply::of(&text) {
                // An ACL may deny PING: that reply is an answer, too.
                ErrorReply::Forbidden | ErrorReply::Passing => Ok(asked),
                // A server that answers everything with an error is of no use.
                ErrorReply::UnknownCommand | ErrorReply::Rejected => {
                    Err(LinkError::Unreachable(format!("PING is answered with an error: {text}")))
                }
            },
            None => Err(LinkError::Unreachable(error.to_string())),
        },
        Err(_) => Err(LinkError::Unreachable(format!("no answer to PING within {limit:?}"))),
    }
}

/// A clock that first ticks after one interval, and never catches up on ticks that were missed.
pub(super) fn clock(interval: Duration) -> Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + interval, interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
