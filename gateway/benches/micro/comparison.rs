//! Measures a step and its reference alternately.
//!
//! Owns the number of rounds and the printed statistics. Existing harnesses measure one function after the other; on a
//! shared machine the ratio of two such measurements is meaningless.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Measurements of each workload. The medians and the quartiles of the ratio are printed.
const ROUNDS: usize = 41;

/// The minimum duration of one measurement, so that the resolution of the clock is negligible.
const ROUND_MIN: Duration = Duration::from_millis(2);

/// Runs the selected benchmarks, and prints a line for each.
pub(crate) struct Comparison {
    /// The prefix of the names to run.
    filter: Option<String>,
}

/// A function that does `units` units of work and returns the time that they took.
pub(crate) struct Workload<'a> {
    units: usize,
    work: Box<dyn FnMut() -> Duration + 'a>,
}

/// Measures one unit for each call.
pub(crate) fn repeated<'a, T>(mut work: impl FnMut() -> T + 'a) -> Workload<'a> {
    repeated_batch(1, move || {
        black_box(work());
    })
}

/// Measures `units` units for each call.
pub(crate) fn repeated_batch<'a>(units: usize, mut work: impl FnMut() + 'a) -> Workload<'a> {
    let measure = move || {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    Workload { units, work: Box::new(measure) }
}

/// A workload that measures its own time, without its setup.
pub(crate) fn self_timed<'a>(units: usize, work: impl FnMut() -> Duration + 'a) -> Workload<'a> {
    Workload { units, work: Box::new(work) }
}

impl Workload<'_> {
    /// The average time of one unit in nanoseconds.
    fn measure(&mut self, calls: usize) -> f64 {
        let took: Duration = (0..calls).map(|_| (self.work)()).sum();
        took.as_nanos() as f64 / (calls * self.units) as f64
    }

    /// The number of calls that take at least [`ROUND_MIN`].
    fn calls(&mut self) -> usize {
        let mut calls = 1;
        loop {
            let took: Duration = (0..calls).map(|_| (self.work)()).sum();
            if took >= ROUND_MIN {
                return calls;
            }
            calls *= 2;
        }
    }
}

impl Comparison {
    pub(crate) fn new(filter: Option<String>) -> Self {
        println!("{:<46} {:>10}   {:<34} {:>10}   ratio (quartiles)", "", "ns", "reference", "ns");
        Self { filter }
    }

    /// Whether the filter selects any benchmark of this group, to skip its setup otherwise.
    pub(crate) fn is_selected(&self, group: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| group.starts_with(filter) || filter.starts_with(group))
    }

    /// Measures `subject` and `reference` alternately and prints a line, if the filter selects `name`.
    pub(crate) fn run(
        &self,
        name: &str,
        mut subject: Workload<'_>,
        reference_name: &str,
        mut reference: Workload<'_>,
    ) {
        if self.filter.as_ref().is_some_and(|filter| !name.starts_with(filter)) {
            return;
        }
        let (subject_calls, reference_calls) = (subject.calls(), reference.calls());
        let (mut subject_times, mut reference_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (subject, reference) = (subject.measure(subject_calls), reference.measure(reference_calls));
            subject_times.push(subject);
            reference_times.push(reference);
            ratios.push(subject / reference);
        }
        println!(
            "{name:<46} {:>10.1}   {reference_name:<34} {:>10.1}   {:.2} ({:.2} to {:.2})",
            quantile(&mut subject_times, 0.5),
            quantile(&mut reference_times, 0.5),
            quantile(&mut ratios, 0.5),
            quantile(&mut ratios, 0.25),
            quantile(&mut ratios, 0.75),
        );
    }
}

fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * at).round() as usize]
}
