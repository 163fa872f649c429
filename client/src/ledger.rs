//! Ledger of one subscriber on one channel: which numbers of the sequence 1, 2, 3, … arrived, and how.
//!
//! Owns the arithmetic: delivered + reported + lost = published. Pure: uses no socket and no clock. Must never ignore a
//! missing number: without a gap notice before the next message it is lost.

use std::mem;
use std::ops::Range;

/// How a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// After all earlier messages, except for this many that are missing without a notice.
    InOrder(u64),
    /// After a message that was published later.
    Late,
    /// Received before, or counted as reported.
    Duplicate,
}

/// What explains numbers that the next message skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LedgerGap {
    /// Nothing: they are lost.
    #[default]
    Unexplained,
    /// The subscriber was unsubscribed: they are not expected.
    Allowed,
    /// A gap notice was received: they are reported.
    Reported,
}

/// The sums of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Distinct messages received.
    pub delivered: u64,
    /// Missing, and reported by a gap notice.
    pub reported: u64,
    /// Missing, and not reported.
    pub lost: u64,
    /// Received after a message that was published later.
    pub late: u64,
    /// Received again.
    pub duplicates: u64,
    /// Gap notices.
    pub gaps: u64,
}

impl LedgerCounts {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.combine(other, |one, other| one + other)
    }

    /// The difference from an earlier state.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.combine(earlier, u64::saturating_sub)
    }

    fn combine(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            delivered: combine(self.delivered, other.delivered),
            reported: combine(self.reported, other.reported),
            lost: combine(self.lost, other.lost),
            late: combine(self.late, other.late),
            duplicates: combine(self.duplicates, other.duplicates),
            gaps: combine(self.gaps, other.gaps),
        }
    }
}

/// Ledger of one subscriber. Numbers start at 1.
#[derive(Clone, Debug)]
pub struct Ledger {
    next: u64,
    /// Skipped numbers that have not arrived since, ascending.
    missing: Vec<Range<u64>>,
    delivered: u64,
    reported: u64,
    late: u64,
    duplicates: u64,
    gaps: u64,
    gap: LedgerGap,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            next: 1,
            missing: Vec::new(),
            delivered: 0,
            reported: 0,
            late: 0,
            duplicates: 0,
            gaps: 0,
            gap: LedgerGap::Unexplained,
        }
    }
}

impl Ledger {
    /// Records a message.
    pub fn record(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let lost = self.skip_to(number);
            self.gap = LedgerGap::Unexplained;
            self.next = number + 1;
            self.delivered += 1;
            return Arrival::InOrder(lost);
        }
        if !self.remove_missing(number) {
            self.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.delivered += 1;
        self.late += 1;
        Arrival::Late
    }

    /// Records a gap notice: the numbers that the next message skips are reported.
    pub fn record_gap(&mut self) {
        self.gaps += 1;
        self.gap = LedgerGap::Reported;
    }

    /// Allows the next message to skip any number: the subscriber was unsubscribed meanwhile.
    pub fn allow_gap(&mut self) {
        self.gap = LedgerGap::Allowed;
    }

    /// Counts the numbers up to `published` that have not arrived as missing.
    pub fn close(&mut self, published: u64) {
        if published >= self.next {
            self.skip_to(published + 1);
            self.next = published + 1;
        }
    }

    /// The last number that was received or counted as missing.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Distinct messages received.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Messages received after a message that was published later.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Repeated messages.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Number of the first `published` messages that never arrived without a notice. For a subscriber that has
    /// resubscribed and received nothing since, at most one counts as lost: a run ends with one message for every
    /// subscriber.
    pub fn lost(&self, published: u64) -> u64 {
        let skipped: u64 =
            self.missing.iter().map(|gap| gap.end.min(published + 1).saturating_sub(gap.start)).sum();
        let rest = (published + 1).saturating_sub(self.next);
        skipped
            + match self.gap {
                LedgerGap::Unexplained => rest,
                LedgerGap::Allowed => rest.min(1),
                LedgerGap::Reported => 0,
            }
    }

    /// The sums so far. Numbers after the last one are not counted: see [`Ledger::close`].
    pub fn counts(&self) -> LedgerCounts {
        LedgerCounts {
            delivered: self.delivered,
            reported: self.reported,
            lost: self.missing.iter().map(|gap| gap.end - gap.start).sum(),
            late: self.late,
            duplicates: self.duplicates,
            gaps: self.gaps,
        }
    }

