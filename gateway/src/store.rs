//! Reads, writes and watches keys of one Redis deployment: sessions of applications, and keys of the gateway.
//!
//! Owns the connections, the batches of commands, and the knowledge of which watched keys have changed. Must never know
//! what a key means, or which clients depend on it. A key counts as missing only on a primary.
//!
//! - `key`, `error`, `settings`, `status`: the types that callers see
//! - `request`, `queue`: commands of callers, bounded; `batch`: one pipeline
//! - `request_link`: executes batches; `servers`: one server, or the primaries of a cluster
//! - `watch_table`: which watched keys are read again, and when; `watches`: the table, shared
//! - `tracking_link`: the connection on which Redis reports changed keys; `prefixes`: which keys it reports
//! - `ping`: whether a server replies

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

mod batch;
mod error;
mod key;
mod ping;
mod prefixes;
mod queue;
mod request;
mod request_link;
mod servers;
mod settings;
mod status;
mod tracking_link;
mod watch_table;
mod watches;

pub use error::StoreError;
pub use key::{KeyEvents, KeyType, KeyValue};
pub use settings::StoreSettings;
pub use status::{ServerRole, StoreMetrics, StoreStatus, TrackingMode};
pub use watches::WatchGuard;

use crate::drain::Drain;
use queue::{RequestSender, request_queue};
use request::{StoreReply, StoreRequest};
use request_link::RequestLink;
use status::LinkHealth;
use tracking_link::TrackingLink;
use watch_table::FirstRead;
use watches::Watches;

/// The keys of one Redis deployment.
#[derive(Debug)]
pub struct KeyStore {
    name: String,
    requests: RequestSender,
    watches: Arc<Watches>,
    health: Arc<LinkHealth>,
    metrics: Arc<StoreMetrics>,
}

impl KeyStore {
    /// Starts the links, which connect and reconnect until the gateway stops. Changes of watched keys go to `events`.
    pub fn start(settings: StoreSettings, drain: &Drain, events: Arc<dyn KeyEvents>) -> Arc<Self> {
        let name = settings.connection.name.clone();
        let settings = Arc::new(settings);
        let metrics = Arc::<StoreMetrics>::default();
        let health = Arc::new(LinkHealth::new());
        let watches = Arc::new(Watches::new(&settings, events, Arc::clone(&metrics)));
        let (requests, queue) = request_queue(&settings);
        let (connected, servers) = watch::channel(None);
        let request_link = RequestLink {
            settings: Arc::clone(&settings),
            queue,
            watches: Arc::clone(&watches),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            connected,
        };
        let tracking_link = TrackingLink {
            settings,
            watches: Arc::clone(&watches),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            connected: servers,
        };
        drain.spawn(request_link.run(drain.clone()));
        drain.spawn(tracking_link.run(drain.clone()));
        Arc::new(Self { name, requests, watches, health, metrics })
    }

    /// Reads a key, in one pipeline with the requests that arrive meanwhile. `None`: it does not exist.
    ///
    /// # Errors
    /// Redis is unavailable or rejects the command, the key has another type, or too many requests wait.
    pub async fn read(&self, key: &[u8], kind: KeyType) -> Result<Option<KeyValue>, StoreError> {
        let request = StoreRequest::Read { key: Bytes::copy_from_slice(key), kind, watch: None };
        self.call_for_value(request).await
    }

    /// Reads a key as [`KeyStore::read`], and watches it from this moment: every later change is reported. The value
    /// itself is not reported. A key that does not exist is watched, too.
    ///
    /// # Errors
    /// See [`KeyStore::read`].
    pub async fn read_and_watch(
        &self,
        key: &[u8],
        kind: KeyType,
    ) -> Result<(Option<KeyValue>, WatchGuard), StoreError> {
        self.read_and_watch_with_ttl(key, kind).await.map(|(value, _, guard)| (value, guard))
    }

    /// Reads and watches a key as [`KeyStore::read_and_watch`]. Also returns its TTL; `None` if it does not expire.
    ///
    /// # Errors
    /// See [`KeyStore::read`].
    pub async fn read_and_watch_with_ttl(
        &self,
        key: &[u8],
        kind: KeyType,
    ) -> Result<(Option<KeyValue>, Option<Duration>, WatchGuard), StoreError> {
        // Before the read, so that no change is missed.
        let guard = self.watches.watch(key, kind, FirstRead::ByCaller);
        let key = Bytes::copy_from_slice(key);
        let request = StoreRequest::Read { key, kind, watch: Some(guard.id()) };
        match self.call(request).await? {
            StoreReply::Watched(read) => Ok((read.value, read.expires_in, guard)),
            StoreReply::Value(_) | StoreReply::Changed(_) | StoreReply::Number(_) => Ok((None, None, guard)),
        }
    }

