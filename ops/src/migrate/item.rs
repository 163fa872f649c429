//! Keys being migrated, and their outcomes.
//!
//! Owns the counting of outcomes. Pure: must never query a server.

use super::clock::Expiry;
use super::compare::KeyPair;
use super::counts::{Counts, display_key};
use super::journal::InFlightKey;
use super::rules::MigrationRoute;
use super::value::{Dump, DumpReply, KeyInfo};

/// Approximate number of bytes that are read at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// Placeholder for values that are copied in chunks and have no checksum.
pub(super) const NO_CHECKSUM: u64 = 0;

/// A key being migrated.
#[derive(Debug)]
pub(super) struct KeyItem {
    pub(super) in_flight_key: InFlightKey,
    pub(super) route: MigrationRoute,
    pub(super) info: KeyInfo,
    /// Whether this run has written the value at the target.
    pub(super) written_by_this_run: bool,
    /// Why the key could not be deleted in the last attempt.
    pub(super) last_failure: Option<String>,
}

/// Outcome of a key.
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

impl KeyItem {
    pub(super) fn pair(&self) -> KeyPair<'_> {
        KeyPair { key: &self.in_flight_key.key, route: &self.route, info: &self.info }
    }

    /// Whether an earlier run may have written it.
    pub(super) fn was_started(&self) -> bool {
        !self.in_flight_key.checksums.is_empty()
    }

    /// Whether a migration wrote the value found at the target.
    pub(super) fn was_written_by_migration(&self, found: &DumpReply) -> bool {
        let checksum = found.dump().and_then(Dump::checksum);
        self.written_by_this_run
            || checksum.is_some_and(|checksum| {
                checksum != NO_CHECKSUM && self.in_flight_key.checksums.contains(&checksum)
            })
    }

    /// Schedules another attempt with its cause. The value at the target was written by this run.
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

    /// Counts the outcome.
    pub(super) fn count(self, item: &KeyItem, target: &str, counts: &mut Counts) {
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

/// Outcome of a copied value.
pub(super) fn moved(dump: &Dump, overwritten: bool) -> KeyOutcome {
    let has_ttl = matches!(dump.expiry, Expiry::At(_));
    KeyOutcome::Moved { bytes: dump.payload.len() as u64, has_ttl, overwritten }
}

/// Number of items to read at once; a value that is copied in chunks is read separately.
pub(super) fn portion_len(items: &[KeyItem], chunk_threshold: u64) -> usize {
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
