//! The table against a simulated server.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::entry::tick_at;
use super::simulation::{SETTINGS, STEP, TableSimulation};
use super::{FAILED_RETRY, FirstRead, ReadOutcome};

/// A state without its TTL.
fn shown(state: ReadOutcome) -> Option<u64> {
    match state {
        ReadOutcome::Present { fingerprint, .. } => Some(fingerprint),
        ReadOutcome::Missing | ReadOutcome::Failed | ReadOutcome::OtherType => None,
    }
}

#[test]
fn a_change_is_read_once() {
    let mut simulation = TableSimulation::with_keys(100);
    simulation.delete("sess:7");
    simulation.run(STEP);
    assert_eq!((simulation.reads, simulation.endings.len()), (1, 1));
    simulation.run(Duration::from_secs(600));
    assert_eq!(simulation.reads, 1, "nothing else is read while changes are reported");
}

#[test]
fn a_key_that_changes_all_the_time_is_read_at_an_interval() {
    let mut simulation = TableSimulation::with_keys(1);
    for value in 0..1000 {
        simulation.set("sess:0", value, None);
        simulation.run(STEP);
    }
    assert!((190..=210).contains(&simulation.reads), "{} reads in 100 s", simulation.reads);
    simulation.run(Duration::from_secs(1));
    assert_eq!(shown(simulation.known["sess:0"]), Some(1009));
}

#[test]
fn a_key_is_read_when_it_expires() {
    let mut simulation = TableSimulation::new();
    simulation.set("sess:0", 1, Some(Duration::from_secs(60)));
    simulation.watch("sess:0", FirstRead::ByCaller);
    simulation.run(Duration::from_secs(59));
    assert!(simulation.endings.is_empty());
    simulation.run(Duration::from_secs(2));
    assert_eq!(simulation.endings.len(), 1);
    assert!(simulation.endings[0] < Duration::from_millis(60_600), "{:?}", simulation.endings);
}

#[test]
fn a_key_that_has_expired_is_reported_at_once_after_a_failure() {
    let mut simulation = TableSimulation::with_keys(100);
    for number in 0..50 {
        simulation.set(&TableSimulation::key(number), 2, Some(Duration::from_secs(10)));
    }
    simulation.run(Duration::from_secs(1));
    simulation.lose_link();
    simulation.run(Duration::from_secs(11));
    assert_eq!((simulation.endings.len(), simulation.table.pending_endings()), (50, 0));
}

#[test]
fn missing_keys_are_reported_over_the_window_after_a_failure() {
    const KEYS: usize = 400;
    let mut simulation = TableSimulation::with_keys(KEYS);
    simulation.server.clear();
    simulation.lose_link();
    let start = simulation.now;
    simulation.run(SETTINGS.disconnect_window + Duration::from_secs(1));
    assert_eq!(simulation.endings.len(), KEYS);
    for (number, at) in simulation.endings.iter().enumerate() {
        let ideal =
            SETTINGS.disconnect_window * u32::try_from(number).unwrap() / u32::try_from(KEYS).unwrap();
        let difference = (*at - start).abs_diff(ideal);
        assert!(difference <= Duration::from_millis(600), "ending {number} after {:?}", *at - start);
    }
}

#[test]
fn few_missing_keys_are_reported_soon_after_a_failure() {
    let mut simulation = TableSimulation::with_keys(400);
    simulation.lose_tracking();
    for number in [3, 99, 250] {
        simulation.delete(&TableSimulation::key(number));
    }
    simulation.track();
    simulation.run(Duration::from_secs(2));
    assert_eq!(simulation.endings.len(), 3);
}

#[test]
fn keys_that_come_back_are_not_reported() {
    let mut simulation = TableSimulation::with_keys(100);
    let before = simulation.server.clone();
    simulation.flush();
    simulation.run(Duration::from_secs(1));
    let reported = simulation.endings.len();
    assert!(reported < 10 && simulation.table.pending_endings() > 80, "{reported}");
    simulation.server = before;
    simulation.run(SETTINGS.disconnect_window * 2);
    assert_eq!((simulation.endings.len(), simulation.table.pending_endings()), (reported, 0));
}