    /// Watches a key. Its present value is read and reported as a change, and then every later change. Several watchers
    /// of a key share one entry and one type.
    pub fn watch(&self, key: &[u8], kind: KeyType) -> WatchGuard {
        self.watches.watch(key, kind, FirstRead::ByTable)
    }

    /// Stores a string that expires after `ttl`.
    ///
    /// # Errors
    /// See [`KeyStore::read`]. After `Unavailable`, it may have been stored.
    pub async fn set(&self, key: &[u8], value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.call_for_change(StoreRequest::Set { key, value, ttl }).await.map(|_| ())
    }

    /// Deletes a key. Returns whether it existed.
    ///
    /// # Errors
    /// See [`KeyStore::read`]. After `Unavailable`, it may have been deleted.
    pub async fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.call_for_change(StoreRequest::Delete { key: Bytes::copy_from_slice(key) }).await
    }

    /// Extends the TTL of a key to `ttl`; never shortens it, and never sets one on a key without a TTL. Returns whether
    /// it was extended. Requires Redis 7.
    ///
    /// # Errors
    /// See [`KeyStore::read`]. After `Unavailable`, it may have been extended.
    pub async fn touch(&self, key: &[u8], ttl: Duration) -> Result<bool, StoreError> {
        self.call_for_change(StoreRequest::Touch { key: Bytes::copy_from_slice(key), ttl }).await
    }

    /// Executes a script with one key, which returns a string or nil. Redis executes it at once: of several callers on
    /// any node, one changes the key first.
    ///
    /// # Errors
    /// See [`KeyStore::read`]. After `Unavailable`, it may have been executed.
    pub async fn read_by_script(
        &self,
        key: &[u8],
        script: &'static str,
    ) -> Result<Option<Bytes>, StoreError> {
        let request = StoreRequest::ReadByScript { key: Bytes::copy_from_slice(key), script };
        let value = self.call_for_value(request).await?;
        Ok(value.and_then(|value| match value {
            KeyValue::Bytes(bytes) => Some(bytes),
            KeyValue::Hash(_) | KeyValue::Present | KeyValue::OtherType => None,
        }))
    }

    /// Runs a script that uses one key and returns an integer, in one step over all nodes.
    ///
    /// # Errors
    /// See [`KeyStore::read`]. After `Unavailable`, it may have run.
    pub async fn run(
        &self,
        script: &'static str,
        key: &[u8],
        arguments: Vec<Bytes>,
    ) -> Result<i64, StoreError> {
        let key = Bytes::copy_from_slice(key);
        match self.call(StoreRequest::Script { script, key, arguments }).await? {
            StoreReply::Number(number) => Ok(number),
            StoreReply::Value(_) | StoreReply::Watched(_) | StoreReply::Changed(_) => Ok(0),
        }
    }

    /// The name of the Redis instance, for logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present status.
    pub fn status(&self) -> StoreStatus {
        let (watched_keys, pending_endings) = self.watches.counts();
        let health = self.health.lock();
        StoreStatus {
            connected: health.connected,
            role: health.role,
            tracking: health.tracking.clone(),
            watched_keys,
            pending_endings,
            last_error: health.last_error.clone(),
        }
    }

    /// The counters.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    async fn call_for_value(&self, request: StoreRequest) -> Result<Option<KeyValue>, StoreError> {
        match self.call(request).await? {
            StoreReply::Value(value) => Ok(value),
            StoreReply::Watched(read) => Ok(read.value),
            StoreReply::Changed(_) | StoreReply::Number(_) => Ok(None),
        }
    }

    async fn call_for_change(&self, request: StoreRequest) -> Result<bool, StoreError> {
        match self.call(request).await? {
            StoreReply::Changed(is_changed) => Ok(is_changed),
            StoreReply::Value(_) | StoreReply::Watched(_) | StoreReply::Number(_) => Ok(false),
        }
    }

    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let (calls, errors) = if request.is_read() {
            (&self.metrics.reads, &self.metrics.read_errors)
        } else {
            (&self.metrics.writes, &self.metrics.write_errors)
        };
        calls.add(1);
        let reply = self.requests.call(request).await;
        if reply.is_err() {
            errors.add(1);
        }
        reply
    }
}
