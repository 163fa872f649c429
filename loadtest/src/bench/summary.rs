//! From the runs to the table: medians, ratios, and whether each goal is met. Never measures.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Subject::{BareLoop, Earshot, Nchan};
use super::goals::{FLAT_PERCENT, GROWTH, Goal, MEMORY_FROM, QUESTIONS, Question};
use super::run::Numbers;
use super::{Outcome, Run, Subject};

/// A load test that waited for its core longer than this, as a share of the time, was not alone on it.
const STARVED: f64 = 0.2;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What it is about.
    pub(crate) what: String,
    /// Of what its numbers are.
    pub(crate) unit: String,
    /// Medians; `None` where it was not measured.
    pub(crate) bare_loop: Option<f64>,
    /// See above.
    pub(crate) nchan: Option<f64>,
    /// See above.
    pub(crate) earshot: Option<f64>,
    /// The lowest and the highest of Earshot's runs.
    pub(crate) spread: Option<(f64, f64)>,
    /// What was to be, and what is.
    pub(crate) goals: Vec<String>,
    /// Whether all of it is so; `None` where there is no goal, or no number.
    pub(crate) met: Option<bool>,
}

/// The median of a number over all rounds of a case.
pub(crate) fn median(
    runs: &[Run],
    case: &str,
    subject: Subject,
    pick: impl Fn(&Numbers) -> Option<f64>,
) -> Option<f64> {
    let values = sorted(runs, case, subject, pick);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn sorted(runs: &[Run], case: &str, subject: Subject, pick: impl Fn(&Numbers) -> Option<f64>) -> Vec<f64> {
    let of_it = runs.iter().filter(|run| run.case == case && run.subject == subject);
    let mut values: Vec<f64> = of_it.filter_map(|run| pick(&run.numbers)).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The table.
pub(crate) fn table(outcome: &Outcome) -> Vec<Row> {
    let runs = &outcome.runs;
    let mut rows: Vec<Row> = QUESTIONS.iter().map(|question| row(runs, question)).collect();
    rows.extend(GROWTH.iter().map(|(what, unit, pick)| {
        let steps = outcome.size.steps();
        let from = if *unit == "KiB" { MEMORY_FROM } else { 0 };
        let steps = steps.into_iter().filter(|step| *step >= from);
        let values: Vec<(u32, f64)> = steps
            .filter_map(|step| Some((step, median(runs, &format!("growth {step}"), Earshot, pick)?)))
            .collect();
        growth(what, unit, &values)
    }));
    rows
}

fn row(runs: &[Run], question: &Question) -> Row {
    let of = |subject| median(runs, question.case, subject, question.pick);
    let values = sorted(runs, question.case, Earshot, question.pick);
    let (bare_loop, nchan, earshot) = (of(BareLoop), of(Nchan), of(Earshot));
    let mut row = Row {
        what: question.what.to_owned(),
        unit: question.unit.to_owned(),
        bare_loop,
        nchan,
        earshot,
        spread: values.first().copied().zip(values.last().copied()),
        goals: Vec::new(),
        met: None,
    };
    for goal in question.goals {
        let other = |subject| if subject == BareLoop { bare_loop } else { nchan };
        if let Some((words, met)) = judge(*goal, earshot, other) {
            row.goals.push(words);
            row.met = Some(row.met.unwrap_or(true) && met);
        }
    }
    row
}

fn judge(goal: Goal, value: Option<f64>, other: impl Fn(Subject) -> Option<f64>) -> Option<(String, bool)> {
    let value = value?;
    let against = |subject| Some((value / other(subject).filter(|other| *other > 0.0)?, name(subject)));
    Some(match goal {
        Goal::Within(times, subject) => {
            let (ratio, name) = against(subject)?;
            (format!("{ratio:.2} × {name}, wanted ≤ {times}"), ratio <= times)
        }
        Goal::Reaches(times, subject) => {
            let (ratio, name) = against(subject)?;
            (format!("{ratio:.2} × {name}, wanted ≥ {times}"), ratio >= times)
        }
        Goal::NoMoreThan(most) => (format!("wanted ≤ {most}"), value <= most),
        Goal::NoLessThan(least) => (format!("wanted ≥ {least}"), value >= least),
    })
}

fn name(subject: Subject) -> &'static str {
    match subject {
        BareLoop => "bare loop",
        Nchan => "nchan",
        Earshot => "Earshot",
    }
}

/// How far the values for different numbers of subscribers are from their mean.
fn growth(what: &str, unit: &str, values: &[(u32, f64)]) -> Row {
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / (values.len() as f64).max(1.0);
    let off = |value: f64| if mean > 0.0 { (value / mean - 1.0) * 100.0 } else { 0.0 };
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| {
        (low.min(*value), high.max(*value))
    });
    let enough = values.len() > 1;
    let steps: Vec<String> = values.iter().map(|(step, value)| format!("{step}: {value:.2}")).collect();
    Row {
        what: format!("{what} by subscribers ({})", steps.join(", ")),
        unit: unit.to_owned(),
        bare_loop: None,
        nchan: None,
        earshot: enough.then_some(mean),
        spread: enough.then_some((low, high)),
        goals: if enough {
            vec![format!("{:+.0} % to {:+.0} %, wanted within {FLAT_PERCENT} %", off(low), off(high))]
        } else {
            Vec::new()
        },
        met: enough.then(|| off(low) >= -FLAT_PERCENT && off(high) <= FLAT_PERCENT),
    }
}

