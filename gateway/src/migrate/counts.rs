//! What a move has done, in numbers.
//!
//! Owns the counters and the bounded lists of what went wrong. Must never hold a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many lines a list of trouble holds; the rest is only counted.
const LINES_MAX: usize = 100;

/// What became of the keys of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounts {
    /// Keys that were brought to the target, those that took the place of others included.
    pub moved: u64,
    /// Bytes of those, as DUMP gives them or, read in pieces, as the source estimates them.
    pub bytes: u64,
    /// How many of them have a TTL.
    pub with_ttl: u64,
    /// How many of them are of which type.
    pub kinds: BTreeMap<String, u64>,
    /// Keys that were there identical, the same in type, value and TTL.
    pub identical: u64,
    /// Keys that took the place of ones that differed.
    pub overwritten: u64,
    /// Keys that were left because the target has ones that differ.
    pub skipped: u64,
    /// Keys that are where they belong: source and target are the same keyspace.
    pub in_place: u64,
    /// Keys that ended before they could be read.
    pub expired: u64,
    /// Keys that were deleted from the source.
    pub deleted: u64,
    /// Keys that could not be moved, or not be deleted.
    pub failed: u64,
}

impl RuleCounts {
    /// One more key, of this type and size.
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

/// Lines about single keys, the first hundred of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// How many there are in all.
    pub count: u64,
    /// The first of them.
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

/// A key as it is display_key: what is not plain text is escaped, and what is long is cut.
pub(super) fn display_key(key: &[u8]) -> String {
    let cut = &key[..key.len().min(200)];
    let dots = if cut.len() < key.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

/// What a whole run has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By rule, in the order of the rules.
    pub rules: Vec<RuleCounts>,
    /// Keys that came while the run went on, and that no rule matches.
    pub unmatched: u64,
    /// What could not be moved, or not be deleted, and why.
    pub failures: Lines,
    /// Keys that the verification has compared.
    pub compared: u64,
    /// What the verification found to differ.
    pub differences: Lines,
}

impl Counts {
    /// Sums one counter over all rules.
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
    fn keys_are_shown_whatever_they_hold() {
        assert_eq!(display_key(b"room:1"), "\"room:1\"");
        assert_eq!(display_key(b"a\xff\n\""), "\"a\\xff\\n\\\"\"");
        assert!(display_key(&[b'x'; 5000]).chars().count() < 250);
    }
}
