//! The table alone: whatever happens in whatever order, the wire ends as it was wished last.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::table::{Counts, Outcome, Round, Table};
use super::*;

fn done(round: Round) -> Outcome {
    let Round { subscribe, unsubscribe, .. } = round;
    Outcome { subscribed: subscribe, unsubscribed: unsubscribe, ..Outcome::default() }
}

#[tokio::test(start_paused = true)]
async fn room_for_many_topics_is_given_back() {
    let mut table = Table::default();
    let topics: Vec<Topic> =
        (0..10_000).map(|number| Topic::Channel(ChannelName::parse(&number.to_string()).unwrap())).collect();
    for topic in &topics {
        drop(table.want(topic));
    }
    let round = table.round().unwrap();
    table.settle(done(round));
    let full = table.capacity();
    topics.iter().skip(100).for_each(|topic| table.forget(topic));
    let round = table.round().unwrap();
    table.settle(done(round));
    assert_eq!(table.counts().confirmed, 100);
    assert!(table.capacity() <= 1000 && full >= 10_000, "{full}, then {}", table.capacity());
}

#[tokio::test(start_paused = true)]
async fn room_is_given_back_when_topics_go_with_their_link_or_to_another_one() {
    let topics: Vec<Topic> =
        (0..10_000).map(|number| Topic::Channel(ChannelName::parse(&number.to_string()).unwrap())).collect();
    let (mut lost, mut left) = (Table::default(), Table::default());
    for table in [&mut lost, &mut left] {
        topics.iter().for_each(|topic| drop(table.want(topic)));
    }
    let round = lost.round().unwrap();
    lost.settle(done(round));
    topics.iter().skip(100).for_each(|topic| lost.forget(topic));
    lost.link_lost(tokio::time::Instant::now());
    let (strays, _) = left.strays(|topic| topics[..100].contains(topic));
    assert_eq!(strays.len(), 9900);
    assert!(lost.capacity() <= 1000 && left.capacity() <= 1000, "{}, {}", lost.capacity(), left.capacity());
}

#[tokio::test]
async fn a_topic_wanted_again_before_anything_was_sent_was_never_gone() {
    let mut table = Table::default();
    assert!(table.want(&channel("a")).is_some());
    let round = table.round().unwrap();
    table.settle(done(round));
    table.forget(&channel("a"));
    assert!(table.want(&channel("a")).is_none(), "still confirmed");
    assert!(table.round().is_none());
}

#[tokio::test]
async fn a_topic_wanted_again_while_it_is_given_up_is_asked_for_again() {
    let mut table = Table::default();
    table.want(&channel("a"));
    let round = table.round().unwrap();
    table.settle(done(round));
    table.forget(&channel("a"));
    let giving_up = table.round().unwrap();
    let mut confirmed = table.want(&channel("a")).expect("not confirmed while it is given up");
    table.settle(done(giving_up));
    assert!(confirmed.try_recv().is_err());
    let again = table.round().unwrap();
    assert_eq!(again.subscribe, [channel("a")]);
    table.settle(done(again));
    assert_eq!(confirmed.try_recv(), Ok(Ok(())));
}

#[tokio::test]
async fn a_topic_on_its_way_is_not_counted_as_lost() {
    let mut table = Table::default();
    table.want(&channel("a"));
    let round = table.round().unwrap();
    assert!(!round.heals, "nothing is held back for it");
    assert!(!table.admit(&channel("a"), Instant::now()));
    let outcome = done(round);
    assert!(table.loss(&outcome).is_none(), "or its loss would be told behind what was heard");
    table.settle(outcome);
    assert!(table.admit(&channel("a"), Instant::now()), "it is heard");
}