/// The table as it can be quoted.
pub(crate) fn markdown(outcome: &Outcome) -> String {
    let size = &outcome.size;
    let mut text = format!(
        "# {}\n\n{}, {}. {}.\n\nMedians of {} rounds side by side, each run against a fresh server. The server on one core, the \
         load and Redis on the other. {} subscribers on one channel, {} messages of 128 bytes a second for {} s, unless the \
         line says otherwise; Earshot through a plain `PUBLISH`, nchan through its HTTP API.\n\n",
        outcome.date,
        outcome.commit.as_deref().unwrap_or("no commit"),
        outcome.machine.line(),
        outcome.versions.join("; "),
        size.rounds,
        size.subscribers,
        size.rate,
        size.seconds
    );
    text += "| | bare loop | nchan | Earshot | lowest – highest | goal | |\n|---|---|---|---|---|---|---|\n";
    for row in outcome.table.iter().filter(|row| row.earshot.is_some()) {
        let value = |value: Option<f64>| value.map_or_else(String::new, number);
        let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
        let spread =
            row.spread.map_or_else(String::new, |(low, high)| format!("{} – {}", number(low), number(high)));
        let met = match row.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {}{unit} | {} | {} | {} | {spread} | {} | {met} |",
            row.what,
            value(row.bare_loop),
            value(row.nchan),
            value(row.earshot),
            row.goals.join("; ")
        );
    }
    text + &caveats(outcome)
}

