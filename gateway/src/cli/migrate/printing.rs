//! Prints results: a table on standard output, followed by problems.

use std::collections::BTreeMap;
use std::process::ExitCode;

use indicatif::HumanBytes;

use crate::cli::io;
use earshot_ops::migrate::{Conflict, Lines, MigrationPlan, MigrationReport, Preflight};

/// Prints a dry run; returns whether a migration can start.
pub(super) fn dry_run(plan: &MigrationPlan, preflight: &Preflight) -> bool {
    let mut out = String::new();
    for (text, rule) in plan.rules.texts().zip(&preflight.rules) {
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
        out += &line(rule.in_place, "are already in place");
        out += &line(rule.taken, "exist at the target");
    }
    list(&mut out, "existing at the target", &preflight.taken);
    list(&mut out, "without a matching rule", &preflight.unmatched);
    list(&mut out, "conflicting", &preflight.contradictions);
    let verdict = preflight.check();
    match &verdict {
        Err(error) => out += &format!("{error}\n"),
        Ok(()) => out += "nothing was changed: this was a dry run\n",
    }
    print(&out);
    verdict.is_ok() && (preflight.taken.count == 0 || plan.conflict != Conflict::Fail)
}

/// Prints the result of a run; returns whether every key is at its target.
pub(super) fn report(plan: &MigrationPlan, report: &MigrationReport, only_compared: bool) -> bool {
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
            out += &line(rule.overwritten, "of them overwrote existing keys");
            out += &line(rule.identical, "existed at the target with the same value");
            out += &line(rule.skipped, "were skipped: they differ at the target");
            out += &line(rule.in_place, "are already in place");
            out += &line(rule.expired, "expired before they were moved");
            out += &line(rule.deleted, "were deleted from the source");
            out += &line(rule.failed, "failed");
        }
        list(&mut out, "failed", &counts.failures);
        if report.resumed {
            out += &format!("resumed an earlier run; {} keys were in flight\n", report.settled);
        }
    }
    out += &line(counts.unmatched, "have no matching rule");
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

/// A closed standard output (`| head`) is not an error.
fn print(text: &str) {
    let _ = io::write_stdout(text, ExitCode::SUCCESS);
}
