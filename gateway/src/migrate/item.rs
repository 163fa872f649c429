//! Keys on their way, and how their moves end.
//!
//! Owns what is counted as what. Pure: must never query a server.

use super::clock::Expiry;
use super::compare::KeyPair;
use super::counts::{Counts, display_key};
use super::journal::InFlightKey;
use super::rules::Route;
use super::value::{Dump, DumpReply, KeyInfo};

/// About how many bytes are read at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// The checksum of a value that is written in pieces, and has no checksum.
pub(super) const NO_CHECKSUM: u64 = 0;

/// A key on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) in_flight_key: InFlightKey,
    pub(super) route: Route,
    pub(super) info: KeyInfo,
    /// Whether what is at the target was written by this very run.
    pub(super) written_by_this_run: bool,
    /// Why it was not deleted the last time.
    pub(super) last_failure: Option<String>,
}

/// How the move of a key ended.
#[derive(Debug)]
pub(super) struct KeyResult {
    pub(super) ending: KeyOutcome,
    pub(super) deleted: bool,
}

#[derive(Debug)]
pub(super) enum KeyOutcome {
    Moved { bytes: u64, has_ttl: bool, overwritten: bool },
    Already,
    Skipped,
    Expired,
    Failed(String),
}

impl Item {
    pub(super) fn pair(&self) -> KeyPair<'_> {
        KeyPair { key: &self.in_flight_key.key, route: &self.route, info: &self.info }
    }

    /// Whether an earlier run has begun to write it.
    pub(super) fn was_started(&self) -> bool {
        !self.in_flight_key.checksums.is_empty()
    }

    /// Whether what was found at the target was written by us.
    pub(super) fn was_written_by_us(&self, found: &DumpReply) -> bool {
        let checksum = found.dump().and_then(Dump::checksum);
        self.written_by_this_run
            || checksum.is_some_and(|checksum| {
                checksum != NO_CHECKSUM && self.in_flight_key.checksums.contains(&checksum)
            })
    }

    /// Reads and writes it once more, for a cause. What is at the target was written by us.
    pub(super) fn retry(self, cause: String) -> Self {
        Self { written_by_this_run: true, last_failure: Some(cause), ..self }
    }
}

impl KeyResult {
    pub(super) fn not_deleted(ending: KeyOutcome) -> Self {
        Self { ending, deleted: false }
    }

    pub(super) fn failed(cause: String) -> Self {
        Self::not_deleted(KeyOutcome::Failed(cause))
    }

    /// Adds it to what was done.
    pub(super) fn count(self, item: &Item, target: &str, counts: &mut Counts) {
        let rule = &mut counts.rules[item.route.rule];
        rule.deleted += u64::from(self.deleted);
        match self.ending {
            KeyOutcome::Moved { bytes, has_ttl, overwritten } => {
                rule.count(item.info.kind.as_str(), bytes, has_ttl);
                rule.overwritten += u64::from(overwritten);
            }
            KeyOutcome::Already => rule.identical += 1,
            KeyOutcome::Skipped => rule.skipped += 1,
            KeyOutcome::Expired => rule.expired += 1,
            KeyOutcome::Failed(cause) => {
                rule.failed += 1;
                counts
                    .failures
                    .add(|| format!("{} → {target}: {cause}", display_key(&item.in_flight_key.key)));
            }
        }
    }
}

/// A value that has come to its target.
pub(super) fn moved(dump: &Dump, overwritten: bool) -> KeyOutcome {
    let has_ttl = matches!(dump.expiry, Expiry::At(_));
    KeyOutcome::Moved { bytes: dump.payload.len() as u64, has_ttl, overwritten }
}

/// How many of these are read at once; a value for pieces stands alone.
pub(super) fn portion_len(items: &[Item], chunk_threshold: u64) -> usize {
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        bytes += item.info.bytes;
        let is_large = item.info.bytes >= chunk_threshold;
        if is_large || bytes > PORTION_BYTES {
            return index.max(1);
        }
    }
    items.len()
}