#[test]
fn a_second_failure_spreads_the_endings_again() {
    let mut simulation = TableSimulation::with_keys(200);
    simulation.server.clear();
    simulation.lose_link();
    simulation.run(Duration::from_secs(1));
    let before = simulation.endings.len();
    // The link is down until all endings are due.
    simulation.now += SETTINGS.disconnect_window;
    simulation.lose_link();
    simulation.run(Duration::from_secs(1));
    assert!(simulation.endings.len() < before + 15, "{} after {before}", simulation.endings.len());
    simulation.run(SETTINGS.disconnect_window);
    assert_eq!(simulation.endings.len(), 200);
}

#[test]
fn a_deletion_that_is_reported_is_not_delayed_by_a_failure() {
    let mut simulation = TableSimulation::with_keys(100);
    simulation.lose_link();
    for number in 0..50 {
        simulation.delete(&TableSimulation::key(number));
    }
    simulation.run(Duration::from_secs(1));
    assert_eq!(simulation.endings.len(), 50);
}

#[test]
fn a_full_reread_keeps_its_rate() {
    let mut simulation = TableSimulation::with_keys(5000);
    simulation.lose_link();
    simulation.run(Duration::from_secs(2));
    assert!((1900..=2100).contains(&simulation.reads), "{} reads in 2 s", simulation.reads);
    simulation.run(Duration::from_secs(4));
    assert_eq!(simulation.reads, 5000);
}

#[test]
fn a_sweep_reads_each_key_once_an_interval() {
    let mut simulation = TableSimulation::with_keys(300);
    simulation.lose_tracking();
    simulation.run(SETTINGS.sweep_interval);
    simulation.reads = 0;
    for _ in 0..10 {
        simulation.delete("sess:0");
        simulation.run(SETTINGS.sweep_interval);
    }
    assert!((3000..=3900).contains(&simulation.reads), "{} reads in 10 intervals", simulation.reads);
    assert_eq!(simulation.endings.len(), 1);
    let most = simulation.table.timers.iter().fold(HashMap::<u32, usize>::new(), |mut counts, (due, _)| {
        *counts.entry(*due).or_default() += 1;
        counts
    });
    assert!(most.values().all(|count| *count < 40), "the reads are spread: {most:?}");
}

#[test]
fn a_change_during_a_read_is_read_again() {
    let mut simulation = TableSimulation::with_keys(1);
    simulation.set("sess:0", 2, None);
    simulation.now += STEP;
    simulation.start_reads(8);
    simulation.set("sess:0", 3, None);
    simulation.finish_reads();
    simulation.run(Duration::from_secs(1));
    assert_eq!(shown(simulation.known["sess:0"]), Some(13));
}

#[test]
fn a_full_reread_includes_keys_that_are_being_read() {
    let mut simulation = TableSimulation::with_keys(1);
    simulation.lose_tracking();
    simulation.start_reads(8);
    simulation.delete("sess:0");
    simulation.track();
    simulation.start_reads(8);
    simulation.finish_reads();
    simulation.run(STEP);
    assert_eq!(simulation.endings.len(), 1);
}

#[test]
fn a_late_result_does_not_reach_another_key() {
    let mut simulation = TableSimulation::with_keys(1);
    simulation.delete("sess:0");
    simulation.start_reads(8);
    let (reread, state) = simulation.in_flight.pop().unwrap();
    simulation.unwatch("sess:0");
    simulation.set("sess:1", 1, None);
    simulation.watch("sess:1", FirstRead::ByCaller);
    assert_eq!(simulation.guards["sess:1"].index, reread.id.index, "the index is used again");
    assert!(!simulation.table.on_read(reread.id, state, simulation.now));
}

#[test]
fn a_failed_read_is_repeated() {
    let mut simulation = TableSimulation::with_keys(1);
    simulation.delete("sess:0");
    simulation.start_reads(8);
    let (reread, _) = simulation.in_flight.pop().unwrap();
    assert!(!simulation.table.on_read(reread.id, ReadOutcome::Failed, simulation.now));
    simulation.run(FAILED_RETRY + STEP);
    assert_eq!(simulation.endings.len(), 1);
    assert!(tick_at(simulation.endings[0]) >= tick_at(FAILED_RETRY));
}