#[tokio::test]
async fn whoever_wants_anew_is_not_told_of_an_old_loss() {
    let mut table = Table::default();
    for name in ["a", "b"] {
        table.want(&channel(name));
    }
    let round = table.round().unwrap();
    table.settle(done(round));
    let proven = Instant::now();
    table.link_lost(proven);
    table.forget(&channel("a"));
    table.want(&channel("a"));
    let outcome = done(table.round().unwrap());
    let loss = table.loss(&outcome).unwrap();
    assert!(matches!(loss.topics, AffectedTopics::Some(topics) if topics == [channel("b")]));
    assert_eq!(loss.from, proven);
}

#[tokio::test]
async fn whoever_wants_anew_during_the_replay_is_not_told_either() {
    let mut table = Table::default();
    table.want(&channel("a"));
    let round = table.round().unwrap();
    table.settle(done(round));
    table.link_lost(Instant::now());
    let replay = table.round().unwrap();
    assert!(replay.heals);
    table.forget(&channel("a"));
    table.want(&channel("a"));
    assert!(table.loss(&done(replay)).is_none());
}

#[tokio::test]
async fn a_loss_reaches_back_to_the_first_of_several_breaks() {
    let mut table = Table::default();
    table.want(&channel("a"));
    let round = table.round().unwrap();
    table.settle(done(round));
    let first = Instant::now();
    table.link_lost(first);
    table.round();
    table.link_lost(first + Duration::from_secs(5));
    let outcome = done(table.round().unwrap());
    assert_eq!(table.loss(&outcome).unwrap().from, first);
    table.settle(outcome);
    table.link_lost(first + Duration::from_secs(9));
    let outcome = done(table.round().unwrap());
    assert_eq!(table.loss(&outcome).unwrap().from, first + Duration::from_secs(9), "the old one is healed");
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Forget(u8),
    Round,
    Settle,
    Refuse,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Want),
        4 => (0..6_u8).prop_map(Step::Forget),
        3 => Just(Step::Round),
        3 => Just(Step::Settle),
        1 => Just(Step::Refuse),
        1 => Just(Step::Lost),
    ]
}

/// A server that believes what it is told.
#[derive(Default)]
struct World {
    table: Table,
    wanted: HashSet<Topic>,
    server: HashSet<Topic>,
    flying: Option<Round>,
}

impl World {
    fn take(&mut self, step: &Step) {
        let topic = |n: &u8| channel(&format!("t{n}"));
        match step {
            Step::Want(n) => {
                self.wanted.insert(topic(n));
                let confirmed = self.table.want(&topic(n)).is_none();
                assert!(!confirmed || self.server.contains(&topic(n)), "confirmed without the server");
            }
            Step::Forget(n) => {
                self.wanted.remove(&topic(n));
                self.table.forget(&topic(n));
            }
            Step::Round if self.flying.is_none() => self.flying = self.table.round(),
            Step::Round => {}
            Step::Settle => self.land(false),
            Step::Refuse => self.land(true),
            Step::Lost => {
                self.server.clear();
                self.flying = None;
                self.table.link_lost(Instant::now());
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
                outcome.refused.push((topic, "NOPERM".to_owned()));
            }
        }
        self.server.extend(outcome.subscribed.iter().cloned());
        let first_time: Vec<_> = outcome.refused.iter().map(|(topic, _)| topic.clone()).collect();
        self.table.loss(&outcome);
        let refused_before = self.table.counts().refused;
        self.table.settle(outcome);
        if self.table.counts().refused == refused_before {
            // Never heard: the wish is gone with its refusal.
            first_time.iter().for_each(|topic| {
                self.wanted.remove(topic);
            });
        }
    }
}

proptest! {
    #[test]
    fn the_wire_ends_as_it_was_wished(steps in proptest::collection::vec(step(), 0..60)) {
        // A refusal of both kinds at once is not told apart by this world.
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
        while let Some(round) = world.table.round() {
            world.flying = Some(round);
            world.land(false);
        }
        prop_assert_eq!(&world.server, &world.wanted);
        let all = world.wanted.len();
        prop_assert_eq!(world.table.counts(), Counts { wanted: all, confirmed: all, ..Counts::default() });
    }
}
