//! Totals over all publishers of a run.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::error::PublisherError;
use crate::resources::thread::CpuShare;
use crate::run::latencies;

/// Totals over all publishers of the run.
#[derive(Debug)]
pub(crate) struct PublishTotals {
    /// Messages.
    pub(crate) count: u64,
    /// Messages of the schedule, without the messages that verify subscribers.
    pub(crate) scheduled: u64,
    /// Duration of the schedule.
    pub(crate) elapsed: Duration,
    /// Delay between due and sent, in microseconds.
    pub(crate) lag: Histogram<u64>,
    /// CPU share of the busiest publisher.
    pub(crate) cpu: Option<CpuShare>,
    /// Error that ended publishing early.
    pub(crate) error: Option<PublisherError>,
}

impl Default for PublishTotals {
    fn default() -> Self {
        let (elapsed, lag) = (Duration::ZERO, latencies());
        Self { count: 0, scheduled: 0, elapsed, lag, cpu: None, error: None }
    }
}
