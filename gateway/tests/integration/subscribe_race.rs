//! Subscribing while publications come is exact: the reply, what was missed, and the first live one are one sequence
//! without a hole and without a duplicate, whatever is published meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::harness::publisher::{Pace, Publisher};
use crate::harness::subscriber::{Follower, Ledger, NUMBERS, Way};
use crate::harness::{Gateway, Redis, heavy};

/// Clients of each kind, and how often each comes back.
const EACH: usize = 12;
const TIMES: usize = 30;

/// How far the publisher may be ahead of the slowest client: less than a ring holds, more than one reply may hold.
const AHEAD: u64 = 2000;

/// Rings that suffice, and queues that never are the reason for a gap.
const CONFIG: &str = r#"
[limits]
recovery_publications = 10000
outbox_bytes = "64MiB"
handover_items = 1000000

[[namespace]]
name = "all"
channels = ["*"]
history = { size = 10000, bytes = "64MiB" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_while_a_publisher_runs_flat_out_gets_one_whole_sequence() {
    let _alone = heavy().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let marks: Arc<[AtomicU64]> = (0..Way::ALL.len() * EACH).map(|_| AtomicU64::new(0)).collect();
    let mut followers = JoinSet::new();
    for client in 0..marks.len() {
        let (way, marks) = (Way::ALL[client % Way::ALL.len()], Arc::clone(&marks));
        let follower = Follower::join(gateway.address(), way).await;
        followers.spawn(async move { (way, come_and_go(follower, &marks[client], client as u64).await) });
    }
    let pace = Pace { channels: &[NUMBERS, "aside"], batch: 64, fill: 60, ahead: AHEAD };
    let publisher = Publisher::start(&redis, pace, marks);
    while let Some(done) = followers.join_next().await {
        let (way, (ledger, recoveries)) = done.unwrap();
        assert_eq!(recoveries, vec![true; TIMES], "{way:?}: the ring suffices every time");
        assert_eq!(
            (ledger.gaps, ledger.missed),
            (0, 0),
            "{way:?}: nothing is missing, and nothing was told to be"
        );
        assert_eq!(ledger.last, Some(ledger.delivered), "{way:?}: everything from 1 on, once");
    }
    drop(publisher);
}

/// Hears some, drops, comes back from there; again and again.
async fn come_and_go(mut follower: Follower, mark: &AtomicU64, seed: u64) -> (Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_the_first();
    for time in 0..=TIMES as u64 {
        // Some leave right after the replay has begun, some far into the live part.
        let stay = ledger.last.unwrap_or_default() + 1 + (seed * 37 + time * 101) % 400;
        while !(ledger.has(stay) && follower.is_between_messages()) {
            ledger.enter(follower.next().await);
            mark.store(ledger.last.unwrap_or_default(), Ordering::Relaxed);
        }
        if time < TIMES as u64 {
            follower = follower.come_again().await;
        }
    }
    // Nobody waits for those who are done.
    mark.store(u64::MAX, Ordering::Relaxed);
    (ledger, follower.recoveries)
}
