//! The backlog of a slow consumer: entries that wait behind its outbox, in channels with a slow-consumer rule.
//!
//! While there is a backlog, everything except control frames passes through it, so that the order is kept.
//! Publications are encoded when they leave it, so that until then each can be replaced or dropped. A dropped
//! publication without a successor leaves a gap marker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};

use super::outbox::DEFERRED_OVERHEAD_BYTES;
use super::timer_wheel::Tick;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// Entries in order.
#[derive(Debug, Default)]
pub(super) struct ConflationQueue {
    items: BTreeMap<u64, Waiting>,
    next: u64,
    bytes: usize,
    /// The newest entry of each conflation key that may still be replaced.
    newest: HashMap<(ChannelName, Arc<str>), u64>,
    /// Entries that may be dropped.
    droppable: BTreeSet<u64>,
    /// The gap entries of each channel.
    markers: HashMap<ChannelName, GapMarkers>,
}

#[derive(Debug)]
struct Waiting {
    since: Tick,
    item: Item,
}

#[derive(Debug, Default)]
struct GapMarkers {
    /// The entry of the last gap that dropping created.
    dropped: Option<u64>,
    /// Gaps that were reported by the node: a gap is not extended across one.
    reported: BTreeSet<u64>,
}

/// The result of dropping a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GapMarker {
    New,
    Extended,
}

/// One entry.
#[derive(Debug)]
pub(super) enum Item {
    /// A reply, a notice or an event without an id.
    Frame(Bytes),
    /// A publication that is not encoded yet.
    Publication(Arc<Publication>),
    /// A gap in the sequence of a channel.
    Gap(ChannelGap),
}

impl ConflationQueue {
    /// Bytes of memory that the entries occupy, approximately.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame.
    pub(super) fn push_frame(&mut self, frame: Bytes, now: Tick) {
        self.push(Item::Frame(frame), now);
    }

    /// Appends a gap.
    pub(super) fn push_gap(&mut self, gap: ChannelGap, now: Tick) {
        let channel = gap.channel.clone();
        let at = self.push(Item::Gap(gap), now);
        self.markers.entry(channel).or_default().reported.insert(at);
    }

    /// Appends a publication. Returns whether it replaced another one.
    pub(super) fn push_publication(
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

    /// Removes the first entry.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let at = *self.items.first_key_value()?.0;
        let item = self.take(at)?;
        self.droppable.remove(&at);
        match &item {
            Item::Publication(publication) => self.on_sent(publication, at),
            Item::Gap(gap) => self.clear_marker(&gap.channel, at),
            Item::Frame(_) => {}
        }
        Some(item)
    }

    /// The channel of the oldest droppable publication, and the time since which it waits.
    pub(super) fn oldest(&self) -> Option<(&ChannelName, Tick)> {
        let waiting = self.items.get(self.droppable.first()?)?;
        match &waiting.item {
            Item::Publication(publication) => Some((&publication.channel, waiting.since)),
            Item::Frame(_) | Item::Gap(_) => None,
        }
    }

    /// Drops the oldest droppable publication and leaves a gap in its place. Returns whether the gap is new, or `None`
    /// if nothing could be dropped.
    pub(super) fn drop_oldest(&mut self, now: Tick) -> Option<GapMarker> {
        let at = self.droppable.pop_first()?;
        let Some(Item::Publication(publication)) = self.take(at) else { return None };
        let Publication { channel, position, .. } = &*publication;
        let markers = self.markers.entry(channel.clone()).or_default();
        // Extend the last gap unless a reported gap follows it.
        if let Some(dropped) =
            markers.dropped.filter(|dropped| markers.reported.range(dropped..&at).next().is_none())
            && let Some(Waiting { item: Item::Gap(gap), .. }) = self.items.get_mut(&dropped)
        {
            gap.position = *position;
            return Some(GapMarker::Extended);
        }
        markers.dropped = Some(at);
        let gap = ChannelGap { channel: channel.clone(), cause: GapCause::SlowConsumer, position: *position };
        self.bytes += DEFERRED_OVERHEAD_BYTES;
        self.items.insert(at, Waiting { since: now, item: Item::Gap(gap) });
        Some(GapMarker::New)
    }

    /// Drops all droppable publications of a channel. Returns their number and the position of the last.
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

    fn clear_marker(&mut self, channel: &ChannelName, at: u64) {
        let Some(markers) = self.markers.get_mut(channel) else { return };
        markers.reported.remove(&at);
        markers.dropped = markers.dropped.filter(|dropped| *dropped != at);
        if markers.reported.is_empty() && markers.dropped.is_none() {
            self.markers.remove(channel);
        }
    }

    /// A publication has left the queue: it can no longer be replaced.
    fn on_sent(&mut self, publication: &Publication, at: u64) {
        if let Some(key) = publication.conflation_key() {
            let kind = (publication.channel.clone(), Arc::clone(key));
            if self.newest.get(&kind) == Some(&at) {
                self.newest.remove(&kind);
            }
        }
    }
}

impl Item {
    /// Bytes of memory that an entry occupies, approximately. Constant while it waits: the conflation keys of a
    /// channel with a rule are computed before its publications are pushed, those of other channels never.
    fn weight(&self) -> usize {
        let deferred = match self {
            Self::Frame(frame) => frame.len(),
            Self::Publication(publication) => {
                publication.cost() + publication.conflation_key().map_or(0, |key| key.len())
            }
            Self::Gap(_) => 0,
        };
        DEFERRED_OVERHEAD_BYTES + deferred
    }
}