#[test]
fn a_watcher_that_found_a_key_missing_is_informed_when_it_returns_before_its_ending() {
    let mut simulation = TableSimulation::with_keys(100);
    let before = simulation.server.clone();
    simulation.flush();
    simulation.run(Duration::from_secs(1));
    // The ending of this key is paced.
    simulation.watch("sess:99", FirstRead::ByCaller);
    assert_eq!(simulation.known["sess:99"], ReadOutcome::Missing);
    simulation.server = before;
    simulation.run(SETTINGS.disconnect_window * 2);
    assert_eq!(shown(simulation.known["sess:99"]), Some(11));
    assert_eq!(simulation.table.pending_endings(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u64, Option<u64>),
    Delete(usize),
    Watch(usize, bool),
    Unwatch(usize),
    Advance(u64),
    StartReads,
    FinishReads,
    LoseTracking,
    Track,
    LoseLink,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6usize;
    prop_oneof![
        4 => (key.clone(), 0..3u64, prop::option::of(1..20_000u64)).prop_map(|(k, v, t)| Step::Set(k, v, t)),
        3 => key.clone().prop_map(Step::Delete),
        4 => (key.clone(), any::<bool>()).prop_map(|(k, c)| Step::Watch(k, c)),
        1 => key.prop_map(Step::Unwatch),
        4 => (1..5000u64).prop_map(Step::Advance),
        4 => Just(Step::StartReads),
        4 => Just(Step::FinishReads),
        1 => Just(Step::LoseTracking),
        1 => Just(Step::Track),
        1 => Just(Step::LoseLink),
        1 => Just(Step::Flush),
    ]
}

/// Executes the steps, and then checks that the listener finally knows the state of each watched key.
fn assert_listener_knows_every_state(steps: Vec<Step>, is_tracking_at_end: bool) {
    let mut simulation = TableSimulation::new();
    for step in steps {
        match step {
            Step::Set(key, value, ttl) => {
                simulation.set(&TableSimulation::key(key), value, ttl.map(Duration::from_millis));
            }
            Step::Delete(key) => simulation.delete(&TableSimulation::key(key)),
            Step::Watch(key, true) => simulation.watch(&TableSimulation::key(key), FirstRead::ByCaller),
            Step::Watch(key, false) => simulation.watch(&TableSimulation::key(key), FirstRead::ByTable),
            Step::Unwatch(key) => simulation.unwatch(&TableSimulation::key(key)),
            Step::Advance(millis) => simulation.now += Duration::from_millis(millis),
            Step::StartReads => simulation.start_reads(3),
            Step::FinishReads => simulation.finish_reads(),
            Step::LoseTracking => simulation.lose_tracking(),
            Step::Track => simulation.track(),
            Step::LoseLink => simulation.lose_link(),
            Step::Flush => simulation.flush(),
        }
    }
    if !is_tracking_at_end {
        simulation.lose_tracking();
    } else if !simulation.is_tracking {
        simulation.track();
    }
    simulation.finish_reads();
    simulation.run(SETTINGS.sweep_interval * 2 + SETTINGS.disconnect_window);
    for key in simulation.guards.keys().cloned().collect::<Vec<_>>() {
        let state = simulation.state(&key);
        assert_eq!(simulation.known.get(&key).copied().map(shown), Some(shown(state)), "{key}");
    }
    assert_eq!(simulation.table.pending_endings(), 0);
}

#[test]
fn a_full_reread_includes_all_keys_of_a_table_that_grows() {
    // The last watch doubles the capacity after the flush.
    let steps = vec![
        Step::Watch(3, false),
        Step::LoseTracking,
        Step::StartReads,
        Step::Track,
        Step::Watch(2, false),
        Step::Set(0, 0, None),
        Step::Watch(4, false),
        Step::Watch(0, true),
        Step::Flush,
        Step::Watch(1, false),
    ];
    assert_listener_knows_every_state(steps, true);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_listener_finally_knows_every_state(
        steps in prop::collection::vec(step(), 0..80),
        is_tracking_at_end: bool,
    ) {
        assert_listener_knows_every_state(steps, is_tracking_at_end);
    }
}
