//! The command link: publications of ours, and what is asked of logs, in order, in pipelines.
//!
//! Owns the connection and the answers. Must never do anything twice: a publication that was on its way when the
//! connection broke may have been heard, so its caller is told that nobody knows. Only a script that the server
//! certainly did not run, because it did not know it, is sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error_reply::ErrorReply;
use super::log_script::{By, Loading};
use super::outbox::{Answer, Inbox, Request, Told, Waiting};
use super::ping::{clock, ping};
use super::settings::RedisSettings;
use super::status::LinkState;
use crate::broker::BrokerError;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, Dialer, FailoverWatch, LinkError};

/// The task of the link.
pub(super) struct Commands {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) dialer: Dialer,
    pub(super) state: Arc<LinkState>,
    pub(super) inbox: Inbox,
}

impl Commands {
    /// Keeps the link until the gateway stops.
    pub(super) async fn run(mut self, drain: Drain) {
        let state = self.state.clone();
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.keep() => {}
        }
        state.stopped();
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::new(&self.settings.instance);
        loop {
            let closed = Arc::new(Notify::new());
            let failure = match self.connect(closed.clone()).await {
                Some(Ok((connection, watch))) => {
                    let number = self.state.up();
                    let since = Instant::now();
                    let Err(failure) = self.serve(number, connection, watch, &closed).await else { return };
                    // See the subscriber: one that is thrown out again must not hurry.
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
                () = self.inbox.expire() => return,
            }
        }
    }

    /// One attempt; `None` when nobody can ask any more.
    async fn connect(
        &mut self,
        closed: Arc<Notify>,
    ) -> Option<Result<(MultiplexedConnection, FailoverWatch), LinkError>> {
        // Without this an idle link would learn of its end from the next publication, which would be lost.
        let end = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        };
        tokio::select! {
            attempt = self.dialer.dial_watched(end) => Some(attempt),
            () = self.inbox.expire() => None,
        }
    }

    /// Asks until the connection fails (`Err`), or nobody can ask any more (`Ok`). `number`: of the connection.
    async fn serve(
        &mut self,
        number: u64,
        connection: MultiplexedConnection,
        mut watch: FailoverWatch,
        closed: &Notify,
    ) -> Result<(), LinkError> {
        let mut pings = clock(self.settings.ping_interval);
        let mut scripts = Loading::default();
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
                // Before the requests: while all of them are answered with errors, PING decides.
                _ = pings.tick() => {
                    ping(connection.clone(), self.settings.ping_timeout).await?;
                }
                some = self.inbox.ready() => {
                    if !some {
                        return Ok(());
                    }
                    if carry_out(connection.clone(), &mut scripts, self.inbox.batch()).await? {
                        pings.reset();
                    }
                }
            }
        }
    }
}

/// Carries out a batch and gives each caller its own answer. Returns whether any of the replies is no error.
async fn carry_out(
    mut connection: MultiplexedConnection,
    scripts: &mut Loading,
    batch: VecDeque<Waiting>,
) -> Result<bool, LinkError> {
    if batch.iter().any(|waiting| matches!(waiting.request, Request::Script(_)))
        && let Err(failure) = scripts.load(&mut connection).await
    {
        return Err(fail(batch, failure));
    }
    // Scripts that the server has forgotten (`SCRIPT FLUSH`) come after publications of the same batch; their own
    // order stays.
    let (unknown, is_served) = send(&mut connection, By::Hash, batch).await?;
    let (forgotten_again, is_served_again) = send(&mut connection, By::Text, unknown).await?;
    for waiting in forgotten_again {
        waiting.answer(Err(BrokerError::Unavailable("Redis knows no script".to_owned())));
    }
    Ok(is_served || is_served_again)
}

/// Sends a batch in one pipeline, and gives back those whose script the server does not know, and whether any of the
/// replies is no error.
async fn send(
    connection: &mut MultiplexedConnection,
    by: By,
    mut batch: VecDeque<Waiting>,
) -> Result<(VecDeque<Waiting>, bool), LinkError> {
    batch.retain(|waiting| !waiting.is_late());
    if batch.is_empty() {
        return Ok((batch, false));
    }
    let mut pipeline = Pipeline::with_capacity(batch.len());
    batch.iter().for_each(|waiting| waiting.request.write(by, &mut pipeline));
    match connection.send_packed_commands(&pipeline, 0, batch.len()).await {
        Ok(values) => {
            let is_served = values.iter().any(|value| !matches!(value, Value::ServerError(_)));
            Ok((answer_all(batch, values), is_served))
        }
        Err(error) => Err(fail(batch, LinkError::Unreachable(error.to_string()))),
    }
}

fn answer_all(batch: VecDeque<Waiting>, values: Vec<Value>) -> VecDeque<Waiting> {
    let mut unknown = VecDeque::new();
    for (waiting, value) in batch.into_iter().zip(values) {
        if is_unknown_script(&value) {
            unknown.push_back(waiting);
        } else {
            waiting.answer(judge(value));
        }
    }
    unknown
}

/// Tells everybody in a batch that nobody knows what became of it.
pub(super) fn fail(batch: VecDeque<Waiting>, failure: LinkError) -> LinkError {
    for waiting in batch {
        waiting.answer(Err(BrokerError::Unavailable(failure.to_string())));
    }
    failure
}

pub(super) fn is_unknown_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

pub(super) fn judge(value: Value) -> Answer {
    let error = match value {
        Value::ServerError(error) => error,
        answer => return Ok(Told::Value(answer)),
    };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    match ErrorReply::of(&text) {
        ErrorReply::Passing => Err(BrokerError::Unavailable(text)),
        ErrorReply::Forbidden | ErrorReply::UnknownCommand | ErrorReply::Rejected => {
            Err(BrokerError::Refused(text))
        }
    }
}
