//! The command link: publications of ours, in order, in pipelines.
//!
//! Owns the connection and the answers. Must never send anything twice: a publication that was on its way when the
//! connection broke may have been heard, so its caller is told that nobody knows.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, ServerError, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::dial::{Backoff, Dialer, Failure};
use super::outbox::{Answer, Inbox, Publish};
use super::ping::{clock, ping};
use super::settings::RedisSettings;
use super::status::LinkState;
use crate::broker::BrokerError;
use crate::drain::Drain;

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
        let mut backoff = Backoff::new(&self.settings);
        loop {
            let closed = Arc::new(Notify::new());
            let failure = match self.connect(closed.clone()).await {
                Some(Ok(connection)) => {
                    self.state.up();
                    let since = Instant::now();
                    let Err(failure) = self.serve(connection, &closed).await else { return };
                    // See the subscriber: one that is thrown out again must not hurry.
                    if since.elapsed() > self.settings.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Some(Err(failure)) => failure,
                None => return,
            };
            self.state.down(&failure);
            tokio::select! {
                () = tokio::time::sleep(backoff.next(&failure)) => {}
                () = self.inbox.expire() => return,
            }
        }
    }

    /// One attempt; `None` when nobody can publish any more.
    async fn connect(&mut self, closed: Arc<Notify>) -> Option<Result<MultiplexedConnection, Failure>> {
        // Without this an idle link would learn of its end from the next publication, which would be lost.
        let end = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        };
        tokio::select! {
            attempt = self.dialer.dial(end) => Some(attempt),
            () = self.inbox.expire() => None,
        }
    }

    /// Publishes until the connection fails (`Err`), or nobody can publish any more (`Ok`).
    async fn serve(&mut self, connection: MultiplexedConnection, closed: &Notify) -> Result<(), Failure> {
        let mut pings = clock(self.settings.ping_interval);
        loop {
            tokio::select! {
                biased;
                () = closed.notified() => {
                    return Err(Failure::Unreachable("the connection was closed".to_owned()));
                }
                some = self.inbox.ready() => {
                    if !some {
                        return Ok(());
                    }
                    publish(connection.clone(), self.inbox.batch()).await?;
                    pings.reset();
                }
                _ = pings.tick() => {
                    ping(connection.clone(), self.settings.ping_timeout).await?;
                }
            }
        }
    }
}

/// Publishes a batch in one pipeline and gives each caller its own answer.
async fn publish(mut connection: MultiplexedConnection, batch: VecDeque<Publish>) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for publish in &batch {
        pipeline.cmd("PUBLISH").arg(publish.channel.as_str()).arg(&publish.data[..]);
    }
    match connection.send_packed_commands(&pipeline, 0, batch.len()).await {
        Ok(values) => {
            for (publish, value) in batch.into_iter().zip(values) {
                publish.answer(judge(value));
            }
            Ok(())
        }
        Err(error) => {
            let failure = Failure::Unreachable(error.to_string());
            for publish in batch {
                publish.answer(Err(BrokerError::Unavailable(failure.to_string())));
            }
            Err(failure)
        }
    }
}

fn judge(value: Value) -> Answer {
    let Value::ServerError(error) = value else { return Ok(()) };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    if is_passing(&error) { Err(BrokerError::Unavailable(text)) } else { Err(BrokerError::Refused(text)) }
}

/// Whether an error will pass by itself.
fn is_passing(error: &ServerError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        Some(kind) => matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain),
        None => matches!(error.code(), "BUSY" | "MISCONF" | "OOM" | "NOREPLICAS"),
    }
}
