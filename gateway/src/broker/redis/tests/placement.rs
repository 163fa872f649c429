//! Two tables, two nodes, and slots that move between them: in any order of events, every subscription ends at the
//! node that owns its slot, and every outage is reported.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::super::subscription_table::{SubscriptionTable, SyncBatch, SyncResult};
use super::*;

const TOPICS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Forget(u8),
    /// The slot of a topic moves to the other node.
    Move(u8),
    /// A link begins a batch, its node answers, the link receives `sunsubscribe`.
    SyncBatch(usize),
    Answer(usize),
    Hear(usize),
    LinkLost(usize),
    Place,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..TOPICS).prop_map(Step::Want),
        2 => (0..TOPICS).prop_map(Step::Forget),
        3 => (0..TOPICS).prop_map(Step::Move),
        4 => (0..2_usize).prop_map(Step::SyncBatch),
        4 => (0..2_usize).prop_map(Step::Answer),
        4 => (0..2_usize).prop_map(Step::Hear),
        1 => (0..2_usize).prop_map(Step::LinkLost),
        3 => Just(Step::Place),
    ]
}

#[derive(Default)]
struct Node {
    table: SubscriptionTable,
    /// The topics that the server carries.
    carries: HashSet<Topic>,
    flying: Option<SyncBatch>,
    /// The topics that the server unsubscribed, in order.
    ended: VecDeque<Topic>,
}

#[derive(Default)]
struct World {
    nodes: [Node; 2],
    owner: HashMap<Topic, usize>,
    wanted: HashSet<Topic>,
    /// Topics with an unreported outage.
    untold: HashSet<Topic>,
    /// Topics that were confirmed while desired.
    heard: HashSet<Topic>,
}

fn topic(number: u8) -> Topic {
    Topic::Sharded(ChannelName::parse(&format!("t{number}")).unwrap())
}

impl World {
    fn owner(&self, topic: &Topic) -> usize {
        self.owner.get(topic).copied().unwrap_or_default()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Want(number) => {
                let topic = topic(*number);
                let home = (0..2).find(|node| self.nodes[*node].table.has(&topic));
                let home = home.unwrap_or_else(|| self.owner(&topic));
                self.nodes[home].table.subscribe(&topic);
                self.wanted.insert(topic);
            }
            Step::Forget(number) => {
                let topic = topic(*number);
                self.nodes.iter_mut().for_each(|node| node.table.unsubscribe(&topic));
                for set in [&mut self.wanted, &mut self.untold, &mut self.heard] {
                    set.remove(&topic);
                }
            }
            Step::Move(number) => {
                let topic = topic(*number);
                let from = self.owner(&topic);
                self.owner.insert(topic.clone(), 1 - from);
                if self.nodes[from].carries.remove(&topic) {
                    self.nodes[from].ended.push_back(topic.clone());
                    self.deafen(&topic);
                }
            }
            Step::SyncBatch(node) => {
                let Node { table, flying, .. } = &mut self.nodes[*node];
                if flying.is_none() {
                    *flying = table.next_batch();
                }
            }
            Step::Answer(node) => self.answer(*node),
            Step::Hear(node) => {
                let Node { table, ended, .. } = &mut self.nodes[*node];
                if let Some(topic) = ended.pop_front() {
                    table.on_server_unsubscribe(&topic, Instant::now());
                }
            }
            Step::LinkLost(node) => {
                let carried: Vec<Topic> = self.nodes[*node].carries.drain().collect();
                carried.iter().for_each(|topic| self.deafen(topic));
                let Node { table, flying, ended, .. } = &mut self.nodes[*node];
                *flying = None;
                // The link dispatches the waiting messages before it closes the connection.
                ended.drain(..).for_each(|topic| table.on_server_unsubscribe(&topic, Instant::now()));
                table.on_link_lost(Instant::now());
            }
            Step::Place => self.place(),
        }
    }

    fn deafen(&mut self, topic: &Topic) {
        if self.heard.contains(topic) {
            self.untold.insert(topic.clone());
        }
    }

    fn answer(&mut self, place: usize) {
        let owned: HashSet<Topic> =
            (0..TOPICS).map(topic).filter(|topic| self.owner(topic) == place).collect();
        let node = &mut self.nodes[place];
        let Some(SyncBatch { subscribe, unsubscribe, .. }) = node.flying.take() else { return };
        let (subscribed, away) = subscribe.into_iter().partition(|topic| owned.contains(topic));
        let outcome =
            SyncResult { subscribed, unsubscribed: unsubscribe, misplaced: away, ..SyncResult::default() };
        outcome.unsubscribed.iter().for_each(|topic| {
            node.carries.remove(topic);
        });
        node.carries.extend(outcome.subscribed.iter().cloned());
        match node.table.outage_to_report(&outcome).map(|loss| loss.topics) {
            Some(AffectedTopics::All) => self.untold.clear(),
            Some(AffectedTopics::Some(topics)) => topics.iter().for_each(|topic| {
                self.untold.remove(topic);
            }),
            None => {}
        }
        let subscribed = outcome.subscribed.clone();
        node.table.apply(outcome);
        for topic in subscribed.iter().filter(|topic| self.wanted.contains(topic)) {
            assert!(
                !self.untold.contains(topic),
                "{topic} is heard again, and nobody was told that it was not"
            );
            self.heard.insert(topic.clone());
        }
    }

    fn place(&mut self) {
        let owner: HashMap<Topic, usize> =
            (0..TOPICS).map(topic).map(|t| (t.clone(), self.owner(&t))).collect();
        let misplaced_topics: Vec<_> = (0..2)
            .flat_map(|node| self.nodes[node].table.take_misplaced(|topic| owner[topic] == node).0)
            .collect();
        for stray in misplaced_topics {
            self.nodes[owner[&stray.topic]].table.adopt(stray);
        }
    }

    /// Completes everything in flight.
    fn settle(&mut self) {
        for _ in 0..20 {
            for node in 0..2 {
                while !self.nodes[node].ended.is_empty() {
                    self.take(&Step::Hear(node));
                }
                self.take(&Step::Answer(node));
                self.take(&Step::SyncBatch(node));
                self.take(&Step::Answer(node));
            }
            self.place();
        }
    }
}

proptest! {
    #[test]
    fn every_subscription_ends_at_the_owner_of_its_slot(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::default();
        steps.iter().for_each(|step| world.take(step));
        world.settle();
        for node in 0..2 {
            let expected: HashSet<Topic> =
                world.wanted.iter().filter(|topic| world.owner(topic) == node).cloned().collect();
            prop_assert_eq!(&world.nodes[node].carries, &expected, "node {}", node);
            let counts = world.nodes[node].table.counts();
            prop_assert_eq!((counts.desired, counts.active, counts.misplaced), (expected.len(), expected.len(), 0));
        }
        prop_assert!(world.untold.is_empty(), "deaf on the way, and nobody was told: {:?}", world.untold);
    }
}
