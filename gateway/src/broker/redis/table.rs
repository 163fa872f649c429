//! The table of what is wanted, and how far the server has confirmed it on the present connection.
//!
//! Pure: no socket, no lock, no clock. The wire state is derived from this table alone, so a wish can be made, taken
//! back and made again at any moment, connected or not, and the end is always what was wished last.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::{AffectedTopics, BrokerError, GapCause, Topic, TopicGap};

/// The answer to a wish.
pub(super) type Confirmation = Result<(), BrokerError>;

/// What there is to do on the wire; each topic stands in at most one place.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) subscribe: Vec<Topic>,
    pub(super) unsubscribe: Vec<Topic>,
    /// Whether a topic is among them that was heard before: its loss must be said before it is heard again.
    pub(super) heals: bool,
}

/// What came of a [`Round`].
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) subscribed: Vec<Topic>,
    pub(super) unsubscribed: Vec<Topic>,
    pub(super) refused: Vec<(Topic, String)>,
    /// Shard channels whose slot is somewhere else.
    pub(super) away: Vec<Topic>,
}

/// How many topics are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) wanted: usize,
    pub(super) confirmed: usize,
    /// Wanted, heard before, and refused now.
    pub(super) refused: usize,
    /// Wanted, and not at this node any more.
    pub(super) away: usize,
}

/// Wishes by topic.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Topic, Entry>,
    /// Topics whose wish and wire state may differ. May name what has gone meanwhile.
    changed: Vec<Topic>,
    counts: Counts,
}

#[derive(Debug)]
struct Entry {
    wanted: bool,
    wire: Wire,
    /// Stands in `changed`.
    changed: bool,
    /// The server gave it up while a command about it was on its way.
    gone: Option<Instant>,
    deaf: Option<Deaf>,
    /// It was confirmed once; otherwise it was at most admitted while the server was away.
    heard: bool,
    waiting: Vec<oneshot::Sender<Confirmation>>,
}

/// A wish on its way from one table to another.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) topic: Topic,
    deaf: Option<Deaf>,
    heard: bool,
    waiting: Vec<oneshot::Sender<Confirmation>>,
}

/// What the server knows of a topic on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Off,
    /// A command of the present round is on its way.
    Moving,
    On,
    Refused,
    /// The server carries it no longer: it waits for a place.
    Away,
}

/// A topic that was heard and is not any more.
#[derive(Clone, Copy, Debug)]
struct Deaf {
    since: Instant,
    /// The listener knows, and it has not healed yet.
    said: bool,
}

impl Table {
    /// Wants a topic. `None`: it is confirmed already.
    pub(super) fn want(&mut self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        if !self.entries.contains_key(topic) {
            self.entries.insert(topic.clone(), Entry::new());
        }
        self.alter(topic, Entry::want).flatten()
    }

    /// Counts a topic as heard that is not, and as deaf from a moment on. `false` while it is on its way to the
    /// server: it may be heard already, and its loss must be said before that.
    pub(super) fn admit(&mut self, topic: &Topic, now: Instant) -> bool {
        let admitted = self.alter(topic, |entry| {
            let deaf = entry.wanted && entry.wire != Wire::On;
            if entry.wire == Wire::Moving && entry.deaf.is_none() {
                return false;
            }
            if deaf {
                entry.deaf.get_or_insert(Deaf { since: now, said: false });
            }
            true
        });
        admitted.unwrap_or(true)
    }

    /// No longer wants a topic.
    pub(super) fn forget(&mut self, topic: &Topic) {
        self.alter(topic, |entry| {
            entry.wanted = false;
            // Whoever wants it again begins anew: what was missed before concerns nobody any more.
            entry.deaf = None;
            entry.answer(&Err(BrokerError::Unavailable("the topic is no longer wanted".to_owned())));
        });
    }

    /// What there is to do; `None` when wish and wire agree. To be followed by [`Table::settle`] or
    /// [`Table::link_lost`] before the next round.
    pub(super) fn round(&mut self) -> Option<Round> {
        let mut round = Round::default();
        for topic in std::mem::take(&mut self.changed) {
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            entry.changed = false;
            if !entry.differs() {
                continue;
            }
            entry.wire = Wire::Moving;
            entry.gone = None;
            round.heals |= entry.deaf.is_some();
            if entry.wanted { &mut round.subscribe } else { &mut round.unsubscribe }.push(topic);
        }
        (!round.subscribe.is_empty() || !round.unsubscribe.is_empty()).then_some(round)
    }

