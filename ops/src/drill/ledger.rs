//! Compares what one client received on one channel with what was published: 1, 2, 3 and so on.
//!
//! Owns the arithmetic: delivered + reported + lost = published, without duplicates. Pure: uses no socket, and the time
//! is an argument. Must never ignore missing numbers: those without a gap notice before the next message are lost.

use tokio::time::Instant;

/// Ledger of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The last number that was received or counted as missing.
    pub(super) last: u64,
    pub(super) count: Counts,
    /// A gap was reported, and nothing was received since.
    gap_reported: bool,
    /// The first number that counts as an arrival, and when it was received.
    expected_from: Option<u64>,
    first_arrival: Option<Instant>,
}

/// Counted numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    /// Missing, and reported as a gap.
    pub(super) reported: u64,
    /// Missing, and not reported.
    pub(super) lost: u64,
    /// Received twice, or out of order.
    pub(super) duplicates: u64,
    /// Number of gap notices.
    pub(super) gaps: u64,
}

impl Counts {
    /// Sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        self.with(other, |one, other| one + other)
    }

    /// Difference from an earlier state.
    pub(super) fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            delivered: combine(self.delivered, other.delivered),
            reported: combine(self.reported, other.reported),
            lost: combine(self.lost, other.lost),
            duplicates: combine(self.duplicates, other.duplicates),
            gaps: combine(self.gaps, other.gaps),
        }
    }
}

impl Ledger {
    /// A number was received.
    pub(super) fn received(&mut self, number: u64, now: Instant) {
        if number <= self.last {
            self.count.duplicates += 1;
            return;
        }
        self.record_missing(number - self.last - 1);
        self.count.delivered += 1;
        (self.last, self.gap_reported) = (number, false);
        if self.first_arrival.is_none()
            && self.expected_from.is_some_and(|expected_from| number >= expected_from)
        {
            self.first_arrival = Some(now);
        }
    }

    /// A gap notice was received.
    pub(super) fn gap(&mut self) {
        self.count.gaps += 1;
        self.gap_reported = true;
    }

    /// Counts everything published and not received as missing.
    pub(super) fn close(&mut self, published: u64) {
        self.record_missing(published.saturating_sub(self.last));
        self.last = self.last.max(published);
    }

    /// Records the first arrival of this number or a later one.
    pub(super) fn expect_from(&mut self, number: u64) {
        (self.expected_from, self.first_arrival) = (Some(number), None);
    }

    /// When that arrival was.
    pub(super) fn first_arrival(&self) -> Option<Instant> {
        self.first_arrival
    }

    fn record_missing(&mut self, numbers: u64) {
        let counter = if self.gap_reported { &mut self.count.reported } else { &mut self.count.lost };
        *counter += numbers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(events: &[Option<u64>]) -> Ledger {
        let mut ledger = Ledger::default();
        for event in events {
            match event {
                Some(number) => ledger.received(*number, Instant::now()),
                None => ledger.gap(),
            }
        }
        ledger
    }

    /// delivered, reported, lost, duplicates, gaps
    fn count(events: &[Option<u64>], published: u64) -> [u64; 5] {
        let mut ledger = ledger(events);
        ledger.close(published);
        let Counts { delivered, reported, lost, duplicates, gaps } = ledger.count;
        assert_eq!(delivered + reported + lost, published, "{events:?}");
        [delivered, reported, lost, duplicates, gaps]
    }

    #[test]
    fn every_number_is_delivered_reported_or_lost() {
        assert_eq!(count(&[Some(1), Some(2), Some(3)], 3), [3, 0, 0, 0, 0]);
        assert_eq!(count(&[Some(1), None, Some(4)], 4), [2, 2, 0, 0, 1]);
        assert_eq!(count(&[Some(1), Some(4)], 4), [2, 0, 2, 0, 0]);
        assert_eq!(count(&[Some(1), None], 3), [1, 2, 0, 0, 1]);
        assert_eq!(count(&[], 3), [0, 0, 3, 0, 0]);
    }

    #[test]
    fn gap_notice_covers_the_next_missing_numbers_only() {
        assert_eq!(count(&[None, Some(2), Some(4)], 4), [2, 1, 1, 0, 1]);
        assert_eq!(count(&[Some(2), None, Some(4)], 4), [2, 1, 1, 0, 1]);
    }

    #[test]
    fn late_and_repeated_numbers_are_duplicates() {
        assert_eq!(count(&[Some(1), Some(1), Some(3), Some(2)], 3), [2, 0, 1, 2, 0]);
    }

    #[test]
    fn first_arrival_is_recorded() {
        let mut ledger = ledger(&[Some(1)]);
        ledger.expect_from(3);
        ledger.received(2, Instant::now());
        assert_eq!(ledger.first_arrival(), None);
        let now = Instant::now();
        ledger.received(4, now);
        ledger.received(5, Instant::now());
        assert_eq!(ledger.first_arrival(), Some(now));
    }
}
