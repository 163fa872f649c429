//! The table of desired topics, and their state on the present connection.
//!
//! Pure: no socket, no lock, no clock. The state on the connection follows only from this table, so a topic can be
//! subscribed, unsubscribed and subscribed again at any moment, connected or not, and the last call decides.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::{AffectedTopics, BrokerError, GapCause, Topic, TopicGap};

mod subscription;

pub(super) use subscription::SubscriptionCounts;
use subscription::{Outage, TopicSubscription, WireState};

/// The result of a subscribe.
pub(super) type Confirmation = Result<(), BrokerError>;

/// The topics to subscribe and to unsubscribe; each is in one of the lists.
#[derive(Debug, Default)]
pub(super) struct SyncBatch {
    pub(super) subscribe: Vec<Topic>,
    pub(super) unsubscribe: Vec<Topic>,
    /// Whether a topic had an outage: the gap must be reported before messages are dispatched.
    pub(super) has_outage: bool,
}

/// The result of a [`SyncBatch`].
#[derive(Debug, Default)]
pub(super) struct SyncResult {
    pub(super) subscribed: Vec<Topic>,
    pub(super) unsubscribed: Vec<Topic>,
    pub(super) rejected: Vec<(Topic, String)>,
    /// Sharded channels whose slot has moved.
    pub(super) misplaced: Vec<Topic>,
}

/// Subscriptions by topic.
#[derive(Debug, Default)]
pub(super) struct SubscriptionTable {
    entries: HashMap<Topic, TopicSubscription>,
    /// Topics that may need a command. May contain topics that were removed.
    changed: Vec<Topic>,
    counts: SubscriptionCounts,
}

/// A subscription that moves from one table to another.
#[derive(Debug)]
pub(super) struct MigratingTopic {
    pub(super) topic: Topic,
    outage: Option<Outage>,
    was_active: bool,
    waiters: Vec<oneshot::Sender<Confirmation>>,
}

impl SubscriptionTable {
    /// Subscribes to a topic. Returns `None` when it is active already.
    pub(super) fn subscribe(&mut self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        if !self.entries.contains_key(topic) {
            self.entries.insert(topic.clone(), TopicSubscription::new());
        }
        self.update(topic, TopicSubscription::subscribe).flatten()
    }

    /// Marks a topic as accepted with an outage from now on. Returns `false` while a command is in flight: the topic
    /// may be active already, and its gap must be reported before that.
    pub(super) fn accept_offline(&mut self, topic: &Topic, now: Instant) -> bool {
        let admitted = self.update(topic, |entry| {
            let outage = entry.desired && entry.wire != WireState::Subscribed;
            if entry.wire == WireState::Pending && entry.outage.is_none() {
                return false;
            }
            if outage {
                entry.outage.get_or_insert(Outage { since: now, reported: false });
            }
            true
        });
        admitted.unwrap_or(true)
    }

    /// Unsubscribes from a topic.
    pub(super) fn unsubscribe(&mut self, topic: &Topic) {
        self.update(topic, |entry| {
            entry.desired = false;
            // A later subscribe is a new one: the gap before it is irrelevant.
            entry.outage = None;
            entry.notify(&Err(BrokerError::Unavailable("unsubscribed".to_owned())));
        });
    }

    /// The next batch; `None` when nothing has to change. [`SubscriptionTable::apply`] or
    /// [`SubscriptionTable::on_link_lost`] must be called before the next one.
    pub(super) fn next_batch(&mut self) -> Option<SyncBatch> {
        let mut batch = SyncBatch::default();
        for topic in std::mem::take(&mut self.changed) {
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            entry.changed = false;
            if !entry.needs_sync() {
                continue;
            }
            entry.wire = WireState::Pending;
            entry.unsubscribed_at = None;
            batch.has_outage |= entry.outage.is_some();
            if entry.desired { &mut batch.subscribe } else { &mut batch.unsubscribe }.push(topic);
        }
        (!batch.subscribe.is_empty() || !batch.unsubscribe.is_empty()).then_some(batch)
    }

    /// The gap to report before the result is applied: the topics that are active again after an outage, and those
    /// that are rejected now.
    pub(super) fn outage_to_report(&mut self, outcome: &SyncResult) -> Option<TopicGap> {
        let mut topics = Vec::new();
        let mut from: Option<Instant> = None;
        let rejected = outcome.rejected.iter().map(|(topic, _)| (topic, false));
        for (topic, has_outage) in outcome.subscribed.iter().map(|topic| (topic, true)).chain(rejected) {
            let Some(outage) = self.entries.get_mut(topic).and_then(|entry| entry.outage.as_mut()) else {
                continue;
            };
            if has_outage || !outage.reported {
                outage.reported = true;
                topics.push(topic.clone());
                from = Some(from.map_or(outage.since, |from| from.min(outage.since)));
            }
        }
        let everything = topics.len() == self.entries.len();
        let topics = if everything { AffectedTopics::All } else { AffectedTopics::Some(topics) };
        from.map(|from| TopicGap { topics, cause: GapCause::LinkDown, from })
    }

