//! The command link: publications and log scripts, in order, in pipelines.
//!
//! Owns the connection and the replies. Must never execute a command twice: a publication in flight when the connection
//! breaks may have been delivered, so its caller gets an error. Only a script that the server rejected as unknown is
//! sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::command_queue::{CommandQueue, CommandReply, CommandResult, QueuedCommand, RedisRequest};
use super::error_reply::ErrorReply;
use super::ping::{clock, ping};
use super::scripts::{ScriptCache, ScriptRef};
use super::settings::RedisSettings;
use super::status::LinkState;
use crate::broker::BrokerError;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, Dialer, FailoverWatch, LinkError};

/// The task of the link.
pub(super) struct CommandLink {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) dialer: Dialer,
    pub(super) state: Arc<LinkState>,
    pub(super) command_queue: CommandQueue,
}

impl CommandLink {
    /// Maintains the link until the gateway stops.
    pub(super) async fn run(mut self, drain: Drain) {
        let state = self.state.clone();
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.maintain() => {}
        }
        state.stopped();
    }

    async fn maintain(&mut self) {
        let mut backoff = Backoff::new(&self.settings.instance);
        loop {
            let closed = Arc::new(Notify::new());
            let failure = match self.connect(closed.clone()).await {
                Some(Ok((connection, watch))) => {
                    let number = self.state.up();
                    let since = Instant::now();
                    let Err(failure) = self.serve(number, connection, watch, &closed).await else { return };
                    // As in the subscriber link: a connection that is closed soon must not reset the backoff.
                    if since.elapsed() > self.settings.instance.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Some(Err(failure)) => failure,
                None => return,
            };
            self.state.down(&failure);
            tokio::select! {
                () = self.dialer.wait_before_retry(backoff.next(&failure)) => {}
                () = self.command_queue.run_offline() => return,
            }
        }
    }

    /// Connects; `None` after all senders are dropped.
    async fn connect(
        &mut self,
        closed: Arc<Notify>,
    ) -> Option<Result<(MultiplexedConnection, FailoverWatch), LinkError>> {
        // Otherwise an idle link would detect its end only by the next publication, which would be lost.
        let end = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        };
        tokio::select! {
            attempt = self.dialer.dial_watched(end) => Some(attempt),
            () = self.command_queue.run_offline() => None,
        }
    }

    /// Sends commands until connection `number` fails (`Err`) or all senders are dropped (`Ok`).
    async fn serve(
        &mut self,
        number: u64,
        connection: MultiplexedConnection,
        mut watch: FailoverWatch,
        closed: &Notify,
    ) -> Result<(), LinkError> {
        let mut pings = clock(self.settings.ping_interval);
        let mut scripts = ScriptCache::default();
        loop {
            tokio::select! {
                biased;
                () = closed.notified() => {
                    return Err(LinkError::Unreachable("the connection was closed".to_owned()));
                }
                moved = &mut watch => return Err(moved),
                () = self.state.reconnect_requested(number) => {
                    let cause = "probes over this connection are rejected or do not reach the subscription: reconnecting";
                    return Err(LinkError::Unreachable(cause.to_owned()));
                }
                // Before the commands: while all of them get error replies, PING decides.
                _ = pings.tick() => {
                    ping(connection.clone(), self.settings.ping_timeout).await?;
                }
                some = self.command_queue.ready() => {
                    if !some {
                        return Ok(());
                    }
                    if execute(connection.clone(), &mut scripts, self.command_queue.batch()).await? {
                        pings.reset();
                    }
                }
            }
        }
    }
}

/// Executes a batch and returns a result to each caller. Returns whether any of the replies is not an error.
async fn execute(
    mut connection: MultiplexedConnection,
    scripts: &mut ScriptCache,
    batch: VecDeque<QueuedCommand>,
) -> Result<bool, LinkError> {
    if batch.iter().any(|queued| matches!(queued.request, RedisRequest::Script(_)))
        && let Err(failure) = scripts.load(&mut connection).await
    {
        return Err(fail_all(batch, failure));
    }
    // Scripts that the server has dropped (`SCRIPT FLUSH`) run after the publications of the same batch, in their own
    // order.
    let (unknown, is_served) = send(&mut connection, ScriptRef::Hash, batch).await?;
    let (forgotten_again, is_served_again) = send(&mut connection, ScriptRef::Text, unknown).await?;
    for queued in forgotten_again {
        queued.answer(Err(BrokerError::Unavailable("NOSCRIPT after reload".to_owned())));
    }
    Ok(is_served || is_served_again)
}

/// Sends a batch in one pipeline. Returns the commands whose script is unknown, and whether any of the replies is not
/// an error.
async fn send(
    connection: &mut MultiplexedConnection,
    by: ScriptRef,
    mut batch: VecDeque<QueuedCommand>,
) -> Result<(VecDeque<QueuedCommand>, bool), LinkError> {
    batch.retain(|queued| !queued.is_expired());
    if batch.is_empty() {
        return Ok((batch, false));
    }
    let mut pipeline = Pipeline::with_capacity(batch.len());
    batch.iter().for_each(|queued| queued.request.write(by, &mut pipeline));
    match connection.send_packed_commands(&pipeline, 0, batch.len()).await {
        Ok(values) => {
            let is_served = values.iter().any(|value| !matches!(value, Value::ServerError(_)));
            Ok((answer_all(batch, values), is_served))
        }
        Err(error) => Err(fail_all(batch, LinkError::Unreachable(error.to_string()))),
    }
}

fn answer_all(batch: VecDeque<QueuedCommand>, values: Vec<Value>) -> VecDeque<QueuedCommand> {
    let mut unknown = VecDeque::new();
    for (queued, value) in batch.into_iter().zip(values) {
        if is_unknown_script(&value) {
            unknown.push_back(queued);
        } else {
            queued.answer(to_result(value));
        }
    }
    unknown
}

/// Fails every command of a batch whose outcome is unknown.
pub(super) fn fail_all(batch: VecDeque<QueuedCommand>, failure: LinkError) -> LinkError {
    for queued in batch {
        queued.answer(Err(BrokerError::Unavailable(failure.to_string())));
    }
    failure
}

pub(super) fn is_unknown_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

pub(super) fn to_result(value: Value) -> CommandResult {
    let error = match value {
        Value::ServerError(error) => error,
        answer => return Ok(CommandReply::Value(answer)),
    };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    match ErrorReply::of(&text) {
        ErrorReply::Passing => Err(BrokerError::Unavailable(text)),
        ErrorReply::Forbidden | ErrorReply::UnknownCommand | ErrorReply::Rejected => {
            Err(BrokerError::Rejected(text))
        }
    }
}
