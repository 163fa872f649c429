//! README.md names the newest committed benchmark result and quotes its rows literally.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::loadtest::command;

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";

#[test]
fn readme_quotes_the_newest_result() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    // Without a result there is nothing to quote.
    let Some(newest) = newest(&root.join("loadtest/bench/results")) else { return };
    let name = newest.file_name().unwrap().to_str().unwrap();
    let wrong = wrong(&readme, name, &fs::read_to_string(&newest).unwrap());
    assert!(wrong.is_empty(), "README.md, section Measured:\n{}", wrong.join("\n"));
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

/// Differences between README.md and the result.
fn wrong(readme: &str, name: &str, result: &str) -> Vec<String> {
    let section =
        readme.split("\n## ").find_map(|section| section.strip_prefix("Measured\n")).unwrap_or_default();
    let mut wrong = Vec::new();
    if !section.contains(name) {
        wrong.push(format!("does not name loadtest/bench/results/{name}, the newest result"));
    }
    let quoted = section.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let Some((quoted, _)) = quoted else {
        wrong.push(format!("quotes nothing between {BEGIN} and {END}"));
        return wrong;
    };
    let rows: Vec<&str> = quoted.lines().filter(|line| line.starts_with('|')).collect();
    // The header and the line below it are not rows.
    if rows.len() < 3 {
        wrong.push(format!("quotes no row between {BEGIN} and {END}"));
    }
    let foreign = rows.into_iter().filter(|row| !result.lines().any(|line| line == *row));
    wrong.extend(foreign.map(|row| format!("quotes what is not in {name}: {row}")));
    wrong
}

#[test]
fn stale_result_or_number_is_detected() {
    let row = "| speed | 5.00 |";
    let result = format!("# date\n\n| | it |\n|---|---|\n{row}\n| more | 1.00 |\n");
    let readme = |name: &str, rows: &str| {
        format!("# E\n\n## Measured\n\n{BEGIN}\n{rows}{END}\nfrom results/{name}.\n\n## More\n")
    };
    let wrong = |readme: &str| wrong(readme, "2026-11-21-0853.md", &result);
    let good = format!("| | it |\n|---|---|\n{row}\n");
    assert_eq!(wrong(&readme("2026-11-21-0853.md", &good)), Vec::<String>::new());
    let shown = |readme: &str, words: &str| {
        let wrong = wrong(readme);
        assert!(wrong.len() == 1 && wrong[0].contains(words), "{words}: {wrong:?}");
    };
    shown(&readme("2026-11-20-0000.md", &good), "does not name loadtest/bench/results/2026-11-21-0853.md");
    shown(
        &readme("2026-11-21-0853.md", &good.replace("5.00", "4.90")),
        "not in 2026-11-21-0853.md: | speed | 4.90 |",
    );
    shown(&readme("2026-11-21-0853.md", ""), "quotes no row");
    shown("# E\n\n## Measured\n2026-11-21-0853.md\n", "quotes nothing");
    let elsewhere = readme("2026-11-21-0853.md", &good).replace("## Measured", "## Else");
    assert_eq!(wrong(&elsewhere).len(), 2);
}
