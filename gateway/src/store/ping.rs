//! Whether a server replies.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};

use earshot_redis_link::LinkError;

/// Sends PING. An ACL may deny it; the error reply also shows that the server replies.
///
/// # Errors
/// No reply, or a reply that shows that the server answers no command at present.
pub(super) async fn ping(mut connection: MultiplexedConnection, limit: Duration) -> Result<(), LinkError> {
    let command = redis::cmd("PING");
    let reply = match timeout(limit, connection.send_packed_command(&command)).await {
        Ok(reply) => reply.and_then(Value::extract_error),
        Err(_) => return Err(LinkError::Unreachable(format!("no reply to PING within {limit:?}"))),
    };
    match reply {
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        reply => reply.map(|_| ()).map_err(LinkError::from),
    }
}

/// A timer that first fires after one interval, and does not make up for missed ticks.
pub(super) fn clock(interval: Duration) -> Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + interval, interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}