    /// Accounts for the numbers before `number`. Returns how many are lost.
    fn skip_to(&mut self, number: u64) -> u64 {
        let skipped = number - self.next;
        match self.gap {
            LedgerGap::Allowed => return 0,
            LedgerGap::Reported => {
                self.reported += skipped;
                return 0;
            }
            LedgerGap::Unexplained if skipped > 0 => self.missing.push(self.next..number),
            LedgerGap::Unexplained => {}
        }
        skipped
    }

    /// Removes a number from the missing ranges. Returns false if it was not missing.
    fn remove_missing(&mut self, number: u64) -> bool {
        let Some(index) = self.missing.iter().position(|gap| gap.contains(&number)) else { return false };
        let gap = mem::take(&mut self.missing[index]);
        let parts = [gap.start..number, number + 1..gap.end];
        self.missing.splice(index..=index, parts.into_iter().filter(|part| !part.is_empty()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn ledger(numbers: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for number in numbers {
            ledger.record(*number);
        }
        ledger
    }

    /// Lost out of five, duplicates, late.
    fn verdict(numbers: &[u64]) -> (u64, u64, u64) {
        let ledger = ledger(numbers);
        (ledger.lost(5), ledger.duplicates(), ledger.late())
    }

    /// Delivered, reported, lost, late and duplicates, gaps; `None` is a gap notice.
    fn closed(events: &[Option<u64>], published: u64) -> [u64; 5] {
        let mut ledger = Ledger::default();
        for event in events {
            match event {
                Some(number) => drop(ledger.record(*number)),
                None => ledger.record_gap(),
            }
        }
        ledger.close(published);
        let LedgerCounts { delivered, reported, lost, late, duplicates, gaps } = ledger.counts();
        assert_eq!(delivered + reported + lost, published, "{events:?}");
        [delivered, reported, lost, late + duplicates, gaps]
    }

    #[test]
    fn a_complete_ordered_sequence_is_clean() {
        assert_eq!(verdict(&[1, 2, 3, 4, 5]), (0, 0, 0));
    }

    #[test]
    fn a_missing_number_is_lost_at_any_position() {
        assert_eq!(verdict(&[2, 3, 4, 5]), (1, 0, 0));
        assert_eq!(verdict(&[1, 2, 5]), (2, 0, 0));
        assert_eq!(verdict(&[1, 2, 3]), (2, 0, 0));
        assert_eq!(verdict(&[]), (5, 0, 0));
    }

    #[test]
    fn a_repeated_message_is_a_duplicate_and_not_late() {
        assert_eq!(verdict(&[1, 2, 2, 3, 4, 5]), (0, 1, 0));
        assert_eq!(verdict(&[1, 2, 3, 4, 5, 1]), (0, 1, 0));
    }

    #[test]
    fn a_late_message_is_not_lost() {
        assert_eq!(verdict(&[1, 3, 2, 4, 5]), (0, 0, 1));
        assert_eq!(verdict(&[5, 4, 3, 2, 1]), (0, 0, 4));
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

    #[test]
    fn every_number_is_delivered_reported_or_lost() {
        assert_eq!(closed(&[Some(1), Some(2), Some(3)], 3), [3, 0, 0, 0, 0]);
        assert_eq!(closed(&[Some(1), None, Some(4)], 4), [2, 2, 0, 0, 1]);
        assert_eq!(closed(&[Some(1), Some(4)], 4), [2, 0, 2, 0, 0]);
        assert_eq!(closed(&[Some(1), None], 3), [1, 2, 0, 0, 1]);
        assert_eq!(closed(&[], 3), [0, 0, 3, 0, 0]);
        assert_eq!(closed(&[Some(1), Some(1), Some(3), Some(2)], 3), [3, 0, 0, 2, 0]);
    }

    #[test]
    fn a_gap_notice_covers_only_the_next_missing_numbers() {
        assert_eq!(closed(&[None, Some(2), Some(4)], 4), [2, 1, 1, 0, 1]);
        assert_eq!(closed(&[Some(2), None, Some(4)], 4), [2, 1, 1, 0, 1]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(1u64..40, 0..120), published in 0u64..60) {
            let ledger = ledger(&numbers);
            let seen: HashSet<u64> = numbers.iter().copied().collect();
            let lost = (1..=published).filter(|number| !seen.contains(number)).count() as u64;
            prop_assert_eq!(ledger.lost(published), lost);
            prop_assert_eq!(ledger.delivered(), seen.len() as u64);
            prop_assert_eq!(ledger.duplicates(), (numbers.len() - seen.len()) as u64);
        }

        #[test]
        fn accounts_for_every_number(events in prop::collection::vec(prop::option::of(1u64..40), 0..80)) {
            let published = events.iter().flatten().max().copied().unwrap_or_default();
            closed(&events, published + 2);
        }
    }
}
