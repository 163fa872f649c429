//! Tests of what the order of numbered probes proves.

use super::*;

const STEP: Duration = Duration::from_millis(200);
const GRACE: Duration = ARRIVAL_GRACE;
const LOCAL: bool = false;
const REPLICATED: bool = true;

/// A tracker that has received a first probe, and the time of that.
fn tracker() -> (ProbeTracker, Instant) {
    let now = Instant::now();
    let mut tracker = ProbeTracker::new(now);
    let first = acknowledged(&mut tracker, now);
    assert!(tracker.receive(first) && tracker.is_local());
    (tracker, now)
}

/// Sends a probe that is acknowledged immediately.
fn acknowledged(tracker: &mut ProbeTracker, now: Instant) -> u64 {
    let number = tracker.send(now).number;
    tracker.acknowledge(number, true, now);
    number
}

#[tokio::test(start_paused = true)]
async fn a_skipped_probe_is_a_gap_since_the_last_good_one() {
    let (mut tracker, start) = tracker();
    for step in 1..=3 {
        acknowledged(&mut tracker, start + STEP * step);
    }
    assert_eq!(tracker.take_skipped(start + STEP * 3, LOCAL), None, "they may still be in flight");
    let later = acknowledged(&mut tracker, start + STEP * 4);
    assert!(tracker.receive(later));
    let skipped = tracker.take_skipped(start + STEP * 4, LOCAL);
    assert_eq!(skipped, Some(Skipped { count: 3, from: start }));
    assert_eq!(tracker.take_skipped(start + STEP * 4, LOCAL), None, "once");
    assert_eq!(tracker.verified(), start + STEP * 4);
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_an_acknowledgement_is_not_missing() {
    let (mut tracker, start) = tracker();
    tracker.send(start);
    let later = acknowledged(&mut tracker, start + STEP);
    assert!(tracker.receive(later));
    assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL), None);
    assert_eq!(tracker.verified(), start + STEP);
}

#[tokio::test(start_paused = true)]
async fn concurrent_probes_may_be_executed_in_any_order() {
    let (mut tracker, start) = tracker();
    let older = tracker.send(start).number;
    // Published over the subscriber connection before the command link answered the older one.
    let newer = tracker.send(start + STEP).number;
    tracker.publish_on_subscription(newer);
    assert!(tracker.receive(newer));
    tracker.acknowledge(older, true, start + STEP * 2);
    assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL), None);
    assert!(tracker.receive(older));
    assert_eq!(tracker.take_skipped(start + STEP * 9, LOCAL), None);
}

#[tokio::test(start_paused = true)]
async fn probes_over_several_ways_may_be_late() {
    let (mut tracker, start) = tracker();
    let late = acknowledged(&mut tracker, start);
    let first = acknowledged(&mut tracker, start + STEP);
    assert!(tracker.receive(first));
    assert_eq!(tracker.take_skipped(start + STEP * 2, REPLICATED), None);
    assert!(tracker.receive(late));
    assert_eq!(tracker.take_skipped(start + GRACE, REPLICATED), None);
    let lost = acknowledged(&mut tracker, start + STEP * 2);
    let next = acknowledged(&mut tracker, start + STEP * 3);
    assert!(tracker.receive(next) && !tracker.is_received(lost));
    let skipped = tracker.take_skipped(start + STEP * 2 + GRACE, REPLICATED);
    assert_eq!(skipped, Some(Skipped { count: 1, from: start + STEP }));
}

#[tokio::test(start_paused = true)]
async fn a_probe_over_the_subscription_proves_nothing_about_other_servers() {
    let (mut tracker, start) = tracker();
    acknowledged(&mut tracker, start);
    let own = tracker.send(start + STEP).number;
    tracker.publish_on_subscription(own);
    assert!(tracker.receive(own));
    assert_eq!(tracker.take_skipped(start + GRACE * 2, REPLICATED), None);
    let skipped = tracker.take_skipped(start + GRACE * 2, LOCAL);
    assert_eq!(skipped, Some(Skipped { count: 1, from: start }));
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_loss_was_reported_is_discarded_and_not_missing() {
    let (mut tracker, start) = tracker();
    let lost = acknowledged(&mut tracker, start + STEP);
    assert!(tracker.is_missing(lost) && !tracker.is_discarded(lost));
    let later = acknowledged(&mut tracker, start + STEP * 2);
    assert!(tracker.receive(later));
    assert!(tracker.take_skipped(start + STEP * 2, LOCAL).is_some());
    assert!(!tracker.is_missing(lost) && tracker.is_discarded(lost) && !tracker.is_discarded(later));
    let under_way = acknowledged(&mut tracker, start + STEP * 3);
    tracker.clear();
    assert!(!tracker.is_missing(under_way) && tracker.is_discarded(under_way) && !tracker.has_missing());
    let next = acknowledged(&mut tracker, start + STEP * 4);
    assert!(tracker.is_missing(next) && !tracker.is_discarded(next));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_arrived_is_not_missing_whenever_it_is_acknowledged() {
    let (mut tracker, start) = tracker();
    let number = tracker.send(start).number;
    assert!(!tracker.is_missing(number), "it may never have been published");
    assert!(tracker.receive(number));
    tracker.acknowledge(number, true, start + STEP);
    assert!(!tracker.is_missing(number));
}

#[tokio::test(start_paused = true)]
async fn the_count_proves_nothing_if_uncounted_probes_arrive() {
    let now = Instant::now();
    let mut tracker = ProbeTracker::new(now);
    assert!(!tracker.needs_count(), "not subscribed");
    tracker.confirm();
    assert!(tracker.needs_count());
    let number = tracker.send(now).number;
    tracker.acknowledge(number, false, now);
    assert!(tracker.needs_count() && tracker.receive(number));
    assert!(!tracker.needs_count() && !tracker.is_local());
}

#[tokio::test(start_paused = true)]
async fn a_replica_detects_a_lost_probe() {
    let (mut tracker, start) = tracker();
    let lost = acknowledged(&mut tracker, start + STEP);
    let mut reported = None;
    for step in 2..=PROBES_MAX as u32 * 2 {
        let now = start + STEP * step;
        let number = acknowledged(&mut tracker, now);
        assert!(tracker.receive(number));
        reported = reported.or(tracker.take_skipped(now, REPLICATED));
    }
    assert_eq!(reported, Some(Skipped { count: 1, from: start }));
    assert!(!tracker.is_missing(lost));
}

#[tokio::test(start_paused = true)]
async fn bounds_the_probes_and_rejects_foreign_numbers() {
    let (mut tracker, start) = tracker();
    let first = tracker.send(start).number;
    for _ in 0..PROBES_MAX {
        tracker.send(start);
    }
    assert_eq!(tracker.probes.len(), PROBES_MAX);
    assert!(!tracker.receive(first) && !tracker.receive(0));
    assert!(!tracker.is_discarded(first) && !tracker.is_missing(first), "its round still ends in time");
}
