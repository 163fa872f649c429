//! The link for reads and writes: batches of commands follow each other on one connection per server.
//!
//! Owns the lifecycle of the connections: they begin and end together. Uses RESP2, so that it works where tracking does
//! not.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::Batch;
use super::ping::clock;
use super::queue::RequestQueue;
use super::servers::{ServerDialer, Servers};
use super::settings::StoreSettings;
use super::status::{LinkHealth, ServerRole, StoreMetrics};
use super::watches::Watches;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, ConnectConfig, FailoverWatch, LinkError};

/// Watched keys in one batch.
const REREADS_MAX: usize = 128;

/// The servers that the link is connected to.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    /// Differs between connections.
    pub(super) number: u64,
    /// How to connect to each server.
    pub(super) targets: Arc<Vec<ConnectConfig>>,
}

/// The task of the link.
pub(super) struct RequestLink {
    pub(super) settings: Arc<StoreSettings>,
    pub(super) queue: RequestQueue,
    pub(super) watches: Arc<Watches>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) metrics: Arc<StoreMetrics>,
    pub(super) connected: watch::Sender<Option<Connected>>,
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
        let dialer = ServerDialer::new(Arc::clone(&self.settings));
        let mut backoff = Backoff::new(&self.settings.connection);
        let mut number = 0;
        loop {
            let dialed = tokio::select! {
                dialed = Box::pin(dialer.dial()) => dialed,
                () = self.queue.expire() => return,
            };
            let failure = match dialed {
                Ok((servers, watch)) => {
                    number += 1;
                    let since = Instant::now();
                    self.on_up(Connected { number, targets: servers.targets() });
                    let failure = Box::pin(self.serve(&servers, watch)).await;
                    self.on_down();
                    // A connection that is closed soon after it was accepted must not reset the backoff.
                    if since.elapsed() > self.settings.connection.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Err(failure) => failure,
            };
            self.report(&failure);
            tokio::select! {
                () = dialer.wait_before_retry(backoff.next(&failure)) => {}
                () = self.queue.expire() => return,
            }
        }
    }

    fn on_up(&self, connected: Connected) {
        self.health.lock().connected = true;
        self.connected.send_replace(Some(connected));
        self.watches.start_full_reread();
        tracing::info!(instance = %self.settings.connection.name, "the key store is connected");
    }

    fn on_down(&self) {
        let mut health = self.health.lock();
        health.connected = false;
        health.role = ServerRole::Unknown;
        drop(health);
        self.metrics.link_failures.add(1);
        self.watches.on_failure();
        self.connected.send_replace(None);
    }

    fn report(&self, failure: &LinkError) {
        let text = failure.to_string();
        let mut health = self.health.lock();
        if health.last_error != text {
            tracing::warn!(instance = %self.settings.connection.name, cause = %text, "the key store is not connected");
            health.last_error = text;
        }
    }

    /// Executes batches until a connection fails.
    async fn serve(&mut self, servers: &Servers, mut watch: FailoverWatch) -> LinkError {
        let mut checks = clock(self.settings.ping_interval);
        loop {
            let done = tokio::select! {
                biased;
                moved = &mut watch => Err(moved),
                _ = checks.tick() => servers.check().await,
                () = self.queue.ready() => self.execute(servers).await,
                () = self.watches.due() => self.execute(servers).await,
            };
            if let Err(failure) = done {
                return failure;
            }
        }
    }

    /// Executes the requests that wait, and reads watched keys that are due.
    async fn execute(&mut self, servers: &Servers) -> Result<(), LinkError> {
        let mut batches: Vec<Batch> = (0..servers.len()).map(|_| Batch::default()).collect();
        let mut unserved = Batch::default();
        for queued in self.queue.batch() {
            let batch = servers.index_of(queued.request.key()).map_or(&mut unserved, |at| &mut batches[at]);
            batch.requests.push(queued);
        }
        for reread in self.watches.next_reads(REREADS_MAX) {
            let batch = servers.index_of(&reread.key).map_or(&mut unserved, |at| &mut batches[at]);
            batch.rereads.push(reread);
        }
        unserved.fail(&self.watches, "no connected node of the cluster owns the slot of the key");
        let executions = batches
            .into_iter()
            .enumerate()
            .filter(|(_, batch)| !batch.is_empty())
            .map(|(at, batch)| batch.execute(servers.connection(at), &self.watches, &self.health));
        join_all(executions).await.into_iter().collect()
    }
}
