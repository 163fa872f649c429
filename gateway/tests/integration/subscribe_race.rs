//! Subscribing while publications come is exact: the reply, what was missed, and the first live one are one sequence
//! without a hole and without a duplicate, whatever is published meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::harness::publisher::{Load, Publisher};
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::{Gateway, Redis, exclusive};

/// Clients of each kind, and how often each comes back.
const EACH: usize = 12;
const TIMES: usize = 30;

/// How far the publisher may be ahead of the slowest client: less than a ring holds, more than one reply may hold.
const AHEAD: u64 = 2000;

/// Rings that suffice, and queues that never are the reason for a gap.
const CONFIG: &str = r#"
[limits]
recovery_publications = 10000
client_queue_bytes = "64MiB"
shard_queue_items = 1000000

[[namespace]]
name = "all"
channels = ["*"]
history = { size = 10000, bytes = "64MiB" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_while_a_publisher_runs_flat_out_gets_one_whole_sequence() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let marks: Arc<[AtomicU64]> = (0..Transport::ALL.len() * EACH).map(|_| AtomicU64::new(0)).collect();
    let mut subscribers = JoinSet::new();
    for client in 0..marks.len() {
        let (transport, marks) = (Transport::ALL[client % Transport::ALL.len()], Arc::clone(&marks));
        let subscriber = Subscriber::connect(gateway.address(), transport).await;
        subscribers
            .spawn(async move { (transport, come_and_go(subscriber, &marks[client], client as u64).await) });
    }
    let pace = Load { channels: &[NUMBERS, "other"], batch: 64, padding: 60, max_lead: AHEAD };
    let publisher = Publisher::start(&redis, pace, marks);
    while let Some(done) = subscribers.join_next().await {
        let (transport, (ledger, recoveries)) = done.unwrap();
        assert_eq!(recoveries, vec![true; TIMES], "{transport:?}: the ring suffices every time");
        assert_eq!(
            (ledger.gaps, ledger.missed),
            (0, 0),
            "{transport:?}: nothing is missing, and nothing was told to be"
        );
        assert_eq!(ledger.last, Some(ledger.delivered), "{transport:?}: everything from 1 on, once");
    }
    drop(publisher);
}

/// Hears some, drops, comes back from there; again and again.
async fn come_and_go(mut subscriber: Subscriber, mark: &AtomicU64, seed: u64) -> (Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_start();
    for time in 0..=TIMES as u64 {
        // Some leave right after the replay has begun, some far into the live part.
        let stay = ledger.last.unwrap_or_default() + 1 + (seed * 37 + time * 101) % 400;
        while !(ledger.has(stay) && subscriber.is_between_messages()) {
            ledger.record(subscriber.next().await);
            mark.store(ledger.last.unwrap_or_default(), Ordering::Relaxed);
        }
        if time < TIMES as u64 {
            subscriber = subscriber.reconnect().await;
        }
    }
    // Nobody waits for those who are done.
    mark.store(u64::MAX, Ordering::Relaxed);
    (ledger, subscriber.recoveries)
}
