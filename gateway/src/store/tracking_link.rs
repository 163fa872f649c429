//! The tracking link: one RESP3 connection, on which Redis reports changed keys.
//!
//! Owns the mode: without this link, watched keys are read at an interval. Must never stay connected to another server
//! than the link for reads: it is connected after that link, and ends with it.

use std::sync::Arc;

use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ping::{clock, ping};
use super::settings::StoreSettings;
use super::status::{LinkHealth, StoreMetrics, TrackingMode};
use super::watches::Watches;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, Dialer, FailoverWatch, LinkError, server_message};

/// The task of the link.
pub(super) struct TrackingLink {
    pub(super) settings: Arc<StoreSettings>,
    pub(super) watches: Arc<Watches>,
    pub(super) health: Arc<LinkHealth>,
    pub(super) metrics: Arc<StoreMetrics>,
    /// The number of the current connection for reads.
    pub(super) connections: watch::Receiver<Option<u64>>,
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
            self.sweep("no prefix of keys is configured".to_owned());
            return;
        }
        let dialer = Dialer::new(&self.settings.connection, "tracking");
        let mut backoff = Backoff::new(&self.settings.connection);
        loop {
            // An error means that the other link has ended, and the gateway stops.
            let Ok(number) = self.connections.wait_for(Option::is_some).await.map(|number| *number) else {
                return;
            };
            let closed = Arc::new(Notify::new());
            let failure = match self.connect(&dialer, Arc::clone(&closed)).await {
                Ok((connection, watch)) => {
                    let since = Instant::now();
                    self.on_up();
                    let failure = self.serve(connection, watch, &closed, number).await;
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
            dialer.wait_before_retry(backoff.next(&failure)).await;
        }
    }

    async fn connect(
        &self,
        dialer: &Dialer,
        closed: Arc<Notify>,
    ) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
        let receiver = InvalidationReceiver { watches: Arc::clone(&self.watches), closed };
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

    /// Waits until the connection fails, or the other link has another connection than `number`.
    async fn serve(
        &mut self,
        connection: MultiplexedConnection,
        mut watch: FailoverWatch,
        closed: &Notify,
        number: Option<u64>,
    ) -> LinkError {
        let mut pings = clock(self.settings.ping_interval);
        loop {
            let checked = tokio::select! {
                biased;
                () = closed.notified() => {
                    Err(LinkError::Unreachable("the tracking connection was closed".to_owned()))
                }
                () = ended(&mut self.connections, number) => {
                    Err(LinkError::Unreachable("the connection for reads was closed".to_owned()))
                }
                moved = &mut watch => Err(moved),
                _ = pings.tick() => ping(connection.clone(), self.settings.ping_timeout).await,
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

/// Resolves when the connection for reads is another one.
async fn ended(connections: &mut watch::Receiver<Option<u64>>, number: Option<u64>) {
    let _ = connections.wait_for(|current| *current != number).await;
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
