//! Keeps a session alive while its user is connected (`touch = "ttl"`).
//!
//! A page that only receives events sends no request to its application, so a rolling session would expire while its
//! user is connected. Must never shorten a TTL, or give one to a session without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::auth::Identity;
use crate::drain::Drain;
use crate::store::{KeyStore, StoreError};

/// The part of the TTL after which it is extended; up to a tenth later, at random.
const TTL_PARTS: u32 = 10;

/// Extends the TTLs of the sessions of one login method.
#[derive(Debug)]
pub struct SessionTouch {
    drain: Drain,
    /// A rejection was logged.
    is_rejected: AtomicBool,
}

impl SessionTouch {
    /// Its tasks end with `drain`.
    pub fn new(drain: Drain) -> Arc<Self> {
        Arc::new(Self { drain, is_rejected: AtomicBool::new(false) })
    }

    /// Extends the TTL of a session to `ttl`, again and again, until its identity no longer exists or has ended.
    pub(super) fn keep_alive(
        self: &Arc<Self>,
        store: &Arc<KeyStore>,
        key: Vec<u8>,
        ttl: Duration,
        identity: &Arc<Identity>,
    ) {
        let (touch, store, identity) = (Arc::clone(self), Arc::clone(store), Arc::downgrade(identity));
        let stop = self.drain.clone();
        self.drain.spawn(async move {
            tokio::select! {
                () = touch.run(&store, &key, ttl, &identity) => {}
                () = stop.stopped() => {}
            }
        });
    }

    async fn run(&self, store: &KeyStore, key: &[u8], ttl: Duration, identity: &Weak<Identity>) {
        let part = ttl / TTL_PARTS;
        loop {
            tokio::time::sleep(part + part.mul_f64(fastrand::f64() / f64::from(TTL_PARTS))).await;
            if identity.upgrade().is_none_or(|identity| identity.has_ended()) {
                return;
            }
            match store.touch(key, ttl).await {
                Ok(_) => {}
                Err(StoreError::Rejected(cause)) => {
                    if !self.is_rejected.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            instance = store.name(),
                            %cause,
                            "sessions cannot be extended: `touch` requires Redis 7 and the command PEXPIRE"
                        );
                    }
                    return;
                }
                // The store is unavailable: the next one follows.
                Err(error) => tracing::debug!(%error, "session not extended"),
            }
        }
    }
}
