//! The table alone: in any order of events, the wire state follows the last call.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::subscription_table::{SubscriptionCounts, SubscriptionTable, SyncBatch, SyncResult};
use super::*;

fn done(round: SyncBatch) -> SyncResult {
    let SyncBatch { subscribe, unsubscribe, .. } = round;
    SyncResult { subscribed: subscribe, unsubscribed: unsubscribe, ..SyncResult::default() }
}

#[tokio::test(start_paused = true)]
async fn releases_memory_of_many_topics() {
    let mut table = SubscriptionTable::default();
    let topics: Vec<Topic> =
        (0..10_000).map(|number| Topic::Channel(ChannelName::parse(&number.to_string()).unwrap())).collect();
    for topic in &topics {
        drop(table.subscribe(topic));
    }
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    let full = table.capacity();
    topics.iter().skip(100).for_each(|topic| table.unsubscribe(topic));
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    assert_eq!(table.counts().active, 100);
    assert!(table.capacity() <= 1000 && full >= 10_000, "{full}, then {}", table.capacity());
}

#[tokio::test(start_paused = true)]
async fn releases_memory_after_a_link_failure_or_a_migration() {
    let topics: Vec<Topic> =
        (0..10_000).map(|number| Topic::Channel(ChannelName::parse(&number.to_string()).unwrap())).collect();
    let (mut lost, mut left) = (SubscriptionTable::default(), SubscriptionTable::default());
    for table in [&mut lost, &mut left] {
        topics.iter().for_each(|topic| drop(table.subscribe(topic)));
    }
    let round = lost.next_batch().unwrap();
    lost.apply(done(round));
    topics.iter().skip(100).for_each(|topic| lost.unsubscribe(topic));
    lost.on_link_lost(tokio::time::Instant::now());
    let (misplaced_topics, _) = left.take_misplaced(|topic| topics[..100].contains(topic));
    assert_eq!(misplaced_topics.len(), 9900);
    assert!(lost.capacity() <= 1000 && left.capacity() <= 1000, "{}, {}", lost.capacity(), left.capacity());
}

#[tokio::test]
async fn a_resubscribe_before_the_command_needs_no_command() {
    let mut table = SubscriptionTable::default();
    assert!(table.subscribe(&channel("a")).is_some());
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    table.unsubscribe(&channel("a"));
    assert!(table.subscribe(&channel("a")).is_none(), "still confirmed");
    assert!(table.next_batch().is_none());
}

#[tokio::test]
async fn a_resubscribe_during_the_unsubscribe_is_sent() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    table.unsubscribe(&channel("a"));
    let giving_up = table.next_batch().unwrap();
    let mut confirmed = table.subscribe(&channel("a")).expect("not confirmed while it is given up");
    table.apply(done(giving_up));
    assert!(confirmed.try_recv().is_err());
    let again = table.next_batch().unwrap();
    assert_eq!(again.subscribe, [channel("a")]);
    table.apply(done(again));
    assert_eq!(confirmed.try_recv(), Ok(Ok(())));
}

#[tokio::test]
async fn a_pending_topic_has_no_outage() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let round = table.next_batch().unwrap();
    assert!(!round.has_outage, "nothing is held back for it");
    assert!(!table.accept_offline(&channel("a"), Instant::now()));
    let outcome = done(round);
    assert!(table.outage_to_report(&outcome).is_none(), "or its loss would be told behind what was heard");
    table.apply(outcome);
    assert!(table.accept_offline(&channel("a"), Instant::now()), "it is heard");
}

#[tokio::test]
async fn a_new_subscribe_does_not_report_an_earlier_gap() {
    let mut table = SubscriptionTable::default();
    for name in ["a", "b"] {
        table.subscribe(&channel(name));
    }
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    let proven = Instant::now();
    table.on_link_lost(proven);
    table.unsubscribe(&channel("a"));
    table.subscribe(&channel("a"));
    let outcome = done(table.next_batch().unwrap());
    let loss = table.outage_to_report(&outcome).unwrap();
    assert!(matches!(loss.topics, AffectedTopics::Some(topics) if topics == [channel("b")]));
    assert_eq!(loss.from, proven);
}

