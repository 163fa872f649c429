//! Summarizes runs in rows: medians, ratios and whether goals are met.

use super::Subject::{Centrifugo, Earshot, KernelBaseline, Nchan};
use super::goals::{Goal, METRICS, MetricRow};
use super::row::{SummaryRow, median, values};
use super::{BenchResult, BenchRun, Subject, growth};
use crate::report::validity::has_spare_capacity;

/// Builds the table.
pub(crate) fn table(outcome: &BenchResult) -> Vec<SummaryRow> {
    let runs = &outcome.runs;
    let mut rows: Vec<SummaryRow> = METRICS.iter().map(|metric| row(runs, metric)).collect();
    rows.extend(growth::rows(outcome));
    rows
}

fn row(runs: &[BenchRun], metric: &MetricRow) -> SummaryRow {
    let of = |subject| median(runs, metric.case, subject, metric.select);
    let values = values(runs, metric.case, Earshot, metric.select);
    let earshot = of(Earshot);
    let mut row = SummaryRow {
        label: metric.label.to_owned(),
        unit: metric.unit.to_owned(),
        kernel_baseline: of(KernelBaseline),
        nchan: of(Nchan),
        centrifugo: of(Centrifugo),
        earshot,
        spread: min_and_max(&values),
        goals: Vec::new(),
        notes: if metric.is_rate { rate_notes(runs, metric.case) } else { Vec::new() },
        met: None,
    };
    for goal in metric.goals {
        if let Some((words, met)) = check_goal(*goal, earshot, of) {
            row.goals.push(words);
            row.met = Some(row.met.unwrap_or(true) && met);
        }
    }
    for peer in [Nchan, Centrifugo] {
        let says_so =
            |goal: &Goal| matches!(goal, Goal::RatioAtMost(_, of) | Goal::RatioAtLeast(_, of) if *of == peer);
        if let (Some(earshot), Some(its)) = (earshot, of(peer))
            && !metric.goals.iter().any(says_so)
            && earshot.min(its) > 0.0
        {
            row.goals.push(format!("{:.2} × {}", earshot / its, name(peer)));
        }
    }
    row
}