    /// Applies the result of a batch, and notifies the waiters.
    pub(super) fn apply(&mut self, outcome: SyncResult) {
        for topic in outcome.subscribed {
            self.update(&topic, |entry| {
                entry.wire = WireState::Subscribed;
                entry.was_active = true;
                match entry.unsubscribed_at.take() {
                    Some(since) => entry.mark_lost(since),
                    None => {
                        entry.outage = None;
                        entry.notify(&Ok(()));
                    }
                }
            });
        }
        for topic in outcome.unsubscribed {
            self.update(&topic, |entry| entry.wire = WireState::Unsubscribed);
        }
        for (topic, reason) in outcome.rejected {
            self.update(&topic, |entry| entry.reject(reason));
        }
        for topic in outcome.misplaced {
            self.update(&topic, |entry| entry.wire = WireState::Misplaced);
        }
    }

    /// Handles a sharded channel that the server unsubscribed: its slot has moved.
    pub(super) fn on_server_unsubscribe(&mut self, topic: &Topic, since: Instant) {
        self.update(topic, |entry| match entry.wire {
            WireState::Subscribed => entry.mark_lost(since),
            WireState::Pending => entry.unsubscribed_at = Some(since),
            WireState::Unsubscribed | WireState::Rejected | WireState::Misplaced => {}
        });
    }

    /// Removes the subscriptions that belong elsewhere and that the server does not carry. Those that it unsubscribed
    /// but that belong here are subscribed again; returns whether there are any.
    pub(super) fn take_misplaced(&mut self, is_here: impl Fn(&Topic) -> bool) -> (Vec<MigratingTopic>, bool) {
        let idle = |entry: &TopicSubscription| {
            entry.desired && !matches!(entry.wire, WireState::Subscribed | WireState::Pending)
        };
        let idle = self.entries.iter().filter(|(_, entry)| idle(entry)).map(|(topic, _)| topic.clone());
        let (here, elsewhere): (Vec<_>, Vec<_>) = idle.collect::<Vec<_>>().into_iter().partition(&is_here);
        let mut again = false;
        for topic in here {
            self.update(&topic, |entry| {
                if entry.wire == WireState::Misplaced {
                    entry.wire = WireState::Unsubscribed;
                    again = true;
                }
            });
        }
        let misplaced_topics = elsewhere.into_iter().filter_map(|topic| {
            let entry = self.entries.remove(&topic)?;
            self.counts.adjust(entry.counts(), SubscriptionCounts::default());
            Some(MigratingTopic {
                topic,
                outage: entry.outage,
                was_active: entry.was_active,
                waiters: entry.waiters,
            })
        });
        let misplaced_topics = misplaced_topics.collect();
        self.shrink();
        (misplaced_topics, again)
    }

    /// Takes over a subscription from another table.
    pub(super) fn adopt(&mut self, migrating: MigratingTopic) {
        let MigratingTopic { topic, outage, was_active, waiters } = migrating;
        self.entries.entry(topic.clone()).or_insert_with(TopicSubscription::new);
        self.update(&topic, |entry| {
            entry.desired = true;
            entry.outage = entry.outage.or(outage);
            entry.was_active |= was_active;
            entry.waiters.extend(waiters);
        });
    }

    /// Whether a topic is desired here, or still subscribed.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        self.entries.contains_key(topic)
    }

    /// Whether the table is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Handles the end of the connection. Everything published until `proven` was received on it.
    pub(super) fn on_link_lost(&mut self, proven: Instant) {
        self.entries.retain(|_, entry| entry.desired);
        self.shrink();
        self.changed.clear();
        for (topic, entry) in &mut self.entries {
            if entry.wire == WireState::Subscribed {
                entry.outage.get_or_insert(Outage { since: proven, reported: false });
            }
            entry.wire = WireState::Unsubscribed;
            entry.changed = true;
            self.changed.push(topic.clone());
        }
        self.counts = SubscriptionCounts { desired: self.entries.len(), ..SubscriptionCounts::default() };
    }

    /// Subscribes again to the rejected topics: an ACL may have changed.
    pub(super) fn retry_rejected(&mut self) {
        let rejected = self.entries.iter().filter(|(_, entry)| entry.wire == WireState::Rejected);
        let rejected: Vec<_> = rejected.map(|(topic, _)| topic.clone()).collect();
        for topic in rejected {
            self.update(&topic, |entry| entry.wire = WireState::Unsubscribed);
        }
    }

    /// Every desired topic.
    pub(super) fn topics(&self) -> Vec<Topic> {
        let desired = self.entries.iter().filter(|(_, entry)| entry.desired);
        desired.map(|(topic, _)| topic.clone()).collect()
    }

    /// The capacity of the table.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// The number of topics in each state.
    pub(super) fn counts(&self) -> SubscriptionCounts {
        self.counts
    }

    /// Removes everything; waiters see the end of their channel.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The only place that changes entries, so that counts and `changed` are kept up to date.
    fn update<R>(&mut self, topic: &Topic, change: impl FnOnce(&mut TopicSubscription) -> R) -> Option<R> {
        let entry = self.entries.get_mut(topic)?;
        let before = entry.counts();
        let result = change(entry);
        self.counts.adjust(before, entry.counts());
        if !entry.desired
            && matches!(entry.wire, WireState::Unsubscribed | WireState::Rejected | WireState::Misplaced)
        {
            self.entries.remove(topic);
            self.shrink();
        } else if !entry.changed && entry.needs_sync() {
            entry.changed = true;
            self.changed.push(topic.clone());
        }
        Some(result)
    }

    /// Releases memory after most topics were removed.
    fn shrink(&mut self) {
        if self.entries.len() * 8 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }
}
