//! The parts of the Prometheus text format that the tests read.

/// The sum of the samples of `name` that have these labels, written as in the output.
pub(crate) fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter_map(|line| sample(line, name))
        .filter(|(present, _)| labels.iter().all(|label| present.contains(label)))
        .map(|(_, value)| value)
        .sum()
}

/// Labels and value of a line, if it is a sample of `name`.
fn sample<'a>(line: &'a str, name: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None if rest.starts_with(' ') => ("", rest),
        None => return None,
    };
    Some((labels, value.split_whitespace().next()?.parse().ok()?))
}
