//! What one subscriber got of one channel: in order, late, twice, never. Knows sequence numbers only; never a
//! socket, a payload or a clock.

use std::mem;
use std::ops::Range;

/// How a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// After everything that was published before it; so many before it have not come.
    InOrder(u64),
    /// After something that was published later.
    Late,
    /// Once more.
    Duplicate,
}

/// The account of one subscriber. Sequences begin at 1.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    next: u64,
    /// What was skipped and has not come since, ascending.
    missing: Vec<Range<u64>>,
    delivered: u64,
    late: u64,
    duplicates: u64,
    /// Was away of its own will: what comes next begins a new span.
    gap_allowed: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { next: 1, missing: Vec::new(), delivered: 0, late: 0, duplicates: 0, gap_allowed: false }
    }
}

impl Ledger {
    /// Enters one message.
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

    /// The subscriber was away of its own will: what was published meanwhile was not for it.
    pub(crate) fn allow_gap(&mut self) {
        self.gap_allowed = true;
    }

    /// Takes one sequence out of the missing; false if it was in none.
    fn fill_gap(&mut self, sequence: u64) -> bool {
        let Some(index) = self.missing.iter().position(|gap| gap.contains(&sequence)) else { return false };
        let gap = self.missing[index].clone();
        let parts = [gap.start..sequence, sequence + 1..gap.end];
        self.missing.splice(index..=index, parts.into_iter().filter(|part| !part.is_empty()));
        true
    }

    /// How many different messages came.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How many came after something that was published later.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// How many came once more.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// How many of the first `published` messages never came. Of one who came back of its own will and has heard
    /// nothing since, one is missing if anything was published after its last: a run ends with a message for everyone.
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

    /// (lost of five, duplicated, out of order)
    fn verdict(sequences: &[u64]) -> (u64, u64, u64) {
        let ledger = ledger(sequences);
        (ledger.lost(5), ledger.duplicates(), ledger.late())
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        assert_eq!(verdict(&[1, 2, 3, 4, 5]), (0, 0, 0));
    }

    #[test]
    fn a_hole_is_a_loss_wherever_it_is() {
        assert_eq!(verdict(&[2, 3, 4, 5]), (1, 0, 0));
        assert_eq!(verdict(&[1, 2, 5]), (2, 0, 0));
        assert_eq!(verdict(&[1, 2, 3]), (2, 0, 0));
        assert_eq!(verdict(&[]), (5, 0, 0));
    }

    #[test]
    fn a_second_copy_is_a_duplicate_and_no_disorder() {
        assert_eq!(verdict(&[1, 2, 2, 3, 4, 5]), (0, 1, 0));
        assert_eq!(verdict(&[1, 2, 3, 4, 5, 1]), (0, 1, 0));
    }

    #[test]
    fn a_late_one_is_disorder_and_no_loss() {
        assert_eq!(verdict(&[1, 3, 2, 4, 5]), (0, 0, 1));
        assert_eq!(verdict(&[5, 4, 3, 2, 1]), (0, 0, 4));
    }

    #[test]
    fn a_late_one_that_comes_twice_is_both() {
        assert_eq!(verdict(&[1, 3, 2, 2, 4, 5]), (0, 1, 1));
    }

    #[test]
    fn what_was_published_while_away_is_no_loss_but_silence_after_coming_back_is() {
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
        fn the_account_agrees_with_a_plain_set(sequences in prop::collection::vec(1u64..40, 0..120), published in 0u64..60) {
            let ledger = ledger(&sequences);
            let seen: HashSet<u64> = sequences.iter().copied().collect();
            let lost = (1..=published).filter(|sequence| !seen.contains(sequence)).count() as u64;
            prop_assert_eq!(ledger.lost(published), lost);
            prop_assert_eq!(ledger.delivered(), seen.len() as u64);
            prop_assert_eq!(ledger.duplicates(), (sequences.len() - seen.len()) as u64);
        }
    }
}
