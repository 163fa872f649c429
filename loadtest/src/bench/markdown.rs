//! The result as a Markdown document. Names runs whose figures are not reliable.

use std::fmt::Write as _;

use super::row::SummaryRow;
use super::summary::name;
use super::{BenchResult, BenchRun};
use crate::format::number;
use crate::redis_costs;

/// Share of the time that the load test may wait for its core. Above it, another process used the core.
const STARVED_MAX: f64 = 0.2;

/// Renders the document.
pub(crate) fn page(outcome: &BenchResult) -> String {
    let size = &outcome.size;
    let mut text = format!(
        "# {}\n\n{}, {}. {}.\n\nMedians of {} rounds; each run has a fresh server. The server runs on one core, the load and \
         Redis on the other. {} subscribers on one channel, {} messages of 128 bytes per second for {} s, unless the row \
         says otherwise. Messages reach Earshot through a plain `PUBLISH`, the other servers through their HTTP APIs.\n\n",
        outcome.date,
        outcome.commit.as_deref().unwrap_or("no commit"),
        outcome.machine.line(),
        outcome.versions.join("; "),
        size.rounds,
        size.subscribers,
        size.rate,
        size.seconds
    );
    text += "| | kernel baseline | nchan | Centrifugo | Earshot | lowest – highest | goals, ratios, limits | |\n\
             |---|---|---|---|---|---|---|---|\n";
    for row in outcome.table.iter().filter(|row| row.earshot.is_some()) {
        text += &line(row);
    }
    text += &caveats(outcome);
    if !outcome.redis.is_empty() {
        text += &format!("\n{}", redis_costs::table(&outcome.redis));
    }
    text
}

fn line(row: &SummaryRow) -> String {
    let value = |value: Option<f64>| value.map_or_else(String::new, number);
    let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
    let spread =
        row.spread.map_or_else(String::new, |(low, high)| format!("{} – {}", number(low), number(high)));
    let met = match row.met {
        Some(true) => "met",
        Some(false) => "**not met**",
        None => "",
    };
    let words: Vec<&str> = row.goals.iter().chain(&row.notes).map(String::as_str).collect();
    format!(
        "| {}{unit} | {} | {} | {} | {} | {spread} | {} | {met} |\n",
        row.label,
        value(row.kernel_baseline),
        value(row.nchan),
        value(row.centrifugo),
        value(row.earshot),
        words.join("; ")
    )
}

/// Lists runs whose metrics do not describe the server alone.
fn caveats(outcome: &BenchResult) -> String {
    let mut text = String::new();
    let all = outcome.runs.len();
    let those =
        |wrong: fn(&BenchRun) -> bool| outcome.runs.iter().filter(|run| wrong(run)).collect::<Vec<_>>();
    for (runs, label) in [
        (those(|run| !run.metrics.clean), "messages were lost, duplicated or out of order"),
        (those(|run| run.metrics.bottleneck), "the load test was at its own limit"),
        // In other cases latency is not evaluated.
        (
            those(|run| run.metrics.late && run.case == "half load"),
            "latencies include the read delay of the load test",
        ),
        (
            those(|run| run.metrics.generator_starved.is_some_and(|share| share > STARVED_MAX)),
            "the load test waited for its core, which another process used (such as Redis)",
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
        let _ = write!(text, "\nIn {} of {all} runs {label}: {}.\n", runs.len(), cases.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Subject::{Earshot, Nchan};
    use super::super::summary::tests::{outcome, run};
    use super::*;

    #[test]
    fn unreliable_runs_are_listed() {
        let mut bad = run("highest", Nchan, 1.0);
        (bad.metrics.clean, bad.metrics.bottleneck) = (false, true);
        let text = page(&outcome(vec![bad, run("highest", Earshot, 1.0)]));
        assert!(
            text.contains("In 1 of 2 runs the load test was at its own limit: highest of nchan."),
            "{text}"
        );
        assert!(text.contains("In 1 of 2 runs messages were lost, duplicated or out of order"), "{text}");
    }
}
