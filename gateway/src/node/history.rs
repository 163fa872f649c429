//! The newest publications of a channel, from which clients recover.
//!
//! Owns the ring, its bounds (count, age, bytes of the channel, bytes of the node), and the decision whether a
//! position can be recovered. Must never return a sequence with a gap.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};
use tokio::time::Instant;

use super::history_rules::HistoryRules;
use super::messages::{PageLimit, RecoverFrom};
use super::publication::Publication;
use crate::broker::Attributes;

/// The bytes in all histories of a node, and their limit (`limits.history_bytes`).
#[derive(Debug)]
pub struct HistoryBudget {
    used: AtomicUsize,
    limit: usize,
}

/// The text of an epoch in the protocol; empty when the epoch is not set.
pub fn encode_epoch(epoch: Epoch) -> String {
    if epoch.as_u64() == 0 { String::new() } else { epoch.to_string() }
}

/// Why a position cannot be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecoverable {
    /// The position belongs to another sequence.
    Epoch,
    /// The history no longer holds everything that was missed, or it exceeds the limit of one recovery.
    TooShort,
}

/// The newest publications of one channel, without a gap between them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<HistoryEntry>,
    bytes: usize,
}

#[derive(Debug)]
struct HistoryEntry {
    at: Instant,
    position: StreamPosition,
    payload: Payload,
    attributes: Attributes,
    /// The publication while it is in use, so that its encodings are shared.
    shared: Weak<Publication>,
}

impl HistoryBudget {
    /// Creates an empty budget with this limit.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Bytes in all histories.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// Above this mark, the oldest publications of all channels are dropped.
    pub(super) fn is_above_high_watermark(&self) -> bool {
        self.used() > self.limit / 10 * 9
    }

    /// Below this mark, no further publications are dropped.
    pub(super) fn is_below_low_watermark(&self) -> bool {
        self.used() <= self.limit / 10 * 7
    }
}

