//! Decides when a key set is read again, and how tokens are handled in the meantime. Pure: time and random numbers are
//! arguments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::jwt::KeySet;

/// The minimum time between two reads, except after a failure.
pub(super) const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(10);
/// How long a key id that the set does not contain is remembered as missing.
pub(super) const MISSING_TTL: Duration = Duration::from_secs(30);
/// Maximum number of key ids to remember: an attacker's tokens may name any id.
pub(super) const MISSING_MAX: usize = 1024;
/// The minimum time until a set is read again, whatever its server requests.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// The wait after the first failure; it doubles up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The maximum age of a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwksSettings {
    /// The set is read again at least this often; more often if its server requests it (`max-age`).
    pub refresh_interval: Duration,
    /// How long the last set is used while its server does not answer.
    pub stale_max: Duration,
}

impl Default for JwksSettings {
    fn default() -> Self {
        Self { refresh_interval: Duration::from_mins(10), stale_max: Duration::from_hours(24) }
    }
}

/// The action for a token whose key is not in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyLookup {
    /// The set was read after the key was requested, and does not contain it.
    Missing,
    /// The set is being read, or will be at once: wait for the result.
    Wait,
    /// The set cannot be read now. The client should retry.
    Unavailable,
}

/// A key id; `None`: a token without one.
type KeyId = Option<Box<str>>;

/// The state of a key set.
#[derive(Debug)]
pub(super) struct JwksCache {
    settings: JwksSettings,
    keys: Option<CachedKeys>,
    /// The start of the current or last read.
    last_start: Option<Instant>,
    is_reading: bool,
    failures: u32,
    /// The earliest time of the next read.
    not_before: Instant,
    /// Key ids that were requested before the next read starts.
    asked: HashSet<KeyId>,
    /// Key ids that were requested before the current read started.
    awaited: HashSet<KeyId>,
    /// Key ids that are known to be missing, with the time until which this is remembered.
    missing: HashMap<KeyId, Instant>,
}

#[derive(Debug)]
struct CachedKeys {
    keys: Arc<KeySet>,
    read_at: Instant,
    refresh_at: Instant,
}

impl JwksCache {
    /// No keys yet; the first read is due.
    pub(super) fn new(settings: JwksSettings, now: Instant) -> Self {
        Self {
            settings,
            keys: None,
            last_start: None,
            is_reading: false,
            failures: 0,
            not_before: now,
            asked: HashSet::new(),
            awaited: HashSet::new(),
            missing: HashMap::new(),
        }
    }

    /// The keys, unless they are too old.
    pub(super) fn keys(&self, now: Instant) -> Option<&Arc<KeySet>> {
        let cached = self.keys.as_ref()?;
        (now.duration_since(cached.read_at) < self.settings.stale_max).then_some(&cached.keys)
    }

    /// How many reads have failed since the last successful one.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// A token names a key that the set does not contain.
    pub(super) fn unknown_key(&mut self, id: Option<&str>, now: Instant) -> KeyLookup {
        let id: KeyId = id.map(Into::into);
        match self.missing.get(&id) {
            Some(until) if now < *until => return KeyLookup::Missing,
            Some(_) => drop(self.missing.remove(&id)),
            None => {}
        }
        // The key may have been read since the token was checked.
        let is_known = id.as_deref().is_some_and(|id| self.keys(now).is_some_and(|keys| keys.has_id(id)));
        if self.is_reading || is_known {
            return KeyLookup::Wait;
        }
        if now < self.not_before {
            return KeyLookup::Unavailable;
        }
        if self.asked.len() < MISSING_MAX {
            self.asked.insert(id);
        }
        KeyLookup::Wait
    }

    /// When the next read is due without a request.
    pub(super) fn next_read_at(&self) -> Instant {
        let due = self.keys.as_ref().map_or(self.not_before, |cached| cached.refresh_at);
        due.max(self.not_before)
    }

    /// Whether a read is due. If so, it is regarded as started.
    pub(super) fn start_read(&mut self, now: Instant) -> bool {
        let is_requested = !self.asked.is_empty() && now >= self.not_before;
        if self.is_reading || !(is_requested || now >= self.next_read_at()) {
            return false;
        }
        self.awaited = std::mem::take(&mut self.asked);
        (self.is_reading, self.last_start) = (true, Some(now));
        true
    }

    /// The read returned these keys, which the server allows to be cached for `max_age`. `jitter` is random, from 0
    /// to 1.
    pub(super) fn read_succeeded(
        &mut self,
        keys: KeySet,
        max_age: Option<Duration>,
        now: Instant,
        jitter: f64,
    ) {
        let interval = self.settings.refresh_interval.max(LIFETIME_MIN);
        let lifetime = max_age.unwrap_or(interval).clamp(LIFETIME_MIN, interval);
        // Early, so that a new key is known before the first token that it signs.
        let refresh_at = now + lifetime.mul_f64(0.8 - 0.2 * jitter);
        self.missing.retain(|_, until| now < *until);
        for id in self.awaited.drain() {
            let is_missing = id.as_deref().is_none_or(|id| !keys.has_id(id));
            if is_missing && self.missing.len() < MISSING_MAX {
                self.missing.insert(id, now + MISSING_TTL);
            }
        }
        self.keys = Some(CachedKeys { keys: Arc::new(keys), read_at: now, refresh_at });
        (self.is_reading, self.failures) = (false, 0);
        self.not_before = self.last_start.unwrap_or(now) + UNKNOWN_KEY_INTERVAL;
    }

    /// The read has failed. The last keys remain in use.
    pub(super) fn read_failed(&mut self, now: Instant, jitter: f64) {
        let wait = BACKOFF.0.saturating_mul(1 << self.failures.min(6)).min(BACKOFF.1);
        self.not_before = now + wait.mul_f64(1.0 - 0.5 * jitter);
        (self.is_reading, self.failures) = (false, self.failures.saturating_add(1));
        self.awaited.clear();
    }
}
