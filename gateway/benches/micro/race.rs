//! Two pieces of work measured in turns.
//!
//! Owns the number of rounds and what is told of them. A harness of our own, since those that there are measure one thing
//! after the other, and a ratio of two moments on a shared machine says nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Turns of each; the median is told, and the quartiles of the ratio.
const ROUNDS: usize = 41;

/// A turn takes at least so long, so that the clock does not matter.
const TURN: Duration = Duration::from_millis(2);

/// Runs those benchmarks that are wanted, and prints a line for each.
pub(crate) struct Race {
    wanted: Option<String>,
}

/// Work of which `units` are done at each call, which says how long they took.
pub(crate) struct Runner<'a> {
    units: usize,
    work: Box<dyn FnMut() -> Duration + 'a>,
}

/// Work that is timed as it is.
pub(crate) fn of<'a, T>(mut work: impl FnMut() -> T + 'a) -> Runner<'a> {
    timed(1, move || {
        black_box(work());
    })
}

/// The same, of which one call does so many units.
pub(crate) fn timed<'a>(units: usize, mut work: impl FnMut() + 'a) -> Runner<'a> {
    let repeated = move || {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    Runner { units, work: Box::new(repeated) }
}

/// Work that knows by itself which part of it counts.
pub(crate) fn measured<'a>(units: usize, work: impl FnMut() -> Duration + 'a) -> Runner<'a> {
    Runner { units, work: Box::new(work) }
}

impl Runner<'_> {
    /// Nanoseconds for one unit.
    fn turn(&mut self, calls: usize) -> f64 {
        let took: Duration = (0..calls).map(|_| (self.work)()).sum();
        took.as_nanos() as f64 / (calls * self.units) as f64
    }

    fn calls(&mut self) -> usize {
        let mut calls = 1;
        loop {
            let took: Duration = (0..calls).map(|_| (self.work)()).sum();
            if took >= TURN {
                return calls;
            }
            calls *= 2;
        }
    }
}

impl Race {
    pub(crate) fn new(wanted: Option<String>) -> Self {
        println!("{:<46} {:>10}   {:<34} {:>10}   ratio (quartiles)", "", "ns", "beside", "ns");
        Self { wanted }
    }

    /// Whether any benchmark of this group is wanted, so that nothing is prepared for nobody.
    pub(crate) fn wants(&self, group: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| group.starts_with(wanted) || wanted.starts_with(group))
    }

    pub(crate) fn run(&self, name: &str, mut ours: Runner<'_>, beside: &str, mut reference: Runner<'_>) {
        if self.wanted.as_ref().is_some_and(|wanted| !name.starts_with(wanted)) {
            return;
        }
        let (our_calls, reference_calls) = (ours.calls(), reference.calls());
        let (mut our_times, mut reference_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (ours, reference) = (ours.turn(our_calls), reference.turn(reference_calls));
            our_times.push(ours);
            reference_times.push(reference);
            ratios.push(ours / reference);
        }
        println!(
            "{name:<46} {:>10.1}   {beside:<34} {:>10.1}   {:.2} ({:.2} to {:.2})",
            quantile(&mut our_times, 0.5),
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
