//! The tracking link: one RESP3 connection per server, on which Redis reports changed keys.
//!
//! Owns the mode: without this link, watched keys are read at an interval. Must never stay connected to other servers
//! than the link for reads: it is connected after that link, and ends with it.

use std::sync::Arc;

use futures::future::{select_all, try_join_all};
use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ping::{clock, ping};
use super::request_link::Connected;
use super::settings::StoreSettings;
use super::status::{LinkHealth, StoreMetrics, TrackingMode};
use super::watches::Watches;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, ConnectConfig, Dialer, FailoverWatch, LinkError, server_message};

/// The task of the link.
pub(super) struct TrackingLink {
    pub(super) settings: Arc<StoreSettings>,
    pub(super) watches: Arc<Watches>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) metrics: Arc<StoreMetrics>,
    /// The servers of the link for reads.
    pub(super) connected: watch::Receiver<Option<Connected>>,
}

impl TrackingLink {
    /// Maintains the link until the gateway stops.
    pub(super) async fn run(mut self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.maintain() => {}
        }
    }

    async fn maintain(&mut self) {
        if self.watches.prefixes().is_empty() {
            // No warning: the store is not used for keys that are watched.
            let reason = "no prefix of keys is configured".to_owned();
            self.health.lock().tracking = TrackingMode::Sweep { reason };
            return;
        }
        let mut backoff = Backoff::new(&self.settings.connection);
        loop {
            // An error means that the other link has ended, and the gateway stops.
            let Ok(connected) = self.connected.wait_for(Option::is_some).await.map(|found| found.clone())
            else {
                return;
            };
            let Some(Connected { number, targets }) = connected else { continue };
            let closed = Arc::new(Notify::new());
            let attempts = targets.iter().map(|target| self.connect(target, Arc::clone(&closed)));
            let failure = match Box::pin(try_join_all(attempts)).await {
                Ok(connections) => {
                    let since = Instant::now();
                    self.on_up();
                    let failure = Box::pin(self.serve(connections, &closed, number)).await;
                    self.on_down(&failure);
                    if since.elapsed() > self.settings.connection.retry_max {
                        backoff.reset();
                    }
                    failure
                }
                Err(failure) => {
                    self.sweep(failure.to_string());
                    failure
                }
            };
            tokio::time::sleep(backoff.next(&failure)).await;
        }
    }

    async fn connect(
        &self,
        target: &ConnectConfig,
        closed: Arc<Notify>,
    ) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
        let receiver = InvalidationReceiver { watches: Arc::clone(&self.watches), closed };
        let dialer = Dialer::new(target, "tracking");
        let (mut connection, watch) = dialer.dial_watched(receiver).await?;
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in self.watches.prefixes().iter().filter(|prefix| !prefix.is_empty()) {
            command.arg("PREFIX").arg(&prefix[..]);
        }
        let reply = connection.send_packed_command(&command).await.and_then(Value::extract_error);
        match reply {
            Ok(_) => Ok((connection, watch)),
            Err(error) if error.is_io_error() || error.is_timeout() => Err(error.into()),
            Err(error) => Err(LinkError::Rejected(format!("CLIENT TRACKING: {}", server_message(&error)))),
        }
    }

    /// Waits until a connection fails, or the other link's connection is no longer `number`.
    async fn serve(
        &mut self,
        connections: Vec<(MultiplexedConnection, FailoverWatch)>,
        closed: &Notify,
        number: u64,
    ) -> LinkError {
        let (connections, watches): (Vec<_>, Vec<_>) = connections.into_iter().unzip();
        let mut watch = select_all(watches);
        let mut pings = clock(self.settings.ping_interval);
        let limit = self.settings.ping_timeout;
        loop {
            let checked = tokio::select! {
                biased;
                () = closed.notified() => {
                    Err(LinkError::Unreachable("the tracking connection was closed".to_owned()))
                }
                () = ended(&mut self.connected, number) => {
                    Err(LinkError::Unreachable("the connection for reads was closed".to_owned()))
                }
                (moved, _, _) = &mut watch => Err(moved),
                _ = pings.tick() => {
                    let pings = connections.iter().map(|connection| ping(connection.clone(), limit));
                    try_join_all(pings).await.map(|_| ())
                }
            };
            if let Err(failure) = checked {
                return failure;
            }
        }
    }

    fn on_up(&self) {
        let before = std::mem::replace(&mut self.health.lock().tracking, TrackingMode::Active);
        self.watches.set_tracked(true);
        tracing::info!(instance = %self.settings.connection.name, ?before, "Redis reports changes of watched keys");
    }

    fn on_down(&self, failure: &LinkError) {
        self.metrics.tracking_failures.add(1);
        self.watches.on_failure();
        self.watches.set_tracked(false);
        self.sweep(failure.to_string());
    }

    /// Shows why watched keys are read at an interval.
    fn sweep(&self, reason: String) {
        let mode = TrackingMode::Sweep { reason };
        let mut health = self.health.lock();
        if health.tracking != mode {
            tracing::warn!(
                instance = %self.settings.connection.name,
                ?mode,
                interval = ?self.settings.sweep_interval,
                "Redis does not report changes of watched keys: they are read at an interval"
            );
            health.tracking = mode;
        }
    }
}

/// Resolves when the connection for reads has been replaced.
async fn ended(connected: &mut watch::Receiver<Option<Connected>>, number: u64) {
    let is_other = |connected: &Option<Connected>| connected.as_ref().is_none_or(|now| now.number != number);
    let _ = connected.wait_for(is_other).await;
}

/// Passes invalidations to the watched keys.
struct InvalidationReceiver {
    watches: Arc<Watches>,
    closed: Arc<Notify>,
}

impl AsyncPushSender for InvalidationReceiver {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match push.kind {
            PushKind::Invalidate => match push.data.first() {
                Some(Value::Array(keys)) => self.watches.on_invalidations(keys.iter().filter_map(key)),
                // No keys stand for all keys.
                _ => self.watches.on_flush(),
            },
            PushKind::Disconnection => self.closed.notify_one(),
            // Nothing is subscribed.
            _ => {}
        }
        Ok(())
    }
}

fn key(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(key) => Some(key),
        _ => None,
    }
}
