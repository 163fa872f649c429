//! Tracks which sequence numbers of one channel a subscriber has received: in order, late, duplicate or missing. No
//! sockets, payloads or clocks.

use std::mem;
use std::ops::Range;

/// How a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// After all earlier messages, except for this many that have been skipped.
    InOrder(u64),
    /// After a message that was published later.
    Late,
    /// Received before.
    Duplicate,
}

/// Ledger of one subscriber. Sequence numbers start at 1.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    next: u64,
    /// Skipped sequence numbers that have not arrived since, ascending.
    missing: Vec<Range<u64>>,
    delivered: u64,
    late: u64,
    duplicates: u64,
    /// The subscriber was unsubscribed: the next message may skip any number.
    gap_allowed: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { next: 1, missing: Vec::new(), delivered: 0, late: 0, duplicates: 0, gap_allowed: false }
    }
}

impl Ledger {
    /// Records one message.
    pub(crate) fn record(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            let skipped = if mem::take(&mut self.gap_allowed) { 0 } else { sequence - self.next };
            if skipped > 0 {
                self.missing.push(self.next..sequence);
            }
            self.next = sequence + 1;
            self.delivered += 1;
            return Arrival::InOrder(skipped);
        }
        if !self.fill_gap(sequence) {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.delivered += 1;
        self.late += 1;
        Arrival::Late
    }

    /// Allows the next message to skip any number: the subscriber was unsubscribed meanwhile.
    pub(crate) fn allow_gap(&mut self) {
        self.gap_allowed = true;
    }

    /// Removes a sequence number from the missing ranges. Returns false if it was not missing.
    fn fill_gap(&mut self, sequence: u64) -> bool {
        let Some(index) = self.missing.iter().position(|gap| gap.contains(&sequence)) else { return false };
        let gap = self.missing[index].clone();
        let parts = [gap.start..sequence, sequence + 1..gap.end];
        self.missing.splice(index..=index, parts.into_iter().filter(|part| !part.is_empty()));
        true
    }

    /// Number of distinct messages received.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Number of messages received after a message that was published later.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Number of repeated messages.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Number of the first `published` messages that never arrived. For a subscriber that has resubscribed and received
    /// nothing since, at most one counts as lost: a run ends with one message for every subscriber.
    pub(crate) fn lost(&self, published: u64) -> u64 {
        let skipped: u64 =
            self.missing.iter().map(|gap| gap.end.min(published + 1).saturating_sub(gap.start)).sum();
        let rest = (published + 1).saturating_sub(self.next);
        skipped + if self.gap_allowed { rest.min(1) } else { rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn ledger(sequences: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for sequence in sequences {
            ledger.record(*sequence);
        }
        ledger
    }

    /// (lost out of five, duplicates, out of order)
    fn verdict(sequences: &[u64]) -> (u64, u64, u64) {
        let ledger = ledger(sequences);
        (ledger.lost(5), ledger.duplicates(), ledger.late())
    }

    #[test]
    fn complete_ordered_sequence_is_clean() {
        assert_eq!(verdict(&[1, 2, 3, 4, 5]), (0, 0, 0));
    }

    #[test]
    fn missing_sequence_is_a_loss_at_any_position() {
        assert_eq!(verdict(&[2, 3, 4, 5]), (1, 0, 0));
        assert_eq!(verdict(&[1, 2, 5]), (2, 0, 0));
        assert_eq!(verdict(&[1, 2, 3]), (2, 0, 0));
        assert_eq!(verdict(&[]), (5, 0, 0));
    }

    #[test]
    fn repeated_message_is_a_duplicate_not_out_of_order() {
        assert_eq!(verdict(&[1, 2, 2, 3, 4, 5]), (0, 1, 0));
        assert_eq!(verdict(&[1, 2, 3, 4, 5, 1]), (0, 1, 0));
    }

    #[test]
    fn late_message_is_out_of_order_not_lost() {
        assert_eq!(verdict(&[1, 3, 2, 4, 5]), (0, 0, 1));
        assert_eq!(verdict(&[5, 4, 3, 2, 1]), (0, 0, 4));
    }

    #[test]
    fn repeated_late_message_is_duplicate_and_out_of_order() {
        assert_eq!(verdict(&[1, 3, 2, 2, 4, 5]), (0, 1, 1));
    }

    #[test]
    fn messages_while_unsubscribed_are_not_lost_but_silence_after_resubscribing_is() {
        let mut ledger = ledger(&[1, 2]);
        ledger.allow_gap();
        assert_eq!((ledger.lost(2), ledger.lost(9)), (0, 1));
        assert_eq!(ledger.record(7), Arrival::InOrder(0));
        assert_eq!(ledger.record(9), Arrival::InOrder(1));
        ledger.allow_gap();
        assert_eq!(ledger.record(9), Arrival::Duplicate);
        assert_eq!((ledger.lost(9), ledger.delivered(), ledger.duplicates()), (1, 4, 1));
    }

    proptest! {
        #[test]
        fn ledger_agrees_with_a_set_model(sequences in prop::collection::vec(1u64..40, 0..120), published in 0u64..60) {
            let ledger = ledger(&sequences);
            let seen: HashSet<u64> = sequences.iter().copied().collect();
            let lost = (1..=published).filter(|sequence| !seen.contains(sequence)).count() as u64;
            prop_assert_eq!(ledger.lost(published), lost);
            prop_assert_eq!(ledger.delivered(), seen.len() as u64);
            prop_assert_eq!(ledger.duplicates(), (sequences.len() - seen.len()) as u64);
        }
    }
}
