//! Two subscription tables, two nodes, and slots that migrate between them: for every order of events, each subscription
//! ends at the node that owns its slot, and each interruption is reported as a gap.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::super::subscription_table::{SubscriptionTable, SyncBatch, SyncResult};
use super::*;

const TOPICS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    /// The slot of a topic migrates to the other node.
    Migrate(u8),
    /// A link sends a batch.
    SendBatch(usize),
    /// A node replies to the batch.
    Reply(usize),
    /// A link reads one unsubscribe push.
    ReadPush(usize),
    LinkLost(usize),
    /// Misplaced topics move to the link of their owner.
    Rebalance,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..TOPICS).prop_map(Step::Subscribe),
        2 => (0..TOPICS).prop_map(Step::Unsubscribe),
        3 => (0..TOPICS).prop_map(Step::Migrate),
        4 => (0..2_usize).prop_map(Step::SendBatch),
        4 => (0..2_usize).prop_map(Step::Reply),
        4 => (0..2_usize).prop_map(Step::ReadPush),
        1 => (0..2_usize).prop_map(Step::LinkLost),
        3 => Just(Step::Rebalance),
    ]
}

#[derive(Default)]
struct Node {
    table: SubscriptionTable,
    /// The subscriptions on the server.
    active: HashSet<Topic>,
    in_flight: Option<SyncBatch>,
    /// Unsubscribe pushes that the link has not read yet, in order.
    unsubscribed: VecDeque<Topic>,
}

#[derive(Default)]
struct Model {
    nodes: [Node; 2],
    owner: HashMap<Topic, usize>,
    desired: HashSet<Topic>,
    /// Topics that were interrupted and for which no gap was reported yet.
    unreported: HashSet<Topic>,
    /// Topics that were confirmed since they were subscribed.
    confirmed: HashSet<Topic>,
}

fn topic(number: u8) -> Topic {
    Topic::Sharded(ChannelName::parse(&format!("t{number}")).unwrap())
}

impl Model {
    fn owner(&self, topic: &Topic) -> usize {
        self.owner.get(topic).copied().unwrap_or_default()
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Subscribe(number) => {
                let topic = topic(*number);
                let node = (0..2).find(|node| self.nodes[*node].table.has(&topic));
                let node = node.unwrap_or_else(|| self.owner(&topic));
                self.nodes[node].table.subscribe(&topic);
                self.desired.insert(topic);
            }
            Step::Unsubscribe(number) => {
                let topic = topic(*number);
                self.nodes.iter_mut().for_each(|node| node.table.unsubscribe(&topic));
                for set in [&mut self.desired, &mut self.unreported, &mut self.confirmed] {
                    set.remove(&topic);
                }
            }
            Step::Migrate(number) => {
                let topic = topic(*number);
                let from = self.owner(&topic);
                self.owner.insert(topic.clone(), 1 - from);
                if self.nodes[from].active.remove(&topic) {
                    self.nodes[from].unsubscribed.push_back(topic.clone());
                    self.interrupt(&topic);
                }
            }
            Step::SendBatch(node) => {
                let Node { table, in_flight, .. } = &mut self.nodes[*node];
                if in_flight.is_none() {
                    *in_flight = table.next_batch();
                }
            }
            Step::Reply(node) => self.reply(*node),
            Step::ReadPush(node) => {
                let Node { table, unsubscribed, .. } = &mut self.nodes[*node];
                if let Some(topic) = unsubscribed.pop_front() {
                    table.on_server_unsubscribe(&topic, Instant::now());
                }
            }
            Step::LinkLost(node) => {
                let interrupted: Vec<Topic> = self.nodes[*node].active.drain().collect();
                interrupted.iter().for_each(|topic| self.interrupt(topic));
                let Node { table, in_flight, unsubscribed, .. } = &mut self.nodes[*node];
                *in_flight = None;
                // The link processes what it has read before it closes the connection.
                unsubscribed.drain(..).for_each(|topic| table.on_server_unsubscribe(&topic, Instant::now()));
                table.on_link_lost(Instant::now());
            }
            Step::Rebalance => self.rebalance(),
        }
    }

    fn interrupt(&mut self, topic: &Topic) {
        if self.confirmed.contains(topic) {
            self.unreported.insert(topic.clone());
        }
    }

    fn reply(&mut self, index: usize) {
        let owned: HashSet<Topic> =
            (0..TOPICS).map(topic).filter(|topic| self.owner(topic) == index).collect();
        let node = &mut self.nodes[index];
        let Some(SyncBatch { subscribe, unsubscribe, .. }) = node.in_flight.take() else { return };
        let (subscribed, misplaced) = subscribe.into_iter().partition(|topic| owned.contains(topic));
        let outcome =
            SyncResult { subscribed, unsubscribed: unsubscribe, misplaced, ..SyncResult::default() };
        outcome.unsubscribed.iter().for_each(|topic| {
            node.active.remove(topic);
        });
        node.active.extend(outcome.subscribed.iter().cloned());
        match node.table.outage_to_report(&outcome).map(|gap| gap.topics) {
            Some(AffectedTopics::All) => self.unreported.clear(),
            Some(AffectedTopics::Some(topics)) => topics.iter().for_each(|topic| {
                self.unreported.remove(topic);
            }),
            None => {}
        }
        let subscribed = outcome.subscribed.clone();
        node.table.apply(outcome);
        for topic in subscribed.iter().filter(|topic| self.desired.contains(topic)) {
            assert!(!self.unreported.contains(topic), "{topic} is active again without a reported gap");
            self.confirmed.insert(topic.clone());
        }
    }

    fn rebalance(&mut self) {
        let owner: HashMap<Topic, usize> =
            (0..TOPICS).map(topic).map(|t| (t.clone(), self.owner(&t))).collect();
        let misplaced_topics: Vec<_> = (0..2)
            .flat_map(|node| self.nodes[node].table.take_misplaced(|topic| owner[topic] == node).0)
            .collect();
        for topic in misplaced_topics {
            self.nodes[owner[&topic.topic]].table.adopt(topic);
        }
    }

    /// Runs all pending steps.
    fn run_to_completion(&mut self) {
        for _ in 0..20 {
            for node in 0..2 {
                while !self.nodes[node].unsubscribed.is_empty() {
                    self.apply(&Step::ReadPush(node));
                }
                self.apply(&Step::Reply(node));
                self.apply(&Step::SendBatch(node));
                self.apply(&Step::Reply(node));
            }
            self.rebalance();
        }
    }
}

proptest! {
    #[test]
    fn every_subscription_ends_at_the_owner_of_its_slot(steps in proptest::collection::vec(step(), 0..80)) {
        let mut model = Model::default();
        steps.iter().for_each(|step| model.apply(step));
        model.run_to_completion();
        for node in 0..2 {
            let expected: HashSet<Topic> =
                model.desired.iter().filter(|topic| model.owner(topic) == node).cloned().collect();
            prop_assert_eq!(&model.nodes[node].active, &expected, "node {}", node);
            let counts = model.nodes[node].table.counts();
            prop_assert_eq!((counts.desired, counts.active, counts.misplaced), (expected.len(), expected.len(), 0));
        }
        prop_assert!(model.unreported.is_empty(), "interrupted without a reported gap: {:?}", model.unreported);
    }
}
