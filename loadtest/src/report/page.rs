//! One or more records as a self-contained HTML page: no scripts, fonts or images from elsewhere.

use std::fmt::Write as _;

use super::chart::{Axis, Chart, Line};
use super::compare::{self, number, run_letter};
use super::escape::escaped;
use crate::record::{Latency, Record, SampleRecord};

const STYLE: &str = include_str!("page.css");

/// Renders the page.
pub(crate) fn page(records: &[Record]) -> String {
    let title = match records {
        [one] => one.title.clone(),
        _ => format!("{} runs of {}", records.len(), records.first().map_or("", |record| &record.scenario)),
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{}</h1>\n",
        escaped(&title),
        escaped(&title)
    );
    runs(records, &mut html);
    notes(records, &mut html);
    html += "<h2>Figures</h2>\n";
    figures(records, &mut html);
    html += "<h2>Over time</h2>\n";
    for chart in over_time(records) {
        html += &chart.html();
    }
    html += "<h2>Latency</h2>\n";
    html += &distribution(records).html();
    html += "<h2>Settings</h2>\n";
    settings(records, &mut html);
    html + "</body>\n</html>\n"
}

/// Title, date, machine and verdict of each run.
fn runs(records: &[Record], html: &mut String) {
    for (index, record) in records.iter().enumerate() {
        let verdict = match (&record.failure, record.clean) {
            (Some(failure), _) => format!("<strong class=\"bad\">failed: {}</strong>", escaped(failure)),
            (None, false) => "<strong class=\"bad\">not clean</strong>".to_owned(),
            (None, true) => "<strong class=\"good\">clean</strong>".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "<p><b class=\"t{}\">{}</b> {}<br/>{}, {}, {}. {verdict}</p>",
            index % 6,
            run_letter(index),
            escaped(&record.title),
            escaped(&record.date),
            escaped(record.commit.as_deref().unwrap_or("no commit")),
            escaped(&record.machine.line())
        );
    }
}

fn notes(records: &[Record], html: &mut String) {
    let warnings = records.iter().enumerate().flat_map(|(index, record)| {
        record.warnings.iter().map(move |warning| format!("{}: {warning}", run_letter(index)))
    });
    let notes: Vec<String> = compare::comparability_notes(records).into_iter().chain(warnings).collect();
    if notes.is_empty() {
        return;
    }
    *html += "<ul class=\"notes\">";
    for note in notes {
        let _ = write!(html, "<li>{}</li>", escaped(&note));
    }
    *html += "</ul>\n";
}

fn figures(records: &[Record], html: &mut String) {
    *html += "<table>\n<thead><tr><th></th>";
    for index in 0..records.len() {
        let _ = write!(html, "<th>{}</th>{}", run_letter(index), if index > 0 { "<th></th>" } else { "" });
    }
    *html += "</tr></thead>\n<tbody>\n";
    for row in compare::rows(records) {
        let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
        let _ = write!(html, "<tr><th>{}{}</th>", escaped(&row.label), escaped(&unit));
        for (index, value) in row.values.iter().enumerate() {
            let _ = write!(html, "<td>{}</td>", value.map_or_else(|| "–".to_owned(), number));
            if index > 0 {
                *html += &change(&row, index);
            }
        }
        *html += "</tr>\n";
    }
    *html += "</tbody>\n</table>\n";
}

fn change(row: &compare::ComparisonRow, index: usize) -> String {
    let Some(percent) = row.change(index) else { return "<td></td>".to_owned() };
    let class = match row.is_better(percent) {
        Some(true) => " class=\"good\"",
        Some(false) => " class=\"bad\"",
        None => "",
    };
    format!("<td{class}>{percent:+.1} %</td>")
}

fn over_time(records: &[Record]) -> Vec<Chart> {
    let chart =
        |title: &str, unit, lines| Chart { title: title.to_owned(), unit, axis: Axis::Seconds, lines };
    let delivered = one_each(records, &[("delivered", &|sample| Some(sample.delivered))]);
    let latency = one_each(
        records,
        &[("p50", &|sample| sample.p50), ("p99", &|sample| sample.p99), ("max", &|sample| sample.max)],
    );
    let missing = one_each(records, &[("missing", &|sample| Some(sample.missing as f64))]);
    let cores = for_processes(
        records,
        &[
            ("user and system", &|sample, index| Some(sample.user.get(index)? + sample.system.get(index)?)),
            ("user", &|sample, index| sample.user.get(index).copied()),
        ],
    );
    let resident = |sample: &SampleRecord, index: usize| {
        sample.resident.get(index).map(|bytes| *bytes as f64 / f64::from(1 << 20))
    };
    let memory = for_processes(records, &[("memory", &resident)]);
    let subscribed = one_each(records, &[("subscribed", &|sample| Some(sample.subscribed as f64))]);
    vec![
        chart("Deliveries", "per second", delivered),
        chart("Latency over time", "ms", latency),
        chart("Missing messages", "messages", missing),
        chart("CPU time", "cores", cores),
        chart("Resident memory", "MiB", memory),
        chart("Active subscribers", "subscribers", subscribed),
    ]
}

type Pick<'a> = &'a dyn Fn(&SampleRecord) -> Option<f64>;

