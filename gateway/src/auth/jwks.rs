//! Key sets that an identity provider publishes (JWKS, RFC 7517), and the verification of tokens with them.
//!
//! - The URL comes from the configuration, never from a token, and uses TLS ([`HttpUrl`](crate::http_client::HttpUrl)).
//! - One task reads the set ([`JwksVerifier::run`]): at start, early before it expires, and when a token names an
//!   unknown key. All tokens that wait share one read. Reads for unknown keys have a minimum interval, and a key
//!   that is still missing afterwards is remembered as missing for a while.
//! - While the server does not answer, the last set is used, at most [`JwksSettings::stale_max`]. A token whose key is
//!   not in that set then fails with [`TokenError::KeysUnavailable`], which is temporary.

mod cache;
mod document;
mod error;
mod fetcher;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::UnixSeconds;
use super::jwt::{ConnectionClaims, JwtVerifier, KeySet, SubscriptionClaims, TokenError};
use cache::{JwksCache, KeyLookup};

pub use cache::JwksSettings;
pub use error::{JwksError, JwksSettingsError};
pub use fetcher::{FETCH_TIMEOUT, FetchKeySet, FetchedKeySet, HttpKeySetFetcher};

/// The maximum time that a token waits for its key.
const WAIT_MAX: Duration = FETCH_TIMEOUT.saturating_add(Duration::from_secs(1));

/// Verifies tokens with a published key set, in addition to the configured keys.
#[derive(Debug)]
pub struct JwksVerifier {
    cache: Mutex<JwksCache>,
    snapshot: watch::Sender<Snapshot>,
    fetcher: Box<dyn FetchKeySet>,
    /// A read may be due.
    wake: Notify,
}

/// The keys and rules that currently verify tokens.
#[derive(Clone, Debug)]
struct Snapshot {
    verifier: JwtVerifier,
    /// How many reads have ended.
    reads: u64,
}

/// The state of the key set, for health reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwksStatus {
    /// The number of keys; 0 before the first successful read.
    pub keys: usize,
    /// How many reads have failed since the last successful one.
    pub failures: u32,
}

impl JwksVerifier {
    /// A verifier that has no published keys until [`JwksVerifier::run`] has read them.
    ///
    /// # Errors
    /// [`JwksSettingsError::Unbound`] if the rules require neither an issuer nor an audience.
    pub fn new(
        verifier: &JwtVerifier,
        settings: JwksSettings,
        fetcher: Box<dyn FetchKeySet>,
    ) -> Result<Self, JwksSettingsError> {
        if verifier.rules().issuer.is_none() && verifier.rules().audiences.is_empty() {
            return Err(JwksSettingsError::Unbound);
        }
        let verifier = verifier.with_remote_keys(Arc::new(KeySet::default()));
        Ok(Self {
            cache: Mutex::new(JwksCache::new(settings, Instant::now())),
            snapshot: watch::Sender::new(Snapshot { verifier, reads: 0 }),
            fetcher,
            wake: Notify::new(),
        })
    }

    /// Replaces rules and keys of the configuration. The published keys remain.
    pub fn replace_verifier(&self, verifier: &JwtVerifier) {
        let keys = self.published_keys();
        self.snapshot.send_modify(|snapshot| snapshot.verifier = verifier.with_remote_keys(keys));
    }

    /// The state of the key set.
    pub fn status(&self) -> JwksStatus {
        let cache = self.cache();
        let keys = cache.keys(Instant::now()).map_or(0, |keys| keys.keys().len());
        JwksStatus { keys, failures: cache.failures() }
    }

    /// Verifies a connection token, if necessary after the key set has been read again.
    ///
    /// # Errors
    /// See [`JwtVerifier::verify`]; [`TokenError::KeysUnavailable`] if the key set cannot be read.
    pub async fn verify(&self, token: &str, now: UnixSeconds) -> Result<ConnectionClaims, TokenError> {
        self.verify_with(|verifier| verifier.verify(token, now)).await
    }

    /// Verifies a subscription token, if necessary after the key set has been read again.
    ///
    /// # Errors
    /// See [`JwksVerifier::verify`].
    pub async fn verify_subscription(
        &self,
        token: &str,
        now: UnixSeconds,
    ) -> Result<SubscriptionClaims, TokenError> {
        self.verify_with(|verifier| verifier.verify_subscription(token, now)).await
    }

    async fn verify_with<T>(
        &self,
        verify: impl Fn(&JwtVerifier) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let mut snapshots = self.snapshot.subscribe();
        let (result, reads) = self.attempt(&verify);
        let Err(TokenError::UnknownKey { key_id }) = &result else { return result };
        match self.cache().unknown_key(key_id.as_deref(), Instant::now()) {
            KeyLookup::Missing => return result,
            KeyLookup::Unavailable => return Err(TokenError::KeysUnavailable),
            KeyLookup::Wait => self.wake.notify_one(),
        }
        let is_later = |snapshot: &Snapshot| snapshot.reads > reads;
        if !matches!(timeout(WAIT_MAX, snapshots.wait_for(is_later)).await, Ok(Ok(_))) {
            return Err(TokenError::KeysUnavailable);
        }
        let (result, _) = self.attempt(&verify);
        let Err(TokenError::UnknownKey { key_id }) = &result else { return result };
        // The read that has ended may have begun before the provider published the key.
        match self.cache().unknown_key(key_id.as_deref(), Instant::now()) {
            KeyLookup::Missing => result,
            KeyLookup::Wait | KeyLookup::Unavailable => Err(TokenError::KeysUnavailable),
        }
    }

    fn attempt<T>(
        &self,
        verify: &impl Fn(&JwtVerifier) -> Result<T, TokenError>,
    ) -> (Result<T, TokenError>, u64) {
        // A clone of shared keys: a read must not wait until signatures are checked.
        let snapshot = self.snapshot.borrow().clone();
        (verify(&snapshot.verifier), snapshot.reads)
    }

    /// Reads the key set whenever a read is due. Runs until it is dropped. Without this task, no published key is
    /// known.
    pub async fn run(&self) {
        loop {
            let next = self.cache().next_read_at();
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wake.notified() => {}
            }
            if self.cache().start_read(Instant::now()) {
                let result = self.read().await;
                self.publish(result);
            }
        }
    }

    async fn read(&self) -> Result<(KeySet, Option<Duration>), JwksError> {
        let fetched = timeout(FETCH_TIMEOUT, self.fetcher.fetch()).await;
        let fetched = fetched.map_err(|_| JwksError::Timeout(FETCH_TIMEOUT))??;
        Ok((document::parse(&fetched.body)?, fetched.max_age))
    }

    fn publish(&self, result: Result<(KeySet, Option<Duration>), JwksError>) {
        let (now, jitter) = (Instant::now(), fastrand::f64());
        match result {
            Ok((keys, max_age)) => {
                tracing::debug!(keys = keys.keys().len(), "key set read");
                self.cache().read_succeeded(keys, max_age, now, jitter);
            }
            Err(error) => {
                tracing::warn!(%error, fetcher = ?self.fetcher, "cannot read the key set; the last one remains in use");
                self.cache().read_failed(now, jitter);
            }
        }
        let keys = self.published_keys();
        self.snapshot.send_modify(|snapshot| {
            snapshot.verifier = snapshot.verifier.with_remote_keys(keys);
            snapshot.reads += 1;
        });
    }

    fn published_keys(&self) -> Arc<KeySet> {
        self.cache().keys(Instant::now()).cloned().unwrap_or_default()
    }

    fn cache(&self) -> MutexGuard<'_, JwksCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
