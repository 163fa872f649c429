//! What all threads of one run share: which run it is, its channels, and counters that may be looked at while it goes
//! on. Never measures and never decides.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Latencies are kept in microseconds, up to two minutes.
const LATENCY_MAX_MICROS: u64 = 120_000_000;

/// One run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Tells this run's messages from those of another.
    pub(crate) id: u32,
    /// What the stamps count from.
    pub(crate) epoch: Instant,
    /// The size of each message.
    pub(crate) size: usize,
    /// The channels by index.
    pub(crate) channels: Vec<String>,
    /// What has happened so far.
    pub(crate) counters: Counters,
    /// Latencies since somebody last took them.
    recent: Mutex<Histogram<u64>>,
    interrupted: AtomicBool,
}

/// What has happened so far, over all subscribers. Each worker adds to them once a turn.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Different messages delivered.
    pub(crate) delivered: AtomicU64,
    /// Messages that were overtaken and have not come.
    pub(crate) missing: AtomicI64,
    /// Messages that came once more, or after later ones.
    pub(crate) disorder: AtomicU64,
    /// Subscribers that are subscribed now.
    pub(crate) subscribed: AtomicU64,
    /// Connections and subscriptions that have succeeded.
    pub(crate) opened: AtomicU64,
    /// Connections that could not be had, or ended early.
    pub(crate) broken: AtomicU64,
}

impl Run {
    /// A run that begins now.
    pub(crate) fn new(size: usize, channels: Vec<String>) -> Self {
        Self {
            id: fastrand::u32(1..),
            epoch: Instant::now(),
            size,
            channels,
            counters: Counters::default(),
            recent: Mutex::new(coarse_latencies()),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Different messages delivered so far, over all subscribers.
    pub(crate) fn delivered(&self) -> u64 {
        self.counters.delivered.load(Ordering::Relaxed)
    }

    /// Microseconds from the epoch to a moment.
    pub(crate) fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds latencies for whoever watches, and empties them.
    pub(crate) fn add_recent(&self, new: &mut Histogram<u64>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Both have the same bounds.
        let _ = recent.add(&*new);
        new.reset();
    }

    /// Takes the latencies since the last time.
    pub(crate) fn take_recent(&self) -> Histogram<u64> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *recent, coarse_latencies())
    }

    /// The operator wants the result now.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Whether the operator wants the result now.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Latencies in microseconds, with three significant digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}

/// The same with two digits: small enough to be handed over several times a second.
pub(crate) fn coarse_latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 2)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}
