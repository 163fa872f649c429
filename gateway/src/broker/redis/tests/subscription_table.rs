//! The table without I/O: for every order of events, the subscriptions on the connection end in the last desired state.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::subscription_table::{SubscriptionCounts, SubscriptionTable, SyncBatch, SyncResult};
use super::*;

fn done(batch: SyncBatch) -> SyncResult {
    let SyncBatch { subscribe, unsubscribe, .. } = batch;
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
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
    let full = table.capacity();
    topics.iter().skip(100).for_each(|topic| table.unsubscribe(topic));
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
    assert_eq!(table.counts().active, 100);
    assert!(table.capacity() <= 1000 && full >= 10_000, "{full}, then {}", table.capacity());
}

#[tokio::test(start_paused = true)]
async fn releases_memory_after_a_link_failure_or_a_migration() {
    let topics: Vec<Topic> =
        (0..10_000).map(|number| Topic::Channel(ChannelName::parse(&number.to_string()).unwrap())).collect();
    let (mut failed, mut migrated) = (SubscriptionTable::default(), SubscriptionTable::default());
    for table in [&mut failed, &mut migrated] {
        topics.iter().for_each(|topic| drop(table.subscribe(topic)));
    }
    let batch = failed.next_batch().unwrap();
    failed.apply(done(batch));
    topics.iter().skip(100).for_each(|topic| failed.unsubscribe(topic));
    failed.on_link_lost(tokio::time::Instant::now());
    let (misplaced_topics, _) = migrated.take_misplaced(|topic| topics[..100].contains(topic));
    assert_eq!(misplaced_topics.len(), 9900);
    assert!(
        failed.capacity() <= 1000 && migrated.capacity() <= 1000,
        "{}, {}",
        failed.capacity(),
        migrated.capacity()
    );
}

#[tokio::test]
async fn a_resubscribe_before_the_command_needs_no_command() {
    let mut table = SubscriptionTable::default();
    assert!(table.subscribe(&channel("a")).is_some());
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
    table.unsubscribe(&channel("a"));
    assert!(table.subscribe(&channel("a")).is_none(), "still confirmed");
    assert!(table.next_batch().is_none());
}

#[tokio::test]
async fn a_resubscribe_during_the_unsubscribe_is_sent() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
    table.unsubscribe(&channel("a"));
    let unsubscribing = table.next_batch().unwrap();
    let mut confirmed =
        table.subscribe(&channel("a")).expect("not confirmed while the unsubscribe is in flight");
    table.apply(done(unsubscribing));
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
    let batch = table.next_batch().unwrap();
    assert!(!batch.has_outage, "a pending topic must not delay messages");
    assert!(!table.accept_offline(&channel("a"), Instant::now()));
    let outcome = done(batch);
    assert!(table.outage_to_report(&outcome).is_none(), "the gap would be reported after later messages");
    table.apply(outcome);
    assert!(table.accept_offline(&channel("a"), Instant::now()), "the topic is active");
}

#[tokio::test]
async fn a_new_subscribe_does_not_report_an_earlier_gap() {
    let mut table = SubscriptionTable::default();
    for name in ["a", "b"] {
        table.subscribe(&channel(name));
    }
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
    let verified = Instant::now();
    table.on_link_lost(verified);
    table.unsubscribe(&channel("a"));
    table.subscribe(&channel("a"));
    let outcome = done(table.next_batch().unwrap());
    let gap = table.outage_to_report(&outcome).unwrap();
    assert!(matches!(gap.topics, AffectedTopics::Some(topics) if topics == [channel("b")]));
    assert_eq!(gap.from, verified);
}

#[tokio::test]
async fn a_new_subscribe_during_the_replay_reports_no_gap() {
    let mut table = SubscriptionTable::default();
    table.subscribe(&channel("a"));
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
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
    let batch = table.next_batch().unwrap();
    table.apply(done(batch));
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
        "the earlier outage has ended"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    SendBatch,
    Confirm,
    Reject,
    LinkLost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Subscribe),
        4 => (0..6_u8).prop_map(Step::Unsubscribe),
        3 => Just(Step::SendBatch),
        3 => Just(Step::Confirm),
        1 => Just(Step::Reject),
        1 => Just(Step::LinkLost),
    ]
}

/// A table and a model of the server.
#[derive(Default)]
struct Model {
    table: SubscriptionTable,
    desired: HashSet<Topic>,
    server: HashSet<Topic>,
    in_flight: Option<SyncBatch>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        let topic = |n: &u8| channel(&format!("t{n}"));
        match step {
            Step::Subscribe(n) => {
                self.desired.insert(topic(n));
                let confirmed = self.table.subscribe(&topic(n)).is_none();
                assert!(!confirmed || self.server.contains(&topic(n)), "confirmed without the server");
            }
            Step::Unsubscribe(n) => {
                self.desired.remove(&topic(n));
                self.table.unsubscribe(&topic(n));
            }
            Step::SendBatch if self.in_flight.is_none() => self.in_flight = self.table.next_batch(),
            Step::SendBatch => {}
            Step::Confirm => self.complete_batch(false),
            Step::Reject => self.complete_batch(true),
            Step::LinkLost => {
                self.server.clear();
                self.in_flight = None;
                self.table.on_link_lost(Instant::now());
            }
        }
    }

    fn complete_batch(&mut self, reject: bool) {
        let Some(batch) = self.in_flight.take() else { return };
        for topic in &batch.unsubscribe {
            assert!(self.server.remove(topic), "unsubscribed a topic that was not subscribed");
        }
        let mut outcome = done(batch);
        if reject {
            for topic in outcome.subscribed.drain(..) {
                outcome.rejected.push((topic, "NOPERM".to_owned()));
            }
        }
        self.server.extend(outcome.subscribed.iter().cloned());
        let new: Vec<_> = outcome.rejected.iter().map(|(topic, _)| topic.clone()).collect();
        self.table.outage_to_report(&outcome);
        let rejected_before = self.table.counts().rejected;
        self.table.apply(outcome);
        if self.table.counts().rejected == rejected_before {
            // Never active: the table drops the rejected subscription.
            new.iter().for_each(|topic| {
                self.desired.remove(topic);
            });
        }
    }
}

proptest! {
    #[test]
    fn the_server_state_follows_the_last_call(steps in proptest::collection::vec(step(), 0..60)) {
        // The model cannot distinguish rejections of new topics from those of topics that were active before.
        let mut model = Model::default();
        let mut link_lost = false;
        for step in &steps {
            if matches!(step, Step::LinkLost) {
                link_lost = true;
            }
            if !(link_lost && matches!(step, Step::Reject)) {
                model.apply(step);
            }
        }
        model.complete_batch(false);
        while let Some(batch) = model.table.next_batch() {
            model.in_flight = Some(batch);
            model.complete_batch(false);
        }
        prop_assert_eq!(&model.server, &model.desired);
        let all = model.desired.len();
        prop_assert_eq!(model.table.counts(), SubscriptionCounts { desired: all, active: all, ..SubscriptionCounts::default() });
    }
}
