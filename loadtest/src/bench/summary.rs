//! From the runs to the rows of the table: medians, ratios, and whether each goal is met. Never measures.

use serde::{Deserialize, Serialize};

use super::Subject::{BareLoop, Centrifugo, Earshot, Nchan};
use super::goals::{Goal, QUESTIONS, Question};
use super::run::Numbers;
use super::{Outcome, Run, Subject, growth};
use crate::report::doubts::had_something_left;

/// One line of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    #[serde(default)]
    pub(crate) centrifugo: Option<f64>,
    /// See above.
    pub(crate) earshot: Option<f64>,
    /// The lowest and the highest of Earshot's runs.
    pub(crate) spread: Option<(f64, f64)>,
    /// What was to be, and what is; and how it stands to the peers'.
    pub(crate) goals: Vec<String>,
    /// Of rates: whose limit they are not.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
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
    crate::median::median(values(runs, case, subject, pick))
}

fn values(runs: &[Run], case: &str, subject: Subject, pick: impl Fn(&Numbers) -> Option<f64>) -> Vec<f64> {
    let of_it = runs.iter().filter(|run| run.case == case && run.subject == subject);
    of_it.filter_map(|run| pick(&run.numbers)).collect()
}

/// The table.
pub(crate) fn table(outcome: &Outcome) -> Vec<Row> {
    let runs = &outcome.runs;
    let mut rows: Vec<Row> = QUESTIONS.iter().map(|question| row(runs, question)).collect();
    rows.extend(growth::rows(outcome));
    rows
}

fn row(runs: &[Run], question: &Question) -> Row {
    let of = |subject| median(runs, question.case, subject, question.pick);
    let values = values(runs, question.case, Earshot, question.pick);
    let earshot = of(Earshot);
    let mut row = Row {
        what: question.what.to_owned(),
        unit: question.unit.to_owned(),
        bare_loop: of(BareLoop),
        nchan: of(Nchan),
        centrifugo: of(Centrifugo),
        earshot,
        spread: least_and_most(&values),
        goals: Vec::new(),
        notes: if question.is_rate { notes(runs, question.case) } else { Vec::new() },
        met: None,
    };
    for goal in question.goals {
        if let Some((words, met)) = judge(*goal, earshot, of) {
            row.goals.push(words);
            row.met = Some(row.met.unwrap_or(true) && met);
        }
    }
    for peer in [Nchan, Centrifugo] {
        let says_so = |goal: &Goal| matches!(goal, Goal::Within(_, of) | Goal::Reaches(_, of) if *of == peer);
        if let (Some(earshot), Some(its)) = (earshot, of(peer))
            && !question.goals.iter().any(says_so)
            && earshot.min(its) > 0.0
        {
            row.goals.push(format!("{:.2} × {}", earshot / its, name(peer)));
        }
    }
    row
}

fn least_and_most(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

/// Who could have done more, in a case whose rate is as much as could be reached.
fn notes(runs: &[Run], case: &str) -> Vec<String> {
    let note = |subject| {
        let cores = median(runs, case, subject, |numbers| Some(numbers.server_cores))?;
        let full = median(runs, case, subject, |numbers| numbers.server_full_worst);
        let load_full =
            median(runs, case, subject, |numbers| Some(f64::from(u8::from(numbers.bottleneck))))? > 0.5;
        let whose = if load_full { "the load test's limit" } else { "not its limit" };
        had_something_left(cores, full)
            .then(|| format!("{} used {cores:.2} of its core: {whose}", name(subject)))
    };
    [BareLoop, Nchan, Centrifugo, Earshot].into_iter().filter_map(note).collect()
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

pub(super) fn name(subject: Subject) -> &'static str {
    match subject {
        BareLoop => "bare loop",
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

    pub(in super::super) fn run(case: &str, subject: Subject, micros: f64) -> Run {
        let numbers = Numbers { micros_per_delivery: Some(micros), clean: true, ..Numbers::default() };
        Run { case: case.to_owned(), subject, round: 0, line: String::new(), numbers }
    }

    pub(in super::super) fn outcome(runs: Vec<Run>) -> Outcome {
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
            redis: Vec::new(),
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
        runs.push(run("fanout WebSocket", Centrifugo, 11.0));
        let outcome = outcome(runs);
        let row = &outcome.table[0];
        assert_eq!((row.bare_loop, row.earshot, row.spread), (Some(5.0), Some(5.5), Some((5.0, 9.0))));
        let goals = ["1.10 × bare loop, wanted ≤ 1.15", "0.79 × nchan, wanted ≤ 0.75", "0.50 × Centrifugo"];
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
    fn what_nchan_can_do_stands_beside_it_with_a_goal_or_without() {
        let mut runs = vec![run("many channels", Nchan, 4.0), run("many channels", Earshot, 3.0)];
        let row = |runs: &[Run]| {
            let table = outcome(runs.to_vec()).table;
            table.into_iter().find(|row| row.what == "the same: CPU per delivery").unwrap()
        };
        assert_eq!((row(&runs).goals, row(&runs).met), (vec!["0.75 × nchan".to_owned()], None));
        runs[0].numbers.micros_per_delivery = Some(0.0);
        assert_eq!(row(&runs).goals, Vec::<String>::new());
    }

    #[test]
    fn a_rate_that_is_not_the_servers_limit_says_so_in_its_row() {
        let rate = |cores, full, bottleneck| {
            let mut run = run("highest", Earshot, 1.0);
            let numbers = &mut run.numbers;
            (numbers.deliveries_per_second, numbers.server_cores) = (1000.0, cores);
            (numbers.server_full_worst, numbers.bottleneck) = (Some(full), bottleneck);
            outcome(vec![run]).table.into_iter().find(|row| row.earshot == Some(1000.0)).unwrap().notes
        };
        assert_eq!(rate(0.62, 0.7, false), ["Earshot used 0.62 of its core: not its limit"]);
        assert_eq!(rate(0.62, 0.7, true), ["Earshot used 0.62 of its core: the load test's limit"]);
        assert_eq!(rate(0.95, 0.95, true), Vec::<String>::new());
        assert_eq!(rate(0.62, 0.99, false), Vec::<String>::new());
    }
}