fn one_each(records: &[Record], picks: &[(&str, Pick<'_>)]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (colour, record) in records.iter().enumerate() {
        for (dash, (name, pick)) in picks.iter().enumerate() {
            let name = format!("{} {name}", run_letter(colour));
            let points = record.series.iter().filter_map(|sample| Some((sample.at, pick(sample)?)));
            lines.push(Line { name, colour, dash, points: points.collect() });
        }
    }
    lines
}

type PickProcess<'a> = &'a dyn Fn(&SampleRecord, usize) -> Option<f64>;

fn for_processes(records: &[Record], picks: &[(&str, PickProcess<'_>)]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (run, record) in records.iter().enumerate() {
        for (index, process) in record.processes.iter().enumerate() {
            for (dash, (name, pick)) in picks.iter().enumerate() {
                let name = format!("{} {}: {name}", run_letter(run), process.name);
                let points =
                    record.series.iter().filter_map(|sample| Some((sample.at, pick(sample, index)?)));
                lines.push(Line { name, colour: run + index, dash, points: points.collect() });
            }
        }
    }
    lines
}

fn distribution(records: &[Record]) -> Chart {
    let mut lines = Vec::new();
    let mut push = |run: usize, name: &str, dash: usize, latency: &Latency| {
        let name = format!("{} {name}", run_letter(run));
        // The last point is a single value, the maximum.
        let points = latency.distribution.iter().copied().filter(|(percentile, _)| *percentile < 100.0);
        lines.push(Line { name, colour: run, dash, points: points.collect() });
    };
    for (run, record) in records.iter().enumerate() {
        for (dash, cohort) in record.cohorts.iter().enumerate() {
            push(run, &cohort.name, dash, &cohort.latency);
        }
        if let Some(returning) = &record.reconnecting {
            push(run, "reconnecting", record.cohorts.len(), returning);
        }
    }
    Chart {
        title: "Latency from due to received, by percentile".to_owned(),
        unit: "ms",
        axis: Axis::Percentiles,
        lines,
    }
}

fn settings(records: &[Record], html: &mut String) {
    let mut names: Vec<&String> = records.iter().flat_map(|record| record.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    *html += "<table>\n<thead><tr><th></th>";
    for index in 0..records.len() {
        let _ = write!(html, "<th>{}</th>", run_letter(index));
    }
    *html += "</tr></thead>\n<tbody>\n";
    for name in names {
        let _ = write!(html, "<tr><th>{}</th>", escaped(name));
        for record in records {
            let value = record.settings.get(name).map_or("–", String::as_str);
            let _ = write!(html, "<td>{}</td>", escaped(value));
        }
        *html += "</tr>\n";
    }
    *html += "</tbody>\n</table>\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cohort, ProcessUsage};

    fn record(title: &str) -> Record {
        let latency = Latency {
            count: 3,
            p99: 2.0,
            distribution: vec![(0.0, 1.0), (50.0, 1.5), (99.0, 2.0), (100.0, 2.5)],
            ..Latency::default()
        };
        let sample = |at| SampleRecord {
            at,
            delivered: 10.0 * at,
            p99: Some(1.0),
            user: vec![0.1],
            system: vec![0.2],
            resident: vec![1 << 20],
            ..SampleRecord::default()
        };
        Record {
            title: title.to_owned(),
            scenario: "fanout".to_owned(),
            cohorts: vec![Cohort { name: "SSE".to_owned(), latency, ..Cohort::default() }],
            processes: vec![ProcessUsage { name: "a & b".to_owned(), ..ProcessUsage::default() }],
            warnings: vec!["it was < 3".to_owned()],
            settings: [("publish".to_owned(), "Redis".to_owned())].into(),
            series: vec![sample(0.5), sample(1.0)],
            clean: true,
            ..Record::default()
        }
    }

    /// Checks that tags nest and are closed, attributes are quoted, and text is escaped.
    fn assert_well_formed(html: &str) {
        let html = html.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
        let (mut open, mut rest) = (Vec::new(), html);
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a stray > before {:.80}", &rest[start..]);
            for entity in rest[..start].split('&').skip(1) {
                assert!(
                    ["amp;", "lt;", "gt;", "quot;"].iter().any(|name| entity.starts_with(name)),
                    "{entity:.40}"
                );
            }
            let end = start + rest[start..].find('>').expect("an unfinished tag");
            let tag = &rest[start + 1..end];
            assert!(!tag.contains('<'), "{tag}");
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "closed in the wrong order");
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap().to_owned());
            }
            rest = &rest[end + 1..];
        }
        assert_eq!(open, Vec::<String>::new(), "left open");
    }

    #[test]
    fn page_is_well_formed_and_self_contained() {
        for records in [vec![record("one <b> & \"two\"")], vec![record("a"), record("b"), Record::default()]]
        {
            let html = page(&records);
            assert_well_formed(&html);
            for foreign in ["<script", "http://", "https://", "url(", "src=", "@import"] {
                assert!(!html.contains(foreign), "{foreign}");
            }
            assert!(html.matches("<svg viewBox=\"0 0 720").count() >= 5, "{}", html.len());
        }
    }

    #[test]
    fn page_shows_lines_and_notes_of_every_run() {
        let html = page(&[record("a"), record("b")]);
        for text in ["A delivered", "B delivered", "A SSE", "B SSE", "A: it was &lt; 3", "B a &amp; b: user"]
        {
            assert!(html.contains(text), "{text}");
        }
    }
}
