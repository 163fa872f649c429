//! What waits for a connection that takes no more, in channels where something may give way.
//!
//! It stands behind the outbox: as long as there is a backlog, everything but control frames goes through it, so that
//! order holds. Publications are not encoded here, so that each of them can still be replaced or dropped. Must never
//! drop what has no successor without leaving word of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};

use super::outbox::DEFERRED_OVERHEAD_BYTES;
use super::wheel::Tick;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    items: BTreeMap<u64, Waiting>,
    next: u64,
    bytes: usize,
    /// The newest of each kind that may yet be replaced.
    newest: HashMap<(ChannelName, Arc<str>), u64>,
    /// Those that may be dropped.
    droppable: BTreeSet<u64>,
    /// The gaps that wait, channel by channel.
    marks: HashMap<ChannelName, Marks>,
}

#[derive(Debug)]
struct Waiting {
    since: Tick,
    item: Item,
}

#[derive(Debug, Default)]
struct Marks {
    /// The last hole that was made here.
    hole: Option<u64>,
    /// Gaps that were told of from elsewhere: a hole does not grow over one.
    told: BTreeSet<u64>,
}

/// What dropping left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    New,
    Grown,
}

/// One thing that waits.
#[derive(Debug)]
pub(super) enum Item {
    /// A reply, a notice or an event without an id.
    Frame(Bytes),
    /// A publication, not encoded yet.
    Publication(Arc<Publication>),
    /// A hole in the sequence of a channel.
    Gap(ChannelGap),
}

impl Backlog {
    /// Bytes of memory that what waits occupies, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, frame: Bytes, now: Tick) {
        self.push(Item::Frame(frame), now);
    }

    /// Appends a gap.
    pub(super) fn gap(&mut self, gap: ChannelGap, now: Tick) {
        let channel = gap.channel.clone();
        let at = self.push(Item::Gap(gap), now);
        self.marks.entry(channel).or_default().told.insert(at);
    }

    /// Appends a publication, and says whether another gave way to it.
    pub(super) fn publication(
        &mut self,
        publication: Arc<Publication>,
        rule: Option<&BackpressurePolicy>,
        now: Tick,
    ) -> bool {
        let Some(rule) = rule else {
            self.push(Item::Publication(publication), now);
            return false;
        };
        let channel = publication.channel.clone();
        let conflation = publication.conflation(rule).clone();
        let at = self.push(Item::Publication(publication), now);
        if matches!(rule, BackpressurePolicy::DropOldest) {
            self.droppable.insert(at);
        }
        let Some(key) = conflation.key else { return false };
        let kind = (channel, key);
        let before =
            if conflation.terminal { self.newest.remove(&kind) } else { self.newest.insert(kind, at) };
        before.and_then(|before| self.take(before)).is_some()
    }

    /// Takes the first item.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let at = *self.items.first_key_value()?.0;
        let item = self.take(at)?;
        self.droppable.remove(&at);
        match &item {
            Item::Publication(publication) => self.leave(publication, at),
            Item::Gap(gap) => self.unmark(&gap.channel, at),
            Item::Frame(_) => {}
        }
        Some(item)
    }

    /// The channel of the oldest publication that may be dropped, and since when it waits.
    pub(super) fn oldest(&self) -> Option<(&ChannelName, Tick)> {
        let waiting = self.items.get(self.droppable.first()?)?;
        match &waiting.item {
            Item::Publication(publication) => Some((&publication.channel, waiting.since)),
            Item::Frame(_) | Item::Gap(_) => None,
        }
    }

    /// Drops the oldest publication that may be dropped, and leaves word of it in its place. Whether there was one;
    /// and whether that is a new hole.
    pub(super) fn drop_oldest(&mut self, now: Tick) -> Option<Hole> {
        let at = self.droppable.pop_first()?;
        let Some(Item::Publication(publication)) = self.take(at) else { return None };
        let Publication { channel, position, .. } = &*publication;
        let marks = self.marks.entry(channel.clone()).or_default();
        // A hole grows, unless something stands in its way.
        if let Some(hole) = marks.hole.filter(|hole| marks.told.range(hole..&at).next().is_none())
            && let Some(Waiting { item: Item::Gap(gap), .. }) = self.items.get_mut(&hole)
        {
            gap.position = *position;
            return Some(Hole::Grown);
        }
        marks.hole = Some(at);
        let gap = ChannelGap { channel: channel.clone(), cause: GapCause::SlowConsumer, position: *position };
        self.bytes += DEFERRED_OVERHEAD_BYTES;
        self.items.insert(at, Waiting { since: now, item: Item::Gap(gap) });
        Some(Hole::New)
    }

    /// Drops everything of a channel that may be dropped: how many, and the position of the last.
    pub(super) fn drop_channel(&mut self, channel: &ChannelName) -> (u64, Option<StreamPosition>) {
        let of_channel = |at: &&u64| match self.items.get(*at).map(|waiting| &waiting.item) {
            Some(Item::Publication(publication)) => publication.channel == *channel,
            _ => false,
        };
        let all: Vec<u64> = self.droppable.iter().filter(of_channel).copied().collect();
        let (mut count, mut last) = (0, None);
        for at in all {
            self.droppable.remove(&at);
            if let Some(Item::Publication(publication)) = self.take(at) {
                (count, last) = (count + 1, Some(publication.position));
            }
        }
        (count, last)
    }

    fn push(&mut self, item: Item, since: Tick) -> u64 {
        let at = self.next;
        self.next += 1;
        self.bytes += item.weight();
        self.items.insert(at, Waiting { since, item });
        at
    }

    fn take(&mut self, at: u64) -> Option<Item> {
        let item = self.items.remove(&at)?.item;
        self.bytes -= item.weight();
        Some(item)
    }

    fn unmark(&mut self, channel: &ChannelName, at: u64) {
        let Some(marks) = self.marks.get_mut(channel) else { return };
        marks.told.remove(&at);
        marks.hole = marks.hole.filter(|hole| *hole != at);
        if marks.told.is_empty() && marks.hole.is_none() {
            self.marks.remove(channel);
        }
    }

    /// A publication is on its way: nothing can replace it any more.
    fn leave(&mut self, publication: &Publication, at: u64) {
        if let Some(key) = publication.conflation_key() {
            let kind = (publication.channel.clone(), Arc::clone(key));
            if self.newest.get(&kind) == Some(&at) {
                self.newest.remove(&kind);
            }
        }
    }
}

impl Item {
    /// Bytes of memory that it occupies, about. Does not change while it waits: all publications of a channel with a rule
    /// are judged before they are pushed, those of other channels never.
    fn weight(&self) -> usize {
        let held = match self {
            Self::Frame(frame) => frame.len(),
            Self::Publication(publication) => {
                publication.cost() + publication.conflation_key().map_or(0, |key| key.len())
            }
            Self::Gap(_) => 0,
        };
        DEFERRED_OVERHEAD_BYTES + held
    }
}
