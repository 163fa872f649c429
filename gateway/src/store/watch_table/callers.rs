//! Reads of callers: what they mean for the other watchers of a key.

use std::time::Duration;

use super::{ReadOutcome, WatchId, WatchTable};
use crate::store::key::KeyType;

impl WatchTable {
    /// A caller has read a watched key by this type. Returns whether the result is a change to report to the other
    /// watchers.
    pub(in crate::store) fn on_caller_read(
        &mut self,
        id: WatchId,
        kind: KeyType,
        outcome: ReadOutcome,
        now: Duration,
    ) -> bool {
        let Some(entry) = self.entry(id) else { return false };
        if kind != entry.kind {
            match (outcome, kind) {
                (ReadOutcome::Missing | ReadOutcome::Failed, _) => {}
                // The value is not known: the table reads it.
                (ReadOutcome::Present { .. }, KeyType::Exists) => {
                    entry.reports_first = true;
                    self.request_read(id, now);
                    return false;
                }
                // The key has the type of this caller now, and so no longer the one of the others.
                (ReadOutcome::Present { .. }, _) => entry.set_kind(kind),
                (ReadOutcome::OtherType, _) => return false,
            }
        }
        // The reply may have been sent before an invalidation that is known already: its read remains due.
        let Some(due) = self.entry(id).map(|entry| entry.due) else { return false };
        let is_change = self.apply(id, outcome, now);
        let Some(entry) = self.entry(id) else { return false };
        // This caller knows that the key is missing, the others do not yet: all get the next state.
        entry.reports_first |= entry.is_ending && outcome == ReadOutcome::Missing;
        if due < entry.due {
            self.set_due(id.index, due);
        }
        is_change
    }
}
