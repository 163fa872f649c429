//! Samples the time from the entry of publications into the shard queue until they are written.
//!
//! A batch counts as written after every connection that waited for a flush at the end of the batch's turn
//! was flushed. Measures one batch at a time, so that sampling adds no work per delivery.

use std::time::Duration;

use tokio::time::Instant;

/// The batch that is measured, if there is one.
#[derive(Debug, Default)]
pub(super) struct LatencySampler(Option<Sample>);

#[derive(Debug)]
struct Sample {
    queued_at: Instant,
    /// The number of flushes until the batch is written; `None` before the end of its turn.
    flushes_left: Option<usize>,
}

impl LatencySampler {
    /// Measures a batch, unless another one is measured.
    pub(super) fn start(&mut self, queued_at: Instant) {
        self.0.get_or_insert(Sample { queued_at, flushes_left: None });
    }

    /// Notes that a turn flushed the first `flushed` of `waiting` connections. Returns the latency when the batch is
    /// written. A batch for which no connection waits is not measured.
    pub(super) fn on_flush(&mut self, waiting: usize, flushed: usize) -> Option<Duration> {
        let sample = self.0.as_mut()?;
        let before = *sample.flushes_left.get_or_insert(waiting);
        let left = before.saturating_sub(flushed);
        sample.flushes_left = Some(left);
        if left > 0 {
            return None;
        }
        let queued_at = self.0.take()?.queued_at;
        (before > 0).then(|| queued_at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn measures_a_batch_until_its_last_connection_is_flushed() {
        let mut sampler = LatencySampler::default();
        assert_eq!(sampler.on_flush(5, 5), None, "no batch");
        sampler.start(Instant::now());
        assert_eq!(sampler.on_flush(300, 256), None);
        tokio::time::advance(Duration::from_millis(2)).await;
        // A batch that arrives meanwhile is not measured, and connections that it adds are behind those of the first.
        sampler.start(Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(sampler.on_flush(500, 256), Some(Duration::from_millis(3)));
        assert_eq!(sampler.on_flush(244, 244), None);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_measure_a_batch_that_no_connection_waits_for() {
        let mut sampler = LatencySampler::default();
        sampler.start(Instant::now());
        assert_eq!(sampler.on_flush(0, 0), None);
        assert_eq!(sampler.on_flush(3, 3), None);
    }
}