    /// The loss to be said before the outcome is settled: the topics that were heard once and are again, and those
    /// that turn out to be refused now.
    pub(super) fn loss(&mut self, outcome: &Outcome) -> Option<TopicGap> {
        let mut topics = Vec::new();
        let mut from: Option<Instant> = None;
        let refused = outcome.refused.iter().map(|(topic, _)| (topic, false));
        for (topic, heals) in outcome.subscribed.iter().map(|topic| (topic, true)).chain(refused) {
            let Some(deaf) = self.entries.get_mut(topic).and_then(|entry| entry.deaf.as_mut()) else {
                continue;
            };
            if heals || !deaf.said {
                deaf.said = true;
                topics.push(topic.clone());
                from = Some(from.map_or(deaf.since, |from| from.min(deaf.since)));
            }
        }
        let everything = topics.len() == self.entries.len();
        let topics = if everything { AffectedTopics::All } else { AffectedTopics::Some(topics) };
        from.map(|from| TopicGap { topics, cause: GapCause::LinkDown, from })
    }

    /// Enters what came of a round, and answers those who wait.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        for topic in outcome.subscribed {
            self.alter(&topic, |entry| {
                entry.wire = Wire::On;
                entry.heard = true;
                match entry.gone.take() {
                    Some(since) => entry.leave(since),
                    None => {
                        entry.deaf = None;
                        entry.answer(&Ok(()));
                    }
                }
            });
        }
        for topic in outcome.unsubscribed {
            self.alter(&topic, |entry| entry.wire = Wire::Off);
        }
        for (topic, reason) in outcome.refused {
            self.alter(&topic, |entry| entry.refuse(reason));
        }
        for topic in outcome.away {
            self.alter(&topic, |entry| entry.wire = Wire::Away);
        }
    }

    /// The server gave a shard channel up: its slot has moved.
    pub(super) fn gone(&mut self, topic: &Topic, since: Instant) {
        self.alter(topic, |entry| match entry.wire {
            Wire::On => entry.leave(since),
            Wire::Moving => entry.gone = Some(since),
            Wire::Off | Wire::Refused | Wire::Away => {}
        });
    }

    /// Takes out the wishes whose place is not here and that the server does not hold. Those that it gave up and that
    /// belong here all the same are asked for again; `true` when there are any.
    pub(super) fn strays(&mut self, is_here: impl Fn(&Topic) -> bool) -> (Vec<Stray>, bool) {
        let idle = |entry: &Entry| entry.wanted && !matches!(entry.wire, Wire::On | Wire::Moving);
        let idle = self.entries.iter().filter(|(_, entry)| idle(entry)).map(|(topic, _)| topic.clone());
        let (here, elsewhere): (Vec<_>, Vec<_>) = idle.collect::<Vec<_>>().into_iter().partition(&is_here);
        let mut again = false;
        for topic in here {
            self.alter(&topic, |entry| {
                if entry.wire == Wire::Away {
                    entry.wire = Wire::Off;
                    again = true;
                }
            });
        }
        let strays = elsewhere.into_iter().filter_map(|topic| {
            let entry = self.entries.remove(&topic)?;
            self.counts.replace(entry.counts(), Counts::default());
            Some(Stray { topic, deaf: entry.deaf, heard: entry.heard, waiting: entry.waiting })
        });
        let strays = strays.collect();
        self.shrink();
        (strays, again)
    }

    /// Takes a wish over from another table.
    pub(super) fn adopt(&mut self, stray: Stray) {
        let Stray { topic, deaf, heard, waiting } = stray;
        self.entries.entry(topic.clone()).or_insert_with(Entry::new);
        self.alter(&topic, |entry| {
            entry.wanted = true;
            entry.deaf = entry.deaf.or(deaf);
            entry.heard |= heard;
            entry.waiting.extend(waiting);
        });
    }

    /// Whether a topic is wanted here, or was and is still held.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        self.entries.contains_key(topic)
    }

    /// Whether nothing is wanted or held here.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The connection is gone. What was heard on it was heard for certain until `proven`.
    pub(super) fn link_lost(&mut self, proven: Instant) {
        self.entries.retain(|_, entry| entry.wanted);
        self.shrink();
        self.changed.clear();
        for (topic, entry) in &mut self.entries {
            if entry.wire == Wire::On {
                entry.deaf.get_or_insert(Deaf { since: proven, said: false });
            }
            entry.wire = Wire::Off;
            entry.changed = true;
            self.changed.push(topic.clone());
        }
        self.counts = Counts { wanted: self.entries.len(), ..Counts::default() };
    }

    /// Topics that were heard once and are refused now shall be asked for again: an ACL can be mended.
    pub(super) fn retry_refused(&mut self) {
        let refused = self.entries.iter().filter(|(_, entry)| entry.wire == Wire::Refused);
        let refused: Vec<_> = refused.map(|(topic, _)| topic.clone()).collect();
        for topic in refused {
            self.alter(&topic, |entry| entry.wire = Wire::Off);
        }
    }

    /// Every topic that is wanted.
    pub(super) fn topics(&self) -> Vec<Topic> {
        let wanted = self.entries.iter().filter(|(_, entry)| entry.wanted);
        wanted.map(|(topic, _)| topic.clone()).collect()
    }

    /// Topics that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// How many topics are in which state.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Forgets everything; who waits is told by the end of the channel.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The one place where entries change, so that counts and `changed` follow.
    fn alter<R>(&mut self, topic: &Topic, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let entry = self.entries.get_mut(topic)?;
        let before = entry.counts();
        let result = change(entry);
        self.counts.replace(before, entry.counts());
        if !entry.wanted && matches!(entry.wire, Wire::Off | Wire::Refused | Wire::Away) {
            self.entries.remove(topic);
            self.shrink();
        } else if !entry.changed && entry.differs() {
            entry.changed = true;
            self.changed.push(topic.clone());
        }
        Some(result)
    }

    /// Gives memory back when most of the topics are gone.
    fn shrink(&mut self) {
        if self.entries.len() * 8 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            wanted: false,
            wire: Wire::Off,
            changed: false,
            gone: None,
            deaf: None,
            heard: false,
            waiting: Vec::new(),
        }
    }

    fn want(&mut self) -> Option<oneshot::Receiver<Confirmation>> {
        self.wanted = true;
        if self.wire == Wire::On {
            return None;
        }
        // Before it would grow: callers that gave up make room for those that came.
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.push(sender);
        Some(receiver)
    }

    /// The server gave it up. It is asked for again at once: the server knows best where it is now.
    fn leave(&mut self, since: Instant) {
        self.wire = Wire::Off;
        if self.wanted {
            self.deaf.get_or_insert(Deaf { since, said: false });
        }
    }

    fn refuse(&mut self, reason: String) {
        if self.wanted && self.deaf.is_some() {
            // What was heard before is asked for until the ACL is mended: whoever wants it may try again. What was
            // admitted while the server was away was never heard.
            let answer = if self.heard { BrokerError::Unavailable } else { BrokerError::Refused };
            self.answer(&Err(answer(reason)));
            self.wire = Wire::Refused;
        } else {
            // Never heard: who asked was told, and nobody else relies on it.
            self.answer(&Err(BrokerError::Refused(reason)));
            self.wanted = false;
            self.wire = Wire::Off;
        }
    }

    fn answer(&mut self, confirmation: &Confirmation) {
        for waiting in std::mem::take(&mut self.waiting) {
            // Whoever has gone does not want to know.
            let _ = waiting.send(confirmation.clone());
        }
    }

    fn differs(&self) -> bool {
        matches!((self.wanted, self.wire), (true, Wire::Off) | (false, Wire::On))
    }

    fn counts(&self) -> Counts {
        let count = |wire| usize::from(self.wanted && self.wire == wire);
        Counts {
            wanted: usize::from(self.wanted),
            confirmed: count(Wire::On),
            // Whoever asks for what is forbidden must not make the link count as down.
            refused: if self.heard { count(Wire::Refused) } else { 0 },
            away: count(Wire::Away),
        }
    }
}

impl Counts {
    fn replace(&mut self, before: Self, after: Self) {
        self.wanted = self.wanted + after.wanted - before.wanted;
        self.confirmed = self.confirmed + after.confirmed - before.confirmed;
        self.refused = self.refused + after.refused - before.refused;
        self.away = self.away + after.away - before.away;
    }
}
