//! Compares records: their common figures and how they changed. Also decides whether records are comparable.

use std::fmt::{self, Write as _};

use crate::record::{Latency, ProcessUsage, Record};

/// Direction of improvement of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    /// Lower is better.
    Lower,
    /// Higher is better.
    Higher,
    /// Neither.
    Neither,
}

/// One figure of all runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ComparisonRow {
    pub(super) label: String,
    pub(super) unit: String,
    pub(super) better: Better,
    /// Values by run; `None` if a run lacks the figure.
    pub(super) values: Vec<Option<f64>>,
}

impl ComparisonRow {
    /// Change against the first run, in per cent.
    pub(super) fn change(&self, run: usize) -> Option<f64> {
        let (first, now) = (self.values.first().copied()??, self.values.get(run).copied()??);
        (run > 0 && first != 0.0).then(|| (now - first) / first.abs() * 100.0)
    }

    /// Whether a change is an improvement; `None` if there is no change or no direction.
    pub(super) fn is_better(&self, change: f64) -> Option<bool> {
        match self.better {
            Better::Lower if change != 0.0 => Some(change < 0.0),
            Better::Higher if change != 0.0 => Some(change > 0.0),
            _ => None,
        }
    }
}

/// Figures of all runs, in display order.
pub(super) fn rows(records: &[Record]) -> Vec<ComparisonRow> {
    let mut rows: Vec<ComparisonRow> = Vec::new();
    for (run, record) in records.iter().enumerate() {
        for (label, unit, better, value) in figures(record) {
            let index = rows.iter().position(|row| row.label == label).unwrap_or_else(|| {
                let values = vec![None; records.len()];
                rows.push(ComparisonRow { label: label.clone(), unit: unit.clone(), better, values });
                rows.len() - 1
            });
            rows[index].values[run] = Some(value);
        }
    }
    rows
}

type Figure = (String, String, Better, f64);

fn figure(label: &str, unit: &str, better: Better, value: f64) -> Figure {
    (label.to_owned(), unit.to_owned(), better, value)
}

fn figures(record: &Record) -> Vec<Figure> {
    use Better::{Higher, Lower, Neither};
    let all = &record.deliveries;
    let mut figures = vec![
        figure("subscribers", "", Neither, record.connect.subscribers as f64),
        figure("connections per second", "/s", Higher, record.connect.per_second),
    ];
    if record.published.seconds > 0.0 {
        figures.push(figure("messages per second", "/s", Neither, record.published.per_second));
        figures.push(figure("deliveries per second", "/s", Higher, all.per_second));
    }
    let wrong = [
        ("lost", all.lost),
        ("duplicated", all.duplicates),
        ("out of order", all.out_of_order),
        ("misrouted", all.misrouted),
        ("altered", all.altered),
        ("offsets skipped", all.skipped),
        ("gap notices", all.gaps),
    ];
    figures.extend(wrong.map(|(name, count)| figure(name, "", Lower, count as f64)));
    for cohort in &record.cohorts {
        latency(&cohort.name, &cohort.latency, &mut figures);
    }
    latency("connecting", &record.connect.latency, &mut figures);
    latency("reconnecting", record.reconnecting.as_ref().unwrap_or(&Latency::default()), &mut figures);
    for process in &record.processes {
        processor(process, &mut figures);
    }
    for measure in &record.measures {
        figures.push(figure(&measure.label, &measure.unit, Neither, measure.value));
    }
    if let Some(share) = record.generator.busiest_second {
        let label = "load test: busiest thread in its busiest second";
        figures.push(figure(label, "% of a core", Lower, share.busy * 100.0));
    }
    if let Some(full) = record.generator.core_utilization_max {
        figures.push(figure(
            "load test: utilisation of its cores in the busiest second",
            "%",
            Lower,
            full * 100.0,
        ));
    }
    figures
}

fn latency(name: &str, latency: &Latency, figures: &mut Vec<Figure>) {
    if latency.count == 0 {
        return;
    }
    let Latency { p50, p90, p99, p99_9, max, .. } = *latency;
    for (which, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
        figures.push(figure(&format!("{name}: latency {which}"), "ms", Better::Lower, value));
    }
}

fn processor(process: &ProcessUsage, figures: &mut Vec<Figure>) {
    let name = &process.name;
    let mut push = |label: &str, unit: &str, value: Option<f64>| {
        if let Some(value) = value {
            figures.push(figure(&format!("{name}: {label}"), unit, Better::Lower, value));
        }
    };
    let mebibytes = |bytes: u64| Some(bytes as f64 / f64::from(1 << 20));
    push("CPU time per delivery", "µs", process.micros_per_delivery());
    push("of which in user space", "µs", process.user_micros_per_delivery);
    push("share of user space", "%", process.user_share().map(|share| share * 100.0));
    push("cores", "", Some(process.cores));
    push("memory per connection", "KiB", process.bytes_per_connection.map(|bytes| bytes / 1024.0));
    push("peak memory", "MiB", mebibytes(process.resident_peak));
    push("memory at the end", "MiB", mebibytes(process.resident_after));
}

