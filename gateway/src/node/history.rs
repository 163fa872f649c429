//! What a channel remembers: its newest publications, so that a client which was away can be given what it missed.
//!
//! Owns the ring, its bounds (count, age, bytes for the channel, bytes for the node), and the judgement whether a
//! position can be continued. Must never hand out a sequence with a hole.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};
use tokio::time::Instant;

use super::messages::{PageLimit, RecoverFrom};
use super::publication::Publication;
use crate::broker::Attributes;

/// How much a channel remembers (`namespace.history`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRules {
    /// Publications; 0: none.
    pub size: usize,
    /// Age.
    pub ttl: Duration,
    /// Bytes.
    pub bytes: usize,
}

/// What all rings of a node hold, and may hold (`limits.history_bytes`).
#[derive(Debug)]
pub struct HistoryBudget {
    used: AtomicUsize,
    limit: usize,
}

/// An epoch as clients are told it: one that nobody has drawn yet is empty.
pub fn encode_epoch(epoch: Epoch) -> String {
    if epoch.as_u64() == 0 { String::new() } else { epoch.to_string() }
}

/// Why a position cannot be continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecoverable {
    /// It belongs to another sequence: the node or the log began anew.
    Epoch,
    /// The ring no longer holds all that was missed, or that is more than one recovery may hold.
    TooShort,
}

/// The newest publications of one channel, without a hole between them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    position: StreamPosition,
    payload: Payload,
    attributes: Attributes,
    /// The publication while somebody is still being given it, so that its encodings are shared.
    shared: Weak<Publication>,
}

impl HistoryBudget {
    /// Nothing used of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Bytes that all rings hold now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// So much is used that the oldest should give way before the newest must.
    pub(super) fn is_tight(&self) -> bool {
        self.used() > self.limit / 10 * 9
    }

    /// There is room again.
    pub(super) fn is_relieved(&self) -> bool {
        self.used() <= self.limit / 10 * 7
    }
}

impl Kept {
    fn cost(&self) -> usize {
        self.payload.len() + self.attributes.cost() + size_of::<Self>() + size_of::<Publication>()
    }

    fn publication(&mut self, channel: &ChannelName) -> Arc<Publication> {
        self.shared.upgrade().unwrap_or_else(|| {
            let again = Publication::new(channel.clone(), self.position, self.payload.clone());
            let again = Arc::new(again.with_attributes(self.attributes.clone()));
            self.shared = Arc::downgrade(&again);
            again
        })
    }
}

impl Ring {
    /// Remembers a publication that follows on the newest.
    pub(super) fn push(
        &mut self,
        publication: &Arc<Publication>,
        rules: &HistoryRules,
        budget: &HistoryBudget,
    ) {
        if rules.size == 0 {
            return;
        }
        let now = Instant::now();
        let kept = Kept {
            at: now,
            position: publication.position,
            payload: publication.payload.clone(),
            attributes: publication.attributes.clone(),
            shared: Arc::downgrade(publication),
        };
        self.bytes += kept.cost();
        budget.used.fetch_add(kept.cost(), Ordering::Relaxed);
        self.kept.push_back(kept);
        while self.kept.len() > rules.size
            || (self.bytes > rules.bytes && self.kept.len() > 1)
            || (budget.is_over() && !self.kept.is_empty())
        {
            self.pop(budget);
        }
        self.forget_old(now, rules, budget);
    }

    /// Remembers what stands in the log right before the oldest, or, when nothing is remembered, at the top. `false`
    /// when it does not fit there, or finds no room.
    pub(super) fn push_before(
        &mut self,
        publication: &Publication,
        top: StreamPosition,
        rules: &HistoryRules,
        budget: &HistoryBudget,
    ) -> bool {
        let place = self.kept.front().map_or(top.offset, |oldest| oldest.position.offset - 1);
        let kept = Kept {
            at: Instant::now(),
            position: publication.position,
            payload: publication.payload.clone(),
            attributes: publication.attributes.clone(),
            shared: Weak::new(),
        };
        let room =
            self.kept.len() < rules.size && self.bytes + kept.cost() <= rules.bytes && !budget.is_over();
        if publication.position.offset != place || !room {
            return false;
        }
        self.bytes += kept.cost();
        budget.used.fetch_add(kept.cost(), Ordering::Relaxed);
        self.kept.push_front(kept);
        true
    }

    /// Forgets what is older than it may be.
    pub(super) fn forget_old(&mut self, now: Instant, rules: &HistoryRules, budget: &HistoryBudget) {
        self.forget_older(now, rules.ttl, budget);
    }

    /// Forgets what is older than this.
    pub(super) fn forget_older(&mut self, now: Instant, age: Duration, budget: &HistoryBudget) {
        while self.kept.front().is_some_and(|kept| kept.at + age < now) {
            self.pop(budget);
        }
        if self.kept.len() * 4 < self.kept.capacity() {
            self.kept.shrink_to(self.kept.len() * 2);
        }
    }

