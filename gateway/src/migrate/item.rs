//! Keys on their way, and how their moves end.
//!
//! Owns what is counted as what. Pure: must never ask a server.

use super::clock::Expiry;
use super::comparing::Pair;
use super::counts::{Counts, shown};
use super::journal::Flight;
use super::rules::Route;
use super::value::{Dump, Found, Measure};

/// About how many bytes are read at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// The stamp of a value that is written in pieces, and has no checksum.
pub(super) const IN_PIECES: u64 = 0;

/// A key on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) flight: Flight,
    pub(super) route: Route,
    pub(super) measure: Measure,
    /// Whether what is at the target was written by this very run.
    pub(super) is_ours: bool,
    /// Why it was not deleted the last time.
    pub(super) kept: Option<String>,
}

/// How the move of a key ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ending: Ending,
    pub(super) deleted: bool,
}

#[derive(Debug)]
pub(super) enum Ending {
    Moved { bytes: u64, has_ttl: bool, overwritten: bool },
    Already,
    Skipped,
    Expired,
    Failed(String),
}

impl Item {
    pub(super) fn pair(&self) -> Pair<'_> {
        Pair { key: &self.flight.key, route: &self.route, measure: &self.measure }
    }

    /// Whether an earlier run has begun to write it.
    pub(super) fn was_begun(&self) -> bool {
        !self.flight.stamps.is_empty()
    }

    /// Whether what was found at the target was written by us.
    pub(super) fn wrote(&self, found: &Found) -> bool {
        let stamp = found.dump().and_then(Dump::stamp);
        self.is_ours || stamp.is_some_and(|stamp| stamp != IN_PIECES && self.flight.stamps.contains(&stamp))
    }

    /// Reads and writes it once more, for a cause. What is at the target was written by us.
    pub(super) fn again(self, cause: String) -> Self {
        Self { is_ours: true, kept: Some(cause), ..self }
    }
}

impl Outcome {
    pub(super) fn kept(ending: Ending) -> Self {
        Self { ending, deleted: false }
    }

    pub(super) fn failed(cause: String) -> Self {
        Self::kept(Ending::Failed(cause))
    }

    /// Adds it to what was done.
    pub(super) fn count(self, item: &Item, target: &str, counts: &mut Counts) {
        let rule = &mut counts.rules[item.route.rule];
        rule.deleted += u64::from(self.deleted);
        match self.ending {
            Ending::Moved { bytes, has_ttl, overwritten } => {
                rule.count(item.measure.kind.as_str(), bytes, has_ttl);
                rule.overwritten += u64::from(overwritten);
            }
            Ending::Already => rule.already += 1,
            Ending::Skipped => rule.skipped += 1,
            Ending::Expired => rule.expired += 1,
            Ending::Failed(cause) => {
                rule.failed += 1;
                counts.failures.add(|| format!("{} → {target}: {cause}", shown(&item.flight.key)));
            }
        }
    }
}

/// A value that has come to its target.
pub(super) fn moved(dump: &Dump, overwritten: bool) -> Ending {
    let has_ttl = matches!(dump.expiry, Expiry::At(_));
    Ending::Moved { bytes: dump.payload.len() as u64, has_ttl, overwritten }
}

/// How many of these are read at once; a value for pieces stands alone.
pub(super) fn portion(items: &[Item], pieces_above: u64) -> usize {
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        bytes += item.measure.bytes;
        let is_large = item.measure.bytes >= pieces_above;
        if is_large || bytes > PORTION_BYTES {
            return index.max(1);
        }
    }
    items.len()
}
