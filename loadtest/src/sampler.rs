//! Samples a run at intervals, for the progress display and for the time series of the result.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::progress::{ProgressMode, RunProgress};
use crate::record::{SampleRecord, per_second};
use crate::resources::process::{ProcessGroup, ResourceUsage};
use crate::run::{Run, coarse_latencies};

/// Initial interval between samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Beyond this number, samples are merged in pairs and the interval is doubled.
const SAMPLES_MAX: usize = 600;

/// Sampler of a run.
#[derive(Debug)]
pub(crate) struct Sampler {
    run: Arc<Run>,
    /// Processes to measure.
    pub(crate) processes: Vec<ProcessGroup>,
    /// Progress display.
    pub(crate) progress: RunProgress,
    start: Instant,
    interval: Duration,
    last: SampleTotals,
    samples: Vec<SampleRecord>,
    /// Latencies since the current phase of the run began.
    phase: Histogram<u64>,
    peaks: Vec<u64>,
}

/// Totals at one moment.
#[derive(Debug)]
struct SampleTotals {
    at: Instant,
    published: u64,
    delivered: u64,
    usage: Vec<ResourceUsage>,
}

impl Sampler {
    /// Starts sampling.
    pub(crate) fn new(run: Arc<Run>, processes: Vec<ProcessGroup>, show: ProgressMode) -> Self {
        let (start, usage) = (Instant::now(), processes.iter().map(ProcessGroup::usage).collect::<Vec<_>>());
        let peaks = usage.iter().map(|usage| usage.resident).collect();
        Self {
            run,
            processes,
            progress: RunProgress::new(show),
            start,
            interval: SAMPLE_INTERVAL,
            last: SampleTotals { at: start, published: 0, delivered: 0, usage },
            samples: Vec::new(),
            phase: coarse_latencies(),
            peaks,
        }
    }

    /// Takes a sample if one is due; `published` is the number of messages so far.
    pub(crate) fn sample_if_due(&mut self, published: u64) {
        if self.last.at.elapsed() >= self.interval {
            self.sample(published);
        }
    }

    /// Takes a sample.
    pub(crate) fn sample(&mut self, published: u64) {
        let now = SampleTotals {
            at: Instant::now(),
            published,
            delivered: self.run.delivered(),
            usage: self.processes.iter().map(ProcessGroup::usage).collect(),
        };
        let recent = self.run.take_recent();
        // Both histograms have the same bounds.
        let _ = self.phase.add(&recent);
        let sample = self.compare(&now, &recent);
        self.progress.report(sample.at, &summary(&sample));
        for (peak, usage) in self.peaks.iter_mut().zip(&now.usage) {
            *peak = usage.resident.max(*peak);
        }
        self.last = now;
        self.samples.push(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.samples = downsample(&self.samples);
            self.interval *= 2;
        }
    }

    fn compare(&self, now: &SampleTotals, recent: &Histogram<u64>) -> SampleRecord {
        let span = (now.at - self.last.at).as_secs_f64();
        let percentile =
            |at: f64| (!recent.is_empty()).then(|| recent.value_at_percentile(at) as f64 / 1000.0);
        let cores = |of: fn(&ResourceUsage) -> f64| {
            let pairs = now.usage.iter().zip(&self.last.usage);
            pairs.map(|(now, before)| ((of(now) - of(before)) / span.max(0.001)).max(0.0)).collect()
        };
        SampleRecord {
            at: (now.at - self.start).as_secs_f64(),
            span,
            published: per_second(now.published - self.last.published, span),
            delivered: per_second(now.delivered - self.last.delivered, span),
            missing: self.run.counters.missing.load(Ordering::Relaxed),
            subscribed: self.run.counters.subscribed.load(Ordering::Relaxed),
            p50: percentile(50.0),
            p99: percentile(99.0),
            max: percentile(100.0),
            user: cores(|usage| usage.user),
            system: cores(|usage| usage.system),
            resident: now.usage.iter().map(|usage| usage.resident).collect(),
        }
    }

    /// Latencies since the last call, in microseconds.
    pub(crate) fn take_phase_latencies(&mut self) -> Histogram<u64> {
        // Both histograms have the same bounds.
        let _ = self.phase.add(self.run.take_recent());
        std::mem::replace(&mut self.phase, coarse_latencies())
    }

    /// Returns the samples and the peak memory of each process.
    pub(crate) fn finish(self) -> (Vec<SampleRecord>, Vec<u64>) {
        (self.samples, self.peaks)
    }
}

fn summary(sample: &SampleRecord) -> String {
    let mut summary = format!("{} subscribed, {:.0} delivered/s", sample.subscribed, sample.delivered);
    if let (Some(p50), Some(p99)) = (sample.p50, sample.p99) {
        summary += &format!(", p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    summary + &format!(", {} missing", sample.missing)
}

/// Merges neighbouring samples: rates are averaged, latencies are those of the worse one.
fn downsample(samples: &[SampleRecord]) -> Vec<SampleRecord> {
    let merge = |pair: &[SampleRecord]| match pair {
        [one, other] => merged(one, other),
        alone => alone[0].clone(),
    };
    samples.chunks(2).map(merge).collect()
}

fn merged(one: &SampleRecord, other: &SampleRecord) -> SampleRecord {
    let span = one.span + other.span;
    let mean = |one_value: f64, other_value: f64| {
        (one_value * one.span + other_value * other.span) / span.max(f64::MIN_POSITIVE)
    };
    let means = |one: &[f64], other: &[f64]| {
        one.iter().zip(other).map(|(one, other)| mean(*one, *other)).collect::<Vec<_>>()
    };
    let worse = |one: Option<f64>, other: Option<f64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    };
    SampleRecord {
        span,
        published: mean(one.published, other.published),
        delivered: mean(one.delivered, other.delivered),
        p50: worse(one.p50, other.p50),
        p99: worse(one.p99, other.p99),
        max: worse(one.max, other.max),
        user: means(&one.user, &other.user),
        system: means(&one.system, &other.system),
        ..other.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_run_keeps_a_bounded_series_with_correct_totals() {
        let run = Arc::new(Run::new(128, Vec::new()));
        let mut sampler = Sampler::new(run, Vec::new(), ProgressMode::None);
        for published in 0..2000 {
            sampler.sample(published);
        }
        let (samples, _) = sampler.finish();
        assert!(samples.len() <= SAMPLES_MAX + 1, "{}", samples.len());
        let published: f64 = samples.iter().map(|sample| sample.published * sample.span).sum();
        assert!((published - 1999.0).abs() < 0.01, "{published}");
        assert!(samples.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