/// Reasons why the records may not be comparable.
pub(super) fn comparability_notes(records: &[Record]) -> Vec<String> {
    let Some((first, others)) = records.split_first() else { return Vec::new() };
    let mut comparability_notes = Vec::new();
    let mut differ = |what: &str, differs: &dyn Fn(&Record) -> bool| {
        if others.iter().any(differs) {
            comparability_notes.push(format!("the runs differ in {what}"));
        }
    };
    differ("scenario", &|other| other.scenario != first.scenario);
    differ("machine", &|other| {
        let key = |record: &Record| {
            let machine = &record.machine;
            (machine.processor.clone(), machine.cores, machine.kernel.clone())
        };
        key(other) != key(first)
    });
    let names: Vec<&String> = first.settings.keys().collect();
    for name in names {
        differ(name, &|other| other.settings.get(name) != first.settings.get(name));
    }
    for (index, record) in records.iter().enumerate() {
        if record.generator.bottleneck {
            comparability_notes
                .push(format!("in run {} the load test was at its own limit", run_letter(index)));
        }
        if record.generator.late {
            comparability_notes.push(format!(
                "in run {} latencies include the read delay of the load test",
                run_letter(index)
            ));
        }
        if !record.clean || record.failure.is_some() {
            comparability_notes.push(format!("run {} is not clean", run_letter(index)));
        }
    }
    comparability_notes
}

/// Label of a run: A, B, ….
pub(super) fn run_letter(run: usize) -> String {
    let run_letter = u8::try_from(run).ok().filter(|run| *run < 26).map(|run| char::from(b'A' + run));
    run_letter.map_or_else(|| (run + 1).to_string(), String::from)
}

/// Formats a number with a suitable number of digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Comparison as a text table.
#[derive(Debug)]
pub(crate) struct RunComparison<'a>(pub(crate) &'a [Record]);

impl fmt::Display for RunComparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, record) in self.0.iter().enumerate() {
            let commit = record.commit.as_deref().unwrap_or("no commit");
            writeln!(f, "{}  {}\n   {}, {commit}", run_letter(index), record.title, record.date)?;
        }
        let rows = rows(self.0);
        let width = rows.iter().map(|row| row.label.chars().count() + row.unit.chars().count() + 2).max();
        let width = width.unwrap_or_default();
        write!(f, "\n{:width$}", "")?;
        for index in 0..self.0.len() {
            write!(f, "{:>12}", run_letter(index))?;
            write!(f, "{}", if index > 0 { "         " } else { "" })?;
        }
        writeln!(f)?;
        for row in &rows {
            let head =
                if row.unit.is_empty() { row.label.clone() } else { format!("{}, {}", row.label, row.unit) };
            write!(f, "{head:width$}")?;
            for (index, value) in row.values.iter().enumerate() {
                write!(f, "{:>12}", value.map_or_else(|| "-".to_owned(), number))?;
                if index > 0 {
                    let mut change = String::new();
                    if let Some(percent) = row.change(index) {
                        write!(change, "{percent:+.1}%")?;
                    }
                    write!(f, "{change:>9}")?;
                }
            }
            writeln!(f)?;
        }
        for objection in comparability_notes(self.0) {
            writeln!(f, "\nnote: {objection}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, Connect, Measure};

    fn record(p99: f64, subscribers: u64) -> Record {
        let latency = Latency { count: 10, p99, ..Latency::default() };
        let cohort = Cohort { name: "SSE".to_owned(), latency, ..Cohort::default() };
        let connect = Connect { subscribers, ..Connect::default() };
        Record { cohorts: vec![cohort], connect, clean: true, ..Record::default() }
    }

    fn row(rows: &[ComparisonRow], label: &str) -> ComparisonRow {
        rows.iter().find(|row| row.label == label).unwrap_or_else(|| panic!("{label}: {rows:?}")).clone()
    }

    #[test]
    fn changes_are_relative_to_the_first_run() {
        let mut second = record(12.0, 5);
        let (name, label, unit) = ("x".to_owned(), "only here".to_owned(), "s".to_owned());
        second.measures.push(Measure { name, label, value: 1.5, unit });
        let rows = rows(&[record(10.0, 5), second]);
        let latency = row(&rows, "SSE: latency p99");
        assert_eq!((latency.change(0), latency.change(1)), (None, Some(20.0)));
        assert_eq!((latency.is_better(20.0), latency.is_better(-1.0)), (Some(false), Some(true)));
        assert_eq!(row(&rows, "only here").values, [None, Some(1.5)]);
        assert_eq!(row(&rows, "lost").change(1), None);
    }

    #[test]
    fn different_settings_are_noted() {
        assert_eq!(comparability_notes(&[record(1.0, 5), record(2.0, 5)]), Vec::<String>::new());
        let mut other = record(1.0, 5);
        other.settings.insert("size".to_owned(), "64".to_owned());
        other.clean = false;
        let mut first = record(1.0, 5);
        first.settings.insert("size".to_owned(), "128".to_owned());
        assert_eq!(comparability_notes(&[first, other]), ["the runs differ in size", "run B is not clean"]);
    }

    #[test]
    fn table_has_a_column_per_run() {
        let text = RunComparison(&[record(10.0, 5), record(12.0, 5)]).to_string();
        let line = text.lines().find(|line| line.starts_with("SSE: latency p99,")).unwrap();
        let words: Vec<&str> = line.split_ascii_whitespace().skip(4).collect();
        assert_eq!(words, ["10", "12", "+20.0%"], "{text}");
    }
}
