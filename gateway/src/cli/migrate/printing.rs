//! What a run came to, for people: a table on standard output, and what went wrong below it.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use indicatif::HumanBytes;

use crate::migrate::{Conflict, Lines, Plan, Preflight, Report};

/// Prints a dry run, and says whether a move may begin.
pub(super) fn dry_run(plan: &Plan, survey: &Preflight) -> bool {
    let mut out = String::new();
    for (text, rule) in plan.rules.texts().zip(&survey.rules) {
        out += &format!(
            "{text}\n  {} keys, about {}, {} with a TTL{}\n",
            rule.keys,
            HumanBytes(rule.bytes),
            rule.with_ttl,
            kinds(&rule.kinds)
        );
        if let Some((key, name)) = rule.example.as_ref().filter(|(key, name)| key != name) {
            out += &format!("  for example {key} becomes {name}\n");
        }
        out += &line(rule.in_place, "are where they belong already");
        out += &line(rule.taken, "are at the target already, the same or not");
    }
    list(&mut out, "at the target already", &survey.taken);
    list(&mut out, "matched by no rule", &survey.unmatched);
    list(&mut out, "in contradiction", &survey.contradictions);
    let verdict = survey.check();
    match &verdict {
        Err(error) => out += &format!("{error}\n"),
        Ok(()) => out += "nothing was changed: this was a dry run\n",
    }
    print(&out);
    verdict.is_ok() && (survey.taken.count == 0 || plan.conflict != Conflict::Fail)
}

/// Prints what was done, and says whether everything is at its target.
pub(super) fn report(plan: &Plan, report: &Report, only_compared: bool) -> bool {
    let mut out = String::new();
    let counts = &report.counts;
    if !only_compared {
        for (text, rule) in plan.rules.texts().zip(&counts.rules) {
            out += &format!(
                "{text}\n  {} keys moved, {}, {} with a TTL{}\n",
                rule.moved,
                HumanBytes(rule.bytes),
                rule.with_ttl,
                kinds(&rule.kinds)
            );
            out += &line(rule.overwritten, "of them took the place of others");
            out += &line(rule.identical, "were there already, the same");
            out += &line(rule.skipped, "were left: others are in their place");
            out += &line(rule.in_place, "are where they belong already");
            out += &line(rule.expired, "ended before they were moved");
            out += &line(rule.deleted, "were deleted from the source");
            out += &line(rule.failed, "failed");
        }
        list(&mut out, "failed", &counts.failures);
        if report.resumed {
            out += &format!("went on from an earlier run; {} keys were in flight\n", report.settled);
        }
    }
    out += &line(counts.unmatched, "are matched by no rule");
    if plan.verify || only_compared {
        out += &format!("compared {} keys: {} differ\n", counts.compared, counts.differences.count);
        list(&mut out, "different", &counts.differences);
    }
    print(&out);
    report.is_complete()
}

fn kinds(kinds: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) }
}

fn line(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!("  {count} {what}\n") }
}

fn list(out: &mut String, what: &str, lines: &Lines) {
    if lines.count == 0 {
        return;
    }
    *out += &format!("{what}: {}\n", lines.count);
    for line in &lines.first {
        *out += &format!("  {line}\n");
    }
    let more = lines.count - lines.first.len() as u64;
    if more > 0 {
        *out += &format!("  and {more} more\n");
    }
}

/// A reader who has seen enough (`| head`) is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
