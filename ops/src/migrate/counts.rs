//! Counters of a migration.
//!
//! Owns the counters and the bounded lists of problems. Must never hold a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Maximum number of lines in a list; further ones are only counted.
const LINES_MAX: usize = 100;

/// Counters of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounts {
    /// Keys copied to the target, including overwritten ones.
    pub moved: u64,
    /// Size of the copied values: of their DUMPs or, for values copied in chunks, as estimated by the source.
    pub bytes: u64,
    /// Copied keys with a TTL.
    pub with_ttl: u64,
    /// Copied keys by type.
    pub kinds: BTreeMap<String, u64>,
    /// Keys that existed at the target with the same type, value and TTL.
    pub identical: u64,
    /// Keys that were overwritten at the target.
    pub overwritten: u64,
    /// Keys that were skipped because they differ at the target.
    pub skipped: u64,
    /// Keys whose source and target are the same key of the same keyspace.
    pub in_place: u64,
    /// Keys that expired before they could be read.
    pub expired: u64,
    /// Keys deleted from the source.
    pub deleted: u64,
    /// Keys that could not be copied or deleted.
    pub failed: u64,
}

impl RuleCounts {
    /// Counts a key of this type and size.
    pub(super) fn count(&mut self, kind: &str, bytes: u64, has_ttl: bool) {
        self.moved += 1;
        self.bytes += bytes;
        self.with_ttl += u64::from(has_ttl);
        match self.kinds.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(self.kinds.insert(kind.to_owned(), 1)),
        }
    }
}

/// The first [`LINES_MAX`] messages about single keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// Total number of messages.
    pub count: u64,
    /// The first messages.
    pub first: Vec<String>,
}

impl Lines {
    pub(super) fn add(&mut self, line: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < LINES_MAX {
            self.first.push(line());
        }
    }
}

/// Formats a key for display: non-printable bytes are escaped, long keys are truncated.
pub(super) fn display_key(key: &[u8]) -> String {
    let cut = &key[..key.len().min(200)];
    let dots = if cut.len() < key.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

/// Counters of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By rule, in order.
    pub rules: Vec<RuleCounts>,
    /// Keys that no rule matches and that appeared during the run.
    pub unmatched: u64,
    /// Keys that could not be copied or deleted, with the cause.
    pub failures: Lines,
    /// Keys compared by the verification.
    pub compared: u64,
    /// Differences found by the verification.
    pub differences: Lines,
}

impl Counts {
    /// Sums a counter over all rules.
    pub fn sum(&self, counter: impl Fn(&RuleCounts) -> u64) -> u64 {
        self.rules.iter().map(counter).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bounded_and_counts_are_not() {
        let mut lines = Lines::default();
        (0..1000).for_each(|number| lines.add(|| number.to_string()));
        assert_eq!((lines.count, lines.first.len()), (1000, LINES_MAX));
    }

    #[test]
    fn any_key_can_be_displayed() {
        assert_eq!(display_key(b"room:1"), "\"room:1\"");
        assert_eq!(display_key(b"a\xff\n\""), "\"a\\xff\\n\\\"\"");
        assert!(display_key(&[b'x'; 5000]).chars().count() < 250);
    }
}