#[tokio::test]
async fn a_new_subscribe_during_the_replay_reports_no_gap() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    table.on_link_lost(Instant::now());
    let replay = table.next_batch().unwrap();
    assert!(replay.has_outage);
    table.unsubscribe(&channel("a"));
    table.subscribe(&channel("a"));
    assert!(table.outage_to_report(&done(replay)).is_none());
}

#[tokio::test]
async fn a_gap_starts_at_the_first_of_several_failures() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let round = table.next_batch().unwrap();
    table.apply(done(round));
    let first = Instant::now();
    table.on_link_lost(first);
    table.next_batch();
    table.on_link_lost(first + Duration::from_secs(5));
    let outcome = done(table.next_batch().unwrap());
    assert_eq!(table.outage_to_report(&outcome).unwrap().from, first);
    table.apply(outcome);
    table.on_link_lost(first + Duration::from_secs(9));
    let outcome = done(table.next_batch().unwrap());
    assert_eq!(
        table.outage_to_report(&outcome).unwrap().from,
        first + Duration::from_secs(9),
        "the old one is healed"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Forget(u8),
    SyncBatch,
    Settle,
    Refuse,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Want),
        4 => (0..6_u8).prop_map(Step::Forget),
        3 => Just(Step::SyncBatch),
        3 => Just(Step::Settle),
        1 => Just(Step::Refuse),
        1 => Just(Step::Lost),
    ]
}

/// A server that executes every command.
#[derive(Default)]
struct World {
    table: SubscriptionTable,
    wanted: HashSet<Topic>,
    server: HashSet<Topic>,
    flying: Option<SyncBatch>,
}

impl World {
    fn take(&mut self, step: &Step) {
        let topic = |n: &u8| channel(&format!("t{n}"));
        match step {
            Step::Want(n) => {
                self.wanted.insert(topic(n));
                let confirmed = self.table.subscribe(&topic(n)).is_none();
                assert!(!confirmed || self.server.contains(&topic(n)), "confirmed without the server");
            }
            Step::Forget(n) => {
                self.wanted.remove(&topic(n));
                self.table.unsubscribe(&topic(n));
            }
            Step::SyncBatch if self.flying.is_none() => self.flying = self.table.next_batch(),
            Step::SyncBatch => {}
            Step::Settle => self.land(false),
            Step::Refuse => self.land(true),
            Step::Lost => {
                self.server.clear();
                self.flying = None;
                self.table.on_link_lost(Instant::now());
            }
        }
    }

    fn land(&mut self, refuse: bool) {
        let Some(round) = self.flying.take() else { return };
        for topic in &round.unsubscribe {
            assert!(self.server.remove(topic), "unsubscribed what was not subscribed");
        }
        let mut outcome = done(round);
        if refuse {
            for topic in outcome.subscribed.drain(..) {
                outcome.rejected.push((topic, "NOPERM".to_owned()));
            }
        }
        self.server.extend(outcome.subscribed.iter().cloned());
        let first_time: Vec<_> = outcome.rejected.iter().map(|(topic, _)| topic.clone()).collect();
        self.table.outage_to_report(&outcome);
        let rejected_before = self.table.counts().rejected;
        self.table.apply(outcome);
        if self.table.counts().rejected == rejected_before {
            // Never active: the rejection ends the subscription.
            first_time.iter().for_each(|topic| {
                self.wanted.remove(topic);
            });
        }
    }
}

proptest! {
    #[test]
    fn the_wire_state_follows_the_last_call(steps in proptest::collection::vec(step(), 0..60)) {
        // This model does not distinguish two rejections at once.
        let mut world = World::default();
        let mut heard = false;
        for step in &steps {
            if matches!(step, Step::Lost) {
                heard = true;
            }
            if !(heard && matches!(step, Step::Refuse)) {
                world.take(step);
            }
        }
        world.land(false);
        while let Some(round) = world.table.next_batch() {
            world.flying = Some(round);
            world.land(false);
        }
        prop_assert_eq!(&world.server, &world.wanted);
        let all = world.wanted.len();
        prop_assert_eq!(world.table.counts(), SubscriptionCounts { desired: all, active: all, ..SubscriptionCounts::default() });
    }
}
