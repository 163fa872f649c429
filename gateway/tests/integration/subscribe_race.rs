//! Subscribing while publications arrive: the reply, recovered publications and live ones form one sequence without
//! holes or duplicates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::harness::publisher::{Load, Publisher};
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::{Gateway, Redis, exclusive};

/// Clients per transport, and reconnects of each.
const CLIENTS_EACH: usize = 12;
const RECONNECTS: usize = 30;

/// Maximum lead of the publisher over the slowest client: less than the history holds, more than one reply holds.
const LEAD_MAX: u64 = 2000;

/// History and queues that are large enough to never cause a gap.
const CONFIG: &str = r#"
[limits]
recovery_publications = 10000
client_queue_bytes = "64MiB"
shard_queue_items = 1000000

[[namespace]]
name = "all"
channels = ["*"]
subscribe = "anyone"
history = { size = 10000, bytes = "64MiB" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_under_load_recovers_one_complete_sequence() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let progress: Arc<[AtomicU64]> =
        (0..Transport::ALL.len() * CLIENTS_EACH).map(|_| AtomicU64::new(0)).collect();
    let mut subscribers = JoinSet::new();
    for client in 0..progress.len() {
        let (transport, progress) = (Transport::ALL[client % Transport::ALL.len()], Arc::clone(&progress));
        let subscriber = Subscriber::connect(gateway.address(), transport).await;
        subscribers.spawn(async move {
            (transport, receive_with_reconnects(subscriber, &progress[client], client as u64).await)
        });
    }
    let load = Load { channels: &[NUMBERS, "other"], batch: 64, padding: 60, max_lead: LEAD_MAX };
    let publisher = Publisher::start(&redis, load, progress);
    while let Some(done) = subscribers.join_next().await {
        let (transport, (ledger, recoveries)) = done.unwrap();
        assert_eq!(recoveries, vec![true; RECONNECTS], "{transport:?}: the history is long enough");
        assert_eq!((ledger.gaps, ledger.missed), (0, 0), "{transport:?}: missing messages or gap notices");
        assert_eq!(ledger.last, Some(ledger.delivered), "{transport:?}: duplicate or missing");
    }
    drop(publisher);
}

/// Receives, disconnects and resumes repeatedly.
async fn receive_with_reconnects(
    mut subscriber: Subscriber,
    progress: &AtomicU64,
    seed: u64,
) -> (Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_start();
    for round in 0..=RECONNECTS as u64 {
        // Some clients disconnect right after the recovery, some well into the live messages.
        let stay = ledger.last.unwrap_or_default() + 1 + (seed * 37 + round * 101) % 400;
        while !(ledger.has(stay) && subscriber.is_between_messages()) {
            ledger.record(subscriber.next().await);
            progress.store(ledger.last.unwrap_or_default(), Ordering::Relaxed);
        }
        if round < RECONNECTS as u64 {
            subscriber = subscriber.reconnect().await;
        }
    }
    // The publisher does not wait for clients that are done.
    progress.store(u64::MAX, Ordering::Relaxed);
    (ledger, subscriber.recoveries)
}
