//! Rows for metrics that must not depend on the number of subscribers.

use super::Subject::{Earshot, KernelBaseline};
use super::goals::{FLAT_TOLERANCE_PERCENT, GROWTH_METRICS, GrowthMetric};
use super::row::{SummaryRow, median};
use super::{BenchResult, Subject};

/// Numbers of subscribers, each with its value.
type Steps = Vec<(u32, f64)>;

/// One row per metric and, if the kernel baseline was measured, a second row with the ratio to it. Growth that appears in
/// both comes from the kernel and the hardware.
pub(crate) fn rows(outcome: &BenchResult) -> Vec<SummaryRow> {
    let mut rows = Vec::new();
    for growth in GROWTH_METRICS {
        let (label, own) = (growth.label, steps(outcome, growth, Earshot));
        let mut row = row(label, growth.unit, &own);
        let kernel_baseline =
            if growth.has_kernel_baseline { steps(outcome, growth, KernelBaseline) } else { Steps::new() };
        row.kernel_baseline = mean(&kernel_baseline);
        rows.push(row);
        if !kernel_baseline.is_empty() {
            let ratio = |(step, value): &(u32, f64)| Some((*step, value / at(&kernel_baseline, *step)?));
            let ratios: Steps = own.iter().filter_map(ratio).collect();
            rows.push(self::row(&format!("{label}, ratio to the kernel baseline"), "", &ratios));
        } else if own.len() > 2 {
            let further = own.windows(2).map(|pair| further(pair[0], pair[1])).collect::<Steps>();
            rows.push(self::row(&format!("{label}, marginal"), growth.unit, &further));
        }
    }
    rows
}

fn steps(outcome: &BenchResult, growth: &GrowthMetric, subject: Subject) -> Steps {
    let steps = outcome.size.steps().into_iter().filter(|step| *step >= growth.from);
    let measured = |step| median(&outcome.runs, &format!("growth {step}"), subject, growth.select);
    steps.filter_map(|step| Some((step, measured(step)?))).collect()
}

/// Marginal cost of the additional subscribers between two steps: excludes fixed costs.
fn further((fewer, of_fewer): (u32, f64), (more, of_more): (u32, f64)) -> (u32, f64) {
    let all = |count: u32, each: f64| f64::from(count) * each;
    (more, (all(more, of_more) - all(fewer, of_fewer)) / f64::from(more - fewer))
}

fn at(steps: &[(u32, f64)], wanted: u32) -> Option<f64> {
    steps.iter().find(|(step, value)| *step == wanted && *value > 0.0).map(|(_, value)| *value)
}

fn mean(steps: &[(u32, f64)]) -> Option<f64> {
    (steps.len() > 1).then(|| steps.iter().map(|(_, value)| value).sum::<f64>() / steps.len() as f64)
}

/// Row with the deviation of the values from their mean. Needs at least two values.
fn row(label: &str, unit: &str, steps: &[(u32, f64)]) -> SummaryRow {
    let shown: Vec<String> = steps.iter().map(|(step, value)| format!("{step}: {value:.2}")).collect();
    let mut row = SummaryRow {
        label: format!("{label}, by subscribers ({})", shown.join(", ")),
        unit: unit.to_owned(),
        ..SummaryRow::default()
    };
    let Some(mean) = mean(steps).filter(|mean| *mean > 0.0) else { return row };
    let off = |value: f64| (value / mean - 1.0) * 100.0;
    let (low, high) = steps.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| {
        (low.min(*value), high.max(*value))
    });
    row.earshot = Some(mean);
    row.spread = Some((low, high));
    row.goals =
        vec![format!("{:+.0} % to {:+.0} %, goal within {FLAT_TOLERANCE_PERCENT} %", off(low), off(high))];
    row.met = Some(off(low) >= -FLAT_TOLERANCE_PERCENT && off(high) <= FLAT_TOLERANCE_PERCENT);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::summary::tests::{outcome, run};

    #[test]
    fn marginal_cost_excludes_fixed_costs() {
        // A fixed cost of 3000, and 1 per subscriber.
        let (at_1000, at_4000) = ((1000, 4.0), (4000, 1.75));
        assert_eq!(further(at_1000, at_4000), (4000, 1.0));
    }

    fn growth(own: &[(u32, f64)], kernel_baseline: &[(u32, f64)]) -> Vec<SummaryRow> {
        let of = |subject, steps: &[(u32, f64)]| {
            let runs = steps.iter().map(|(step, micros)| run(&format!("growth {step}"), subject, *micros));
            runs.collect::<Vec<_>>()
        };
        rows(&outcome([of(Earshot, own), of(KernelBaseline, kernel_baseline)].concat()))
    }

    #[test]
    fn growth_is_the_deviation_from_the_mean() {
        let flat = |values: &[(u32, f64)]| growth(values, &[])[0].clone();
        let row = flat(&[(50, 5.0), (500, 5.0), (600, 6.0)]);
        assert_eq!(row.met, Some(true), "{row:?}");
        assert_eq!(flat(&[(50, 5.0), (500, 5.0), (600, 8.0)]).met, Some(false));
        assert_eq!(flat(&[(50, 5.0)]).met, None);
    }

    #[test]
    fn growth_shared_with_the_baseline_is_excluded() {
        let rows = growth(&[(50, 5.5), (500, 5.5), (600, 11.0)], &[(50, 5.0), (500, 5.0), (600, 10.0)]);
        assert_eq!((rows[0].met, rows[1].met), (Some(false), Some(true)), "{rows:#?}");
        assert_eq!(rows[0].kernel_baseline, Some(20.0 / 3.0));
        assert_eq!(
            rows[1].label,
            "CPU per delivery, ratio to the kernel baseline, by subscribers (50: 1.10, 500: 1.10, 600: 1.10)"
        );
        assert_eq!((rows.len(), growth(&[(50, 5.0), (500, 5.0)], &[]).len()), (3, 2));
    }
}
