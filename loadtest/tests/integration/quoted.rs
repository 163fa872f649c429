//! docs/benchmarks.md quotes rows of the newest committed benchmark result, README.md five of them in short, and the
//! charts show values of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::loadtest::command;

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";

#[test]
fn documents_quote_the_newest_result() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    // Without a result there is nothing to quote.
    let Some(newest) = newest(&root.join("loadtest/bench/results")) else { return };
    let name = newest.file_name().unwrap().to_str().unwrap();
    let result = with_present_names(&fs::read_to_string(&newest).unwrap());
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let mut wrong = Vec::new();
    let mut check = |path: &str, found: Vec<String>| {
        wrong.extend(found.into_iter().map(|fault| format!("{path} {fault}")));
    };
    let benchmarks = read("docs/benchmarks.md");
    check("docs/benchmarks.md", name_missing(&benchmarks, name).into_iter().collect());
    check("docs/benchmarks.md", wrong_rows(&benchmarks, &result, Rows::Whole));
    check("README.md", wrong_rows(&read("README.md"), &result, Rows::FirstColumns));
    for chart in ["docs/images/benchmark-light.svg", "docs/images/benchmark-dark.svg"] {
        let svg = read(chart);
        check(chart, name_missing(&svg, name).into_iter().collect());
        check(chart, wrong_values(&svg, &result));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// docs/scaling.md quotes the output of `capacity` for the newest result. To update it, run this test with `RENEW=1`.
#[test]
fn scaling_quotes_what_capacity_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let Some(newest) = newest(&root.join("loadtest/bench/results")) else { return };
    let path = root.join("docs/scaling.md");
    let document = fs::read_to_string(&path).unwrap();
    let renewed = renewed(&document, &newest.with_extension("json"));
    if std::env::var_os("RENEW").is_some() {
        fs::write(&path, &renewed).unwrap();
        return;
    }
    assert!(document == renewed, "docs/scaling.md does not quote {}: run with RENEW=1", newest.display());
}

/// Updates each block of `<!-- capacity ARGUMENTS -->`.
fn renewed(document: &str, result: &Path) -> String {
    let (begin, end) = ("<!-- capacity ", "<!-- /capacity -->");
    let mut parts = document.split(begin);
    let mut renewed = parts.next().unwrap().to_owned();
    for part in parts {
        let (arguments, rest) = part.split_once(" -->").unwrap();
        let (_, rest) = rest.split_once(end).unwrap();
        let mut command = command();
        command.arg("capacity").arg(result).args(arguments.split_ascii_whitespace());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        // The constants are the same for all blocks; only the first block shows them.
        let (said, from) = said.split_once("\nfrom ").unwrap();
        let first = !renewed.contains(begin);
        let from = if first { format!("\nfrom {from}") } else { String::new() };
        renewed += &format!("{begin}{arguments} -->\n```text\n{said}{from}```\n{end}{rest}");
    }
    renewed
}

/// File names are dates.
fn newest(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    let files = entries.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).max()
}

/// Results before December 2026 call the kernel baseline *bare loop*.
fn with_present_names(result: &str) -> String {
    result.replace("bare loop", "kernel baseline")
}

fn name_missing(document: &str, name: &str) -> Option<String> {
    (!document.contains(name))
        .then(|| format!("does not name loadtest/bench/results/{name}, the newest result"))
}

#[derive(Clone, Copy)]
enum Rows {
    Whole,
    /// The rows end after any column.
    FirstColumns,
}

/// Rows between the markers of a document that differ from the result.
fn wrong_rows(document: &str, result: &str, quoted: Rows) -> Vec<String> {
    let block = document.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let Some((block, _)) = block else {
        return vec![format!("quotes nothing between {BEGIN} and {END}")];
    };
    let rows: Vec<&str> = block.lines().filter(|line| line.starts_with('|')).collect();
    // The header and the line below it are not rows.
    if rows.len() < 3 {
        return vec![format!("quotes no row between {BEGIN} and {END}")];
    }
    let is_quoted = |row: &str| {
        result.lines().any(|line| match quoted {
            Rows::Whole => line == row,
            Rows::FirstColumns => line.starts_with(row),
        })
    };
    let foreign = rows.into_iter().filter(|row| !is_quoted(row));
    foreign.map(|row| format!("has a row that is not in the result: {row}")).collect()
}

/// Values of a chart, `<text class="value" …>VALUE</text>`, that are no cell of the result.
fn wrong_values(svg: &str, result: &str) -> Vec<String> {
    let elements = svg.split("<text class=\"value\"").skip(1);
    let values = elements.map(|rest| rest.split_once('>').unwrap().1.split_once('<').unwrap().0);
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        values.partition(|value| result.contains(&format!("| {value} |")));
    let mut wrong: Vec<String> =
        unknown.into_iter().map(|value| format!("has a value that is not in the result: {value}")).collect();
    if known.is_empty() && wrong.is_empty() {
        wrong.push("has no value".to_owned());
    }
    wrong
}

#[test]
fn stale_result_or_number_is_detected() {
    let row = "| speed | 5.00 | 1.03 × bare loop |";
    let header = "| | it | ratio |\n|---|---|---|\n";
    let result = with_present_names(&format!("# date\n\n{header}{row}\n| more | 1.00 | |\n"));
    let document = |rows: &str| format!("# E\n\n{BEGIN}\n{rows}{END}\n");
    let whole = |document: &str| wrong_rows(document, &result, Rows::Whole);
    let first = |document: &str| wrong_rows(document, &result, Rows::FirstColumns);
    let none = Vec::<String>::new();
    let shown = |wrong: Vec<String>, words: &str| {
        assert!(wrong.len() == 1 && wrong[0].contains(words), "{words}: {wrong:?}");
    };

    let good = document(&format!("{header}{}\n", with_present_names(row)));
    assert_eq!(whole(&good), none);
    shown(whole(&good.replace("5.00", "4.90")), "not in the result: | speed | 4.90 |");
    shown(whole(&document("")), "quotes no row");
    shown(whole("# E\n"), "quotes nothing");

    let short = document("| | it |\n|---|---|\n| speed | 5.00 |\n");
    assert_eq!(first(&short), none);
    assert_eq!(whole(&short).len(), 3, "a whole row is not quoted in short");
    shown(first(&short.replace("5.00", "4.90")), "not in the result: | speed | 4.90 |");

    assert_eq!(name_missing("results/2026-11-21-0853.md", "2026-11-21-0853.md"), None);
    assert!(name_missing("results/2026-11-20-0000.md", "2026-11-21-0853.md").is_some());

    let chart = |value: &str| format!(r#"<text class="value" x="1">{value}</text><text x="2">s</text>"#);
    assert_eq!(wrong_values(&chart("5.00"), &result), none);
    shown(wrong_values(&chart("5.0"), &result), "not in the result: 5.0");
    shown(wrong_values("<svg/>", &result), "has no value");
}
