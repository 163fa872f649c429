//! PING with a timeout.
//!
//! Owns the check. If it fails, the caller drops the connection.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::error_reply::ErrorReply;
use earshot_redis_link::LinkError;

/// Sends PING. Returns the time before it was sent: the server was alive then or later.
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
                // An ACL may deny PING; the error reply also shows that the server replies.
                ErrorReply::Forbidden | ErrorReply::Passing => Ok(asked),
                // A server that replies to every command with an error is not usable.
                ErrorReply::UnknownCommand | ErrorReply::Rejected => {
                    Err(LinkError::Unreachable(format!("PING is answered with an error: {text}")))
                }
            },
            None => Err(LinkError::Unreachable(error.to_string())),
        },
        Err(_) => Err(LinkError::Unreachable(format!("no reply to PING within {limit:?}"))),
    }
}

/// A timer that first fires after one interval, and does not make up for missed ticks.
pub(super) fn clock(interval: Duration) -> Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + interval, interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