    /// Forgets everything: the sequence has a hole.
    pub(super) fn clear(&mut self, budget: &HistoryBudget) {
        budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
        self.kept = VecDeque::new();
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.kept.front().map(|kept| kept.position.offset)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn pop(&mut self, budget: &HistoryBudget) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.cost();
            budget.used.fetch_sub(kept.cost(), Ordering::Relaxed);
        }
    }

    /// How many publications follow a position, up to the top of the channel; all of them are remembered.
    pub(super) fn missed(
        &self,
        since: &RecoverFrom,
        top: StreamPosition,
        most: usize,
    ) -> Result<usize, Unrecoverable> {
        if !since.matches(top.epoch) || since.offset > top.offset {
            return Err(Unrecoverable::Epoch);
        }
        let missed = usize::try_from(top.offset - since.offset).unwrap_or(usize::MAX);
        if missed > self.kept.len() || missed > most {
            return Err(Unrecoverable::TooShort);
        }
        Ok(missed)
    }

    /// The first of the newest publications, as many as a page holds.
    pub(super) fn newest(
        &mut self,
        channel: &ChannelName,
        count: usize,
        page: PageLimit,
        at_least_one: bool,
    ) -> Vec<Arc<Publication>> {
        let from = self.kept.len() - count;
        let costs = self.kept.range(from..).map(|kept| kept.payload.len() + size_of::<Publication>());
        let fitting = page.fitting(costs, at_least_one && count > 0);
        self.kept.range_mut(from..from + fitting).map(|kept| kept.publication(channel)).collect()
    }

    /// A page of the ring: what lies behind (or, in reverse, before) an offset, at most so many.
    pub(super) fn page(
        &mut self,
        channel: &ChannelName,
        since: Option<u64>,
        most: usize,
        reverse: bool,
    ) -> Vec<Arc<Publication>> {
        let wanted = |kept: &&mut Kept| match since {
            Some(offset) if reverse => kept.position.offset < offset,
            Some(offset) => kept.position.offset > offset,
            None => true,
        };
        if reverse {
            self.kept
                .iter_mut()
                .rev()
                .filter(wanted)
                .take(most)
                .map(|kept| kept.publication(channel))
                .collect()
        } else {
            self.kept.iter_mut().filter(wanted).take(most).map(|kept| kept.publication(channel)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn publication(offset: u64) -> Arc<Publication> {
        let name = ChannelName::parse("c").unwrap();
        let position = StreamPosition { epoch: Epoch::from_u64(7), offset };
        Arc::new(Publication::new(name, position, Payload::new(Bytes::from(offset.to_string()))))
    }

    fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
        publications.iter().map(|publication| publication.position.offset).collect()
    }

    proptest! {
        #[test]
        fn a_recovery_is_whole_or_refused(
            size in 1usize..20, published in 0u64..60, since in 0u64..70, most in 1usize..30,
            page in (0usize..10, 0usize..2000), at_least_one: bool,
        ) {
            let name = ChannelName::parse("c").unwrap();
            let rules = HistoryRules { size, ttl: Duration::from_secs(60), bytes: 1 << 20 };
            let (budget, mut ring) = (HistoryBudget::new(1 << 20), Ring::default());
            for offset in 1..=published {
                ring.push(&publication(offset), &rules, &budget);
            }
            let top = StreamPosition { epoch: Epoch::from_u64(7), offset: published };
            let asked = RecoverFrom { epoch: crate::node::messages::RecoveryEpoch::Any, offset: since };
            match ring.missed(&asked, top, most) {
                Ok(missed) => {
                    let all = PageLimit { publications: usize::MAX, bytes: usize::MAX };
                    let all = offsets(&ring.newest(&name, missed, all, false));
                    prop_assert_eq!(&all, &(since + 1..=published).collect::<Vec<_>>());
                    let page = PageLimit { publications: page.0, bytes: page.1 };
                    let first = offsets(&ring.newest(&name, missed, page, at_least_one));
                    prop_assert_eq!(&first[..], &all[..first.len()]);
                    prop_assert!(first.len() <= page.publications.max(1));
                    prop_assert!(!at_least_one || !first.is_empty() || missed == 0);
                }
                Err(Unrecoverable::Epoch) => prop_assert!(since > published),
                Err(Unrecoverable::TooShort) => {
                    let missed = usize::try_from(published - since).unwrap();
                    prop_assert!(missed > size || missed > most);
                }
            }
        }

        #[test]
        fn the_budget_is_kept_and_given_back(limit in 0usize..5000, published in 1u64..100) {
            let rules = HistoryRules { size: 50, ttl: Duration::from_secs(60), bytes: 4000 };
            let (budget, mut ring) = (HistoryBudget::new(limit), Ring::default());
            for offset in 1..=published {
                ring.push(&publication(offset), &rules, &budget);
                prop_assert!(budget.used() <= limit);
                prop_assert!(ring.bytes <= 4000 || ring.kept.len() == 1);
            }
            ring.clear(&budget);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn another_epoch_is_never_continued() {
        let top = StreamPosition { epoch: Epoch::from_u64(7), offset: 3 };
        for epoch in ["8", "not an epoch!"] {
            let missed = Ring::default().missed(&RecoverFrom::parse(epoch, 3), top, 10);
            assert_eq!(missed, Err(Unrecoverable::Epoch), "{epoch}");
        }
        for epoch in ["", "7"] {
            assert_eq!(Ring::default().missed(&RecoverFrom::parse(epoch, 3), top, 10), Ok(0), "{epoch}");
        }
    }
}