impl HistoryEntry {
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
    /// Adds a publication that follows the newest one.
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
        let entry = HistoryEntry {
            at: now,
            position: publication.position,
            payload: publication.payload.clone(),
            attributes: publication.attributes.clone(),
            shared: Arc::downgrade(publication),
        };
        self.bytes += entry.cost();
        budget.used.fetch_add(entry.cost(), Ordering::Relaxed);
        self.entries.push_back(entry);
        while self.entries.len() > rules.size
            || (self.bytes > rules.bytes && self.entries.len() > 1)
            || (budget.is_over() && !self.entries.is_empty())
        {
            self.pop(budget);
        }
        self.expire(now, rules, budget);
    }

    /// Adds an entry of the log before the oldest publication, or, when the ring is empty, at the top. Returns `false`
    /// when the position does not fit, or a bound is reached.
    pub(super) fn push_before(
        &mut self,
        publication: &Publication,
        top: StreamPosition,
        rules: &HistoryRules,
        budget: &HistoryBudget,
    ) -> bool {
        let place = self.entries.front().map_or(top.offset, |oldest| oldest.position.offset - 1);
        let entry = HistoryEntry {
            at: Instant::now(),
            position: publication.position,
            payload: publication.payload.clone(),
            attributes: publication.attributes.clone(),
            shared: Weak::new(),
        };
        let room =
            self.entries.len() < rules.size && self.bytes + entry.cost() <= rules.bytes && !budget.is_over();
        if publication.position.offset != place || !room {
            return false;
        }
        self.bytes += entry.cost();
        budget.used.fetch_add(entry.cost(), Ordering::Relaxed);
        self.entries.push_front(entry);
        true
    }

    /// Drops expired publications.
    pub(super) fn expire(&mut self, now: Instant, rules: &HistoryRules, budget: &HistoryBudget) {
        self.drop_older_than(now, rules.ttl, budget);
    }

    /// Drops publications that are older than `age`.
    pub(super) fn drop_older_than(&mut self, now: Instant, age: Duration, budget: &HistoryBudget) {
        while self.entries.front().is_some_and(|entry| entry.at + age < now) {
            self.pop(budget);
        }
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Drops all publications, because the sequence has a gap.
    pub(super) fn clear(&mut self, budget: &HistoryBudget) {
        budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
        self.entries = VecDeque::new();
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.position.offset)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn pop(&mut self, budget: &HistoryBudget) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.cost();
            budget.used.fetch_sub(entry.cost(), Ordering::Relaxed);
        }
    }

    /// The number of publications after a position, up to the top of the channel; all of them are in the ring.
    pub(super) fn count_missed(
        &self,
        since: &RecoverFrom,
        top: StreamPosition,
        max: usize,
    ) -> Result<usize, Unrecoverable> {
        if !since.matches(top.epoch) || since.offset > top.offset {
            return Err(Unrecoverable::Epoch);
        }
        let missed = usize::try_from(top.offset - since.offset).unwrap_or(usize::MAX);
        if missed > self.entries.len() || missed > max {
            return Err(Unrecoverable::TooShort);
        }
        Ok(missed)
    }

    /// The first of the newest `count` publications, up to the limit of the page.
    pub(super) fn newest(
        &mut self,
        channel: &ChannelName,
        count: usize,
        page: PageLimit,
        at_least_one: bool,
    ) -> Vec<Arc<Publication>> {
        let from = self.entries.len() - count;
        let costs = self.entries.range(from..).map(|entry| entry.payload.len() + size_of::<Publication>());
        let fitting = page.fitting(costs, at_least_one && count > 0);
        self.entries.range_mut(from..from + fitting).map(|entry| entry.publication(channel)).collect()
    }

    /// The publications after (in reverse: before) an offset, at most `max`.
    pub(super) fn page(
        &mut self,
        channel: &ChannelName,
        since: Option<u64>,
        max: usize,
        reverse: bool,
    ) -> Vec<Arc<Publication>> {
        let wanted = |entry: &&mut HistoryEntry| match since {
            Some(offset) if reverse => entry.position.offset < offset,
            Some(offset) => entry.position.offset > offset,
            None => true,
        };
        if reverse {
            self.entries
                .iter_mut()
                .rev()
                .filter(wanted)
                .take(max)
                .map(|entry| entry.publication(channel))
                .collect()
        } else {
            self.entries.iter_mut().filter(wanted).take(max).map(|entry| entry.publication(channel)).collect()
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
        fn a_recovery_is_complete_or_rejected(
            size in 1usize..20, published in 0u64..60, since in 0u64..70, max in 1usize..30,
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
            match ring.count_missed(&asked, top, max) {
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
                    prop_assert!(missed > size || missed > max);
                }
            }
        }

        #[test]
        fn the_budget_is_respected_and_released(limit in 0usize..5000, published in 1u64..100) {
            let rules = HistoryRules { size: 50, ttl: Duration::from_secs(60), bytes: 4000 };
            let (budget, mut ring) = (HistoryBudget::new(limit), Ring::default());
            for offset in 1..=published {
                ring.push(&publication(offset), &rules, &budget);
                prop_assert!(budget.used() <= limit);
                prop_assert!(ring.bytes <= 4000 || ring.entries.len() == 1);
            }
            ring.clear(&budget);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn rejects_another_epoch() {
        let top = StreamPosition { epoch: Epoch::from_u64(7), offset: 3 };
        for epoch in ["8", "not an epoch!"] {
            let missed = Ring::default().count_missed(&RecoverFrom::parse(epoch, 3), top, 10);
            assert_eq!(missed, Err(Unrecoverable::Epoch), "{epoch}");
        }
        for epoch in ["", "7"] {
            assert_eq!(
                Ring::default().count_missed(&RecoverFrom::parse(epoch, 3), top, 10),
                Ok(0),
                "{epoch}"
            );
        }
    }
}