/// Where the numbers are not the server's alone.
fn caveats(outcome: &Outcome) -> String {
    let mut text = String::new();
    let all = outcome.runs.len();
    let those = |wrong: fn(&Run) -> bool| outcome.runs.iter().filter(|run| wrong(run)).collect::<Vec<_>>();
    for (runs, what) in [
        (those(|run| !run.numbers.clean), "something was lost, doubled or out of order"),
        (those(|run| run.numbers.bottleneck), "the load test was at its own limit"),
        // Elsewhere latency is not what is asked for.
        (
            those(|run| run.numbers.late && run.case == "half load"),
            "latencies include how late the load test was",
        ),
        (
            those(|run| run.numbers.load_starved.is_some_and(|share| share > STARVED)),
            "the load test waited for its core, which had other work (Redis, or another program)",
        ),
    ] {
        if runs.is_empty() {
            continue;
        }
        let mut cases: Vec<String> =
            runs.iter().map(|run| format!("{} of {}", run.case, name(run.subject))).collect();
        cases.sort_unstable();
        cases.dedup();
        // Writing to a string cannot fail.
        let _ = write!(text, "\nIn {} of {all} runs {what}: {}.\n", runs.len(), cases.join(", "));
    }
    text
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let head = digits.len() % 3;
            let groups = digits.char_indices().map(|(index, digit)| {
                if index > 0 && index % 3 == head { format!(",{digit}") } else { digit.to_string() }
            });
            groups.collect()
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        small if small >= 0.1 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Size;

    fn run(case: &str, subject: Subject, micros: f64) -> Run {
        let numbers = Numbers { micros_per_delivery: Some(micros), clean: true, ..Numbers::default() };
        Run { case: case.to_owned(), subject, round: 0, line: String::new(), numbers }
    }

    fn outcome(runs: Vec<Run>) -> Outcome {
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
        let mut outcome = Outcome {
            format: 1,
            date: String::new(),
            commit: None,
            machine,
            versions,
            size,
            runs,
            table: Vec::new(),
        };
        outcome.table = table(&outcome);
        outcome
    }

    #[test]
    fn medians_become_ratios_and_ratios_are_judged() {
        let mut runs: Vec<Run> =
            [9.0, 5.0, 5.5].into_iter().map(|micros| run("fanout WebSocket", Earshot, micros)).collect();
        runs.extend([5.0, 5.0, 50.0].map(|micros| run("fanout WebSocket", BareLoop, micros)));
        runs.push(run("fanout WebSocket", Nchan, 7.0));
        let outcome = outcome(runs);
        let row = &outcome.table[0];
        assert_eq!((row.bare_loop, row.earshot, row.spread), (Some(5.0), Some(5.5), Some((5.0, 9.0))));
        assert_eq!(row.goals, ["1.10 × bare loop, wanted ≤ 1.15", "0.79 × nchan, wanted ≤ 0.75"]);
        assert_eq!(row.met, Some(false));
        let text = markdown(&outcome);
        assert!(
            text.contains("| CPU per delivery, WebSocket, µs | 5.00 | 7.00 | 5.50 | 5.00 – 9.00 |"),
            "{text}"
        );
        assert!(!text.contains("| memory per idle connection"), "{text}");
    }

    #[test]
    fn growth_is_judged_by_how_far_it_is_from_flat() {
        let flat = |values: &[(&str, f64)]| {
            let runs = values.iter().map(|(step, micros)| run(&format!("growth {step}"), Earshot, *micros));
            outcome(runs.collect()).table[QUESTIONS.len()].clone()
        };
        let row = flat(&[("50", 5.0), ("500", 5.0), ("600", 6.0)]);
        assert_eq!(row.met, Some(true), "{row:?}");
        assert_eq!(flat(&[("50", 5.0), ("500", 5.0), ("600", 8.0)]).met, Some(false));
        assert_eq!(flat(&[("50", 5.0)]).met, None);
    }

    #[test]
    fn runs_that_cannot_be_believed_are_named() {
        let mut bad = run("highest", Nchan, 1.0);
        (bad.numbers.clean, bad.numbers.bottleneck) = (false, true);
        let text = markdown(&outcome(vec![bad, run("highest", Earshot, 1.0)]));
        assert!(
            text.contains("In 1 of 2 runs the load test was at its own limit: highest of nchan."),
            "{text}"
        );
        assert!(text.contains("In 1 of 2 runs something was lost, doubled or out of order"), "{text}");
    }

    #[test]
    fn numbers_are_as_long_as_they_are_worth() {
        let shown = [0.0, 0.0123, 4.944, 16.61, 122.2, 1000.0, 12_345.6, 171_661.0].map(number);
        assert_eq!(shown, ["0.00", "0.0123", "4.94", "16.6", "122", "1,000", "12,346", "171,661"]);
    }
}