fn min_and_max(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

/// Names the subjects with spare capacity in a case that measures a maximum rate.
fn rate_notes(runs: &[BenchRun], case: &str) -> Vec<String> {
    let note = |subject| {
        let cores = median(runs, case, subject, |metrics| Some(metrics.server_cores))?;
        let full = median(runs, case, subject, |metrics| metrics.server_core_utilization_max);
        let load_full =
            median(runs, case, subject, |metrics| Some(f64::from(u8::from(metrics.bottleneck))))? > 0.5;
        let whose = if load_full { "the load test's limit" } else { "not its limit" };
        has_spare_capacity(cores, full)
            .then(|| format!("{} used {cores:.2} of its core: {whose}", name(subject)))
    };
    [KernelBaseline, Nchan, Centrifugo, Earshot].into_iter().filter_map(note).collect()
}

fn check_goal(
    goal: Goal,
    value: Option<f64>,
    other: impl Fn(Subject) -> Option<f64>,
) -> Option<(String, bool)> {
    let value = value?;
    let against = |subject| Some((value / other(subject).filter(|other| *other > 0.0)?, name(subject)));
    Some(match goal {
        Goal::RatioAtMost(times, subject) => {
            let (ratio, name) = against(subject)?;
            (format!("{ratio:.2} × {name}, goal ≤ {times}"), ratio <= times)
        }
        Goal::RatioAtLeast(times, subject) => {
            let (ratio, name) = against(subject)?;
            (format!("{ratio:.2} × {name}, goal ≥ {times}"), ratio >= times)
        }
        Goal::AtMost(most) => (format!("goal ≤ {most}"), value <= most),
        Goal::AtLeast(least) => (format!("goal ≥ {least}"), value >= least),
    })
}

pub(super) fn name(subject: Subject) -> &'static str {
    match subject {
        KernelBaseline => "kernel baseline",
        Nchan => "nchan",
        Centrifugo => "Centrifugo",
        Earshot => "Earshot",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::markdown;
    use crate::bench::plan::Size;
    use crate::bench::run::RunMetrics;

    pub(in super::super) fn run(case: &str, subject: Subject, micros: f64) -> BenchRun {
        let metrics = RunMetrics { micros_per_delivery: Some(micros), clean: true, ..RunMetrics::default() };
        BenchRun { case: case.to_owned(), subject, round: 0, line: String::new(), metrics }
    }

    pub(in super::super) fn outcome(runs: Vec<BenchRun>) -> BenchResult {
        let size = Size {
            rounds: 3,
            seconds: 1,
            subscribers: 10,
            rate: 1.0,
            channels: 1,
            idle: 600,
            idle_seconds: 1,
        };
        let (machine, versions) = (Default::default(), vec!["earshot 1".to_owned()]);
        let mut outcome = BenchResult {
            format: 1,
            date: String::new(),
            commit: None,
            machine,
            versions,
            size,
            runs,
            table: Vec::new(),
            redis: Vec::new(),
        };
        outcome.table = table(&outcome);
        outcome
    }

    #[test]
    fn goals_are_checked_against_ratios_of_medians() {
        let mut runs: Vec<BenchRun> =
            [9.0, 5.0, 5.5].into_iter().map(|micros| run("fanout WebSocket", Earshot, micros)).collect();
        runs.extend([5.0, 5.0, 50.0].map(|micros| run("fanout WebSocket", KernelBaseline, micros)));
        runs.push(run("fanout WebSocket", Nchan, 7.0));
        runs.push(run("fanout WebSocket", Centrifugo, 11.0));
        let outcome = outcome(runs);
        let row = &outcome.table[0];
        assert_eq!((row.kernel_baseline, row.earshot, row.spread), (Some(5.0), Some(5.5), Some((5.0, 9.0))));
        let goals = ["1.10 × kernel baseline, goal ≤ 1.15", "0.79 × nchan, goal ≤ 0.75", "0.50 × Centrifugo"];
        assert_eq!(row.goals, goals);
        assert_eq!(row.met, Some(false));
        let text = markdown::page(&outcome);
        assert!(
            text.contains("| CPU per delivery, WebSocket, µs | 5.00 | 7.00 | 11.0 | 5.50 | 5.00 – 9.00 |"),
            "{text}"
        );
        assert!(!text.contains("| memory per idle connection"), "{text}");
    }

    #[test]
    fn ratio_to_nchan_is_shown_without_a_goal() {
        let mut runs = vec![run("many channels", Nchan, 4.0), run("many channels", Earshot, 3.0)];
        let row = |runs: &[BenchRun]| {
            let table = outcome(runs.to_vec()).table;
            table.into_iter().find(|row| row.label == "many channels: CPU per delivery").unwrap()
        };
        assert_eq!((row(&runs).goals, row(&runs).met), (vec!["0.75 × nchan".to_owned()], None));
        runs[0].metrics.micros_per_delivery = Some(0.0);
        assert_eq!(row(&runs).goals, Vec::<String>::new());
    }

    #[test]
    fn spare_capacity_is_noted_in_the_row() {
        let rate = |cores, full, bottleneck| {
            let mut run = run("highest", Earshot, 1.0);
            let metrics = &mut run.metrics;
            (metrics.deliveries_per_second, metrics.server_cores) = (1000.0, cores);
            (metrics.server_core_utilization_max, metrics.bottleneck) = (Some(full), bottleneck);
            outcome(vec![run]).table.into_iter().find(|row| row.earshot == Some(1000.0)).unwrap().notes
        };
        assert_eq!(rate(0.62, 0.7, false), ["Earshot used 0.62 of its core: not its limit"]);
        assert_eq!(rate(0.62, 0.7, true), ["Earshot used 0.62 of its core: the load test's limit"]);
        assert_eq!(rate(0.95, 0.95, true), Vec::<String>::new());
        assert_eq!(rate(0.62, 0.99, false), Vec::<String>::new());
    }
}
