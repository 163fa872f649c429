//! The link for reads and writes: one connection, on which batches of commands follow each other.
//!
//! Owns the connection. Must never execute a write twice: the outcome of a write in flight when the connection breaks
//! is unknown, so its caller gets an error. Uses RESP2, so that it works where tracking does not.

use std::sync::Arc;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{Pipeline, PushInfo, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{ErrorScope, StoreError};
use super::ping::{clock, ping};
use super::queue::{QueuedRequest, RequestQueue};
use super::request::{
    StoreReply, StoreRequest, WatchedValue, parse_role, parse_watched_read, write_watched_read,
};
use super::settings::StoreSettings;
use super::status::{LinkHealth, ServerRole, StoreMetrics};
use super::watch_table::Reread;
use super::watches::Watches;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, Dialer, FailoverWatch, LinkError};

/// Watched keys in one pipeline.
const REREADS_MAX: usize = 256;

/// The task of the link.
pub(super) struct RequestLink {
    pub(super) settings: Arc<StoreSettings>,
    pub(super) queue: RequestQueue,
    pub(super) watches: Arc<Watches>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) metrics: Arc<StoreMetrics>,
    /// The number of the current connection, or `None`.
    pub(super) connections: watch::Sender<Option<u64>>,
}

impl RequestLink {
    /// Maintains the link until the gateway stops.
    pub(super) async fn run(mut self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.maintain() => {}
        }
    }

    async fn maintain(&mut self) {
        let dialer = Dialer::new(&self.settings.connection, "keys").with_resp2();
        let mut backoff = Backoff::new(&self.settings.connection);
        let mut number = 0;
        loop {
            let dialed = tokio::select! {
                dialed = dial(&dialer, &self.settings) => dialed,
                () = self.queue.expire() => return,
            };
            let failure = match dialed {
                Ok((connection, watch)) => {
                    number += 1;
                    let since = Instant::now();
                    self.on_up(number);
                    let failure = self.serve(connection, watch).await;
                    self.on_down();
                    // A connection that is closed soon after it was accepted must not reset the backoff.
                    if since.elapsed() > self.settings.connection.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Err(failure) => failure,
            };
            self.on_failure(&failure);
            tokio::select! {
                () = dialer.wait_before_retry(backoff.next(&failure)) => {}
                () = self.queue.expire() => return,
            }
        }
    }

    fn on_up(&self, number: u64) {
        self.health.lock().connected = true;
        self.connections.send_replace(Some(number));
        self.watches.start_full_reread();
        tracing::debug!(instance = %self.settings.connection.name, "the key store is connected");
    }

    fn on_down(&self) {
        let mut health = self.health.lock();
        health.connected = false;
        health.role = ServerRole::Unknown;
        drop(health);
        self.metrics.link_failures.add(1);
        self.watches.on_failure();
        self.connections.send_replace(None);
    }

    fn on_failure(&self, failure: &LinkError) {
        let text = failure.to_string();
        let mut health = self.health.lock();
        if health.last_error != text {
            tracing::warn!(instance = %self.settings.connection.name, cause = %text, "the key store is not connected");
            health.last_error = text;
        }
    }

    /// Executes batches until the connection fails.
    async fn serve(&mut self, connection: MultiplexedConnection, mut watch: FailoverWatch) -> LinkError {
        let mut pings = clock(self.settings.ping_interval);
        loop {
            let done = tokio::select! {
                biased;
                moved = &mut watch => Err(moved),
                _ = pings.tick() => ping(connection.clone(), self.settings.ping_timeout).await,
                () = self.queue.ready() => {
                    pings.reset();
                    self.execute(connection.clone()).await
                }
                () = self.watches.due() => {
                    pings.reset();
                    self.execute(connection.clone()).await
                }
            };
            if let Err(failure) = done {
                return failure;
            }
        }
    }

    /// Executes one batch: requests of callers, and watched keys that are due.
    async fn execute(&mut self, mut connection: MultiplexedConnection) -> Result<(), LinkError> {
        let requests = self.queue.batch();
        let rereads = self.watches.next_reads(REREADS_MAX);
        let mut pipeline = Pipeline::with_capacity(requests.len() + 2 * rereads.len() + 1);
        requests.iter().for_each(|queued| queued.request.write(&mut pipeline));
        rereads.iter().for_each(|reread| write_watched_read(&mut pipeline, &reread.key, reread.kind));
        let has_watched =
            !rereads.is_empty() || requests.iter().any(|queued| queued.request.watch().is_some());
        if has_watched {
            // After the reads: a server that is a primary now had its present data before.
            pipeline.cmd("ROLE");
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        let commands = pipeline.len();
        let sent = connection.send_packed_commands(&pipeline, 0, commands).await;
        let mut replies = match sent {
            Ok(replies) if replies.len() == commands => replies,
            Ok(_) => return Err(self.fail(requests, rereads, "replies are missing")),
            Err(error) => return Err(self.fail(requests, rereads, &error.to_string())),
        };
        let mut role = ServerRole::Unknown;
        if has_watched {
            role = replies.pop().as_ref().map_or(ServerRole::Unknown, parse_role);
            self.health.lock().role = role;
        }
        let mut server_error = None;
        let mut replies = replies.into_iter();
        for queued in requests {
            self.complete(queued, &mut replies, role, &mut server_error);
        }
        for reread in rereads {
            let read = next_watched_read(&reread, &mut replies);
            note(&read, &mut server_error);
            let read = read.map_err(|(error, _)| error);
            self.watches.on_read(&reread, read.as_ref(), role);
        }
        server_error.map_or(Ok(()), Err)
    }

    /// Answers a caller with the next replies.
    fn complete(
        &self,
        queued: QueuedRequest,
        replies: &mut impl Iterator<Item = Value>,
        role: ServerRole,
        server_error: &mut Option<LinkError>,
    ) {
        let reply = replies.next().unwrap_or_default();
        let answer = match (&queued.request, queued.request.watch()) {
            (StoreRequest::Read { kind, .. }, Some(id)) => {
                let read = parse_watched_read(*kind, reply, &replies.next().unwrap_or_default());
                note(&read, server_error);
                let read = read.map_err(|(error, _)| error);
                self.watches.on_caller_read(id, read.as_ref(), role);
                read.map(|read| StoreReply::Value(read.value))
            }
            (request, _) => {
                let parsed = request.parse(reply);
                note(&parsed, server_error);
                parsed.map_err(|(error, _)| error)
            }
        };
        queued.answer(answer);
    }

    /// Fails a batch whose outcome is unknown.
    fn fail(&self, requests: Vec<QueuedRequest>, rereads: Vec<Reread>, cause: &str) -> LinkError {
        let error = StoreError::Unavailable(cause.to_owned());
        for reread in rereads {
            self.watches.on_read(&reread, Err(&error), ServerRole::Unknown);
        }
        for queued in requests {
            queued.answer(Err(error.clone()));
        }
        LinkError::Unreachable(cause.to_owned())
    }
}

type Parsed<T> = Result<T, (StoreError, ErrorScope)>;

fn next_watched_read(reread: &Reread, replies: &mut impl Iterator<Item = Value>) -> Parsed<WatchedValue> {
    let (value, ttl) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
    parse_watched_read(reread.kind, value, &ttl)
}

/// Keeps the error of a server that answers no command: the connection is then closed, and the next one waits.
fn note<T>(parsed: &Parsed<T>, server_error: &mut Option<LinkError>) {
    let Err((error, ErrorScope::Server)) = parsed else { return };
    *server_error = Some(match error {
        StoreError::Rejected(text) => LinkError::Rejected(text.clone()),
        other => LinkError::Unreachable(other.to_string()),
    });
}

async fn dial(
    dialer: &Dialer,
    settings: &StoreSettings,
) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
    let ignore_pushes = |_: PushInfo| Ok::<_, SendError>(());
    let (connection, watch) = dialer.dial_watched(ignore_pushes).await?;
    // A server without a password, and one that loads its data, are only rejected here.
    ping(connection.clone(), settings.ping_timeout).await?;
    Ok((connection, watch))
}
