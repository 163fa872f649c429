//! What one client was given and told of one channel, against what was published: 1, 2, 3 and so on.
//!
//! Owns the arithmetic: delivered + announced + lost = published, and nothing twice. Pure: it knows no socket, and the
//! time is given to it. Must never forgive: a hole that was not told before what follows it is a loss.

use tokio::time::Instant;

/// The account of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The last number that was heard, or written off.
    pub(super) last: u64,
    pub(super) count: Count,
    /// A gap was told, and nothing has come since.
    told: bool,
    /// From which number on the first arrival counts, and when it came.
    awaited: Option<u64>,
    came: Option<Instant>,
}

/// What became of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) delivered: u64,
    /// Missing, and the client was told.
    pub(super) announced: u64,
    /// Missing without a word.
    pub(super) lost: u64,
    /// Once more, or after a later one.
    pub(super) twice: u64,
    /// How often the client was told of a gap.
    pub(super) gaps: u64,
}

impl Count {
    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        self.with(other, |one, other| one + other)
    }

    /// What has been added since an earlier count.
    pub(super) fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            delivered: of(self.delivered, other.delivered),
            announced: of(self.announced, other.announced),
            lost: of(self.lost, other.lost),
            twice: of(self.twice, other.twice),
            gaps: of(self.gaps, other.gaps),
        }
    }
}

impl Ledger {
    /// A number came.
    pub(super) fn heard(&mut self, number: u64, now: Instant) {
        if number <= self.last {
            self.count.twice += 1;
            return;
        }
        self.miss(number - self.last - 1);
        self.count.delivered += 1;
        (self.last, self.told) = (number, false);
        if self.came.is_none() && self.awaited.is_some_and(|awaited| number >= awaited) {
            self.came = Some(now);
        }
    }

    /// The client was told that something may be missing here.
    pub(super) fn gap(&mut self) {
        self.count.gaps += 1;
        self.told = true;
    }

    /// Nothing more will come of what was published until now.
    pub(super) fn close(&mut self, published: u64) {
        self.miss(published.saturating_sub(self.last));
        self.last = self.last.max(published);
    }

    /// Looks out for the first arrival from a number on.
    pub(super) fn look_out(&mut self, number: u64) {
        (self.awaited, self.came) = (Some(number), None);
    }

    /// When the first arrival was that is looked out for.
    pub(super) fn came(&self) -> Option<Instant> {
        self.came
    }

    fn miss(&mut self, numbers: u64) {
        let place = if self.told { &mut self.count.announced } else { &mut self.count.lost };
        *place += numbers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(story: &[Option<u64>]) -> Ledger {
        let mut ledger = Ledger::default();
        for word in story {
            match word {
                Some(number) => ledger.heard(*number, Instant::now()),
                None => ledger.gap(),
            }
        }
        ledger
    }

    /// delivered, announced, lost, twice, gaps
    fn count(story: &[Option<u64>], published: u64) -> [u64; 5] {
        let mut ledger = ledger(story);
        ledger.close(published);
        let Count { delivered, announced, lost, twice, gaps } = ledger.count;
        assert_eq!(delivered + announced + lost, published, "{story:?}");
        [delivered, announced, lost, twice, gaps]
    }

    #[test]
    fn every_number_is_delivered_announced_or_lost() {
        assert_eq!(count(&[Some(1), Some(2), Some(3)], 3), [3, 0, 0, 0, 0]);
        assert_eq!(count(&[Some(1), None, Some(4)], 4), [2, 2, 0, 0, 1]);
        assert_eq!(count(&[Some(1), Some(4)], 4), [2, 0, 2, 0, 0]);
        assert_eq!(count(&[Some(1), None], 3), [1, 2, 0, 0, 1]);
        assert_eq!(count(&[], 3), [0, 0, 3, 0, 0]);
    }

    #[test]
    fn a_gap_excuses_the_hole_that_follows_it_and_no_other() {
        assert_eq!(count(&[None, Some(2), Some(4)], 4), [2, 1, 1, 0, 1]);
        assert_eq!(count(&[Some(2), None, Some(4)], 4), [2, 1, 1, 0, 1]);
    }

    #[test]
    fn what_comes_again_or_too_late_is_counted_apart() {
        assert_eq!(count(&[Some(1), Some(1), Some(3), Some(2)], 3), [2, 0, 1, 2, 0]);
    }

    #[test]
    fn an_arrival_is_looked_out_for() {
        let mut ledger = ledger(&[Some(1)]);
        ledger.look_out(3);
        ledger.heard(2, Instant::now());
        assert_eq!(ledger.came(), None);
        let now = Instant::now();
        ledger.heard(4, now);
        ledger.heard(5, Instant::now());
        assert_eq!(ledger.came(), Some(now));
    }
}
