//! State shared by all threads of one run: its id, its channels, and counters that can be read while it runs.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Latencies are recorded in microseconds, up to two minutes.
const LATENCY_MAX_MICROS: u64 = 120_000_000;

/// Shared state of one run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Distinguishes messages of this run from those of other runs.
    pub(crate) id: u32,
    /// Origin of the times in stamps.
    pub(crate) epoch: Instant,
    /// Size of each message.
    pub(crate) size: usize,
    /// Channel names by index.
    pub(crate) channels: Vec<String>,
    /// Live counters.
    pub(crate) counters: Counters,
    /// Latencies since the last call of [`Run::take_recent`].
    recent: Mutex<Histogram<u64>>,
    interrupted: AtomicBool,
}

/// Live counters over all subscribers. Each worker updates them once per loop iteration.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Distinct messages delivered.
    pub(crate) delivered: AtomicU64,
    /// Messages missing although a later message of the channel has arrived.
    pub(crate) missing: AtomicI64,
    /// Duplicate or out-of-order messages.
    pub(crate) disorder: AtomicU64,
    /// Subscribers that are subscribed now.
    pub(crate) subscribed: AtomicU64,
    /// Subscriptions established so far.
    pub(crate) opened: AtomicU64,
    /// Connections that failed or ended early.
    pub(crate) broken: AtomicU64,
}

impl Run {
    /// Starts a run now.
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

    /// Distinct messages delivered so far, over all subscribers.
    pub(crate) fn delivered(&self) -> u64 {
        self.counters.delivered.load(Ordering::Relaxed)
    }

    /// Microseconds from the epoch to a moment.
    pub(crate) fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds latencies for the sampler and resets the given histogram.
    pub(crate) fn add_recent(&self, new: &mut Histogram<u64>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Both histograms have the same bounds.
        let _ = recent.add(&*new);
        new.reset();
    }

    /// Returns and resets the latencies since the last call.
    pub(crate) fn take_recent(&self) -> Histogram<u64> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *recent, coarse_latencies())
    }

    /// Requests that the run end early.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Whether the operator has interrupted the run.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Latencies in microseconds, with three significant digits.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}

/// Latencies with two significant digits: small enough to merge several times per second.
pub(crate) fn coarse_latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 2)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}
