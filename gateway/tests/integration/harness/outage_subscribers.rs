//! Witnesses of an outage: a publisher that counts, and clients that follow it and account for every number. They must
//! never be given a hole that they were not told of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::publisher::Publisher;
use super::subscriber::{Follower, Ledger, NUMBERS, Way};
use super::{GLANCE, Gateway, PATIENCE, encoding::Encoding, until};

/// One client of each kind that is told of gaps in its own way.
const WAYS: [Way; 2] = [Way::Stream, Way::Socket(Encoding::Json)];

/// Clients of one gateway, at work.
pub(crate) struct Witnesses {
    publisher: Publisher,
    enough: Arc<AtomicU64>,
    /// The least of what they have heard.
    marks: Arc<[AtomicU64]>,
    clients: JoinSet<(Way, Ledger, Vec<bool>)>,
}

impl Witnesses {
    /// Who follows [`NUMBERS`], which the publisher must count on.
    pub(crate) async fn of(gateway: &Gateway, publisher: impl FnOnce() -> Publisher) -> Self {
        let enough = Arc::new(AtomicU64::new(u64::MAX));
        let marks: Arc<[AtomicU64]> = WAYS.iter().map(|_| AtomicU64::new(0)).collect();
        let mut clients = JoinSet::new();
        for (place, way) in WAYS.into_iter().enumerate() {
            let follower = Follower::join(gateway.address(), way).await;
            let at = (gateway.address(), place);
            clients.spawn(follow(follower, way, Arc::clone(&enough), Arc::clone(&marks), at));
        }
        Self { publisher: publisher(), enough, marks, clients }
    }

    /// As a backend on one server publishes.
    pub(crate) async fn on(gateway: &Gateway, redis: &super::Redis) -> Self {
        Self::of(gateway, || Publisher::steady(redis, &[NUMBERS])).await
    }

    /// Waits until every client has heard something that is published from now on.
    pub(crate) async fn hear(&mut self) {
        let now = self.publisher.sent() + 20;
        until("every witness hears what is published now", async || {
            if let Some(Err(error)) = self.clients.try_join_next() {
                std::panic::resume_unwind(error.into_panic());
            }
            self.marks.iter().all(|mark| mark.load(Ordering::Relaxed) >= now).then_some(())
        })
        .await;
    }

    /// Ends, and holds each client's account against what was published: delivered and announced make up everything, and
    /// something was announced, at least so many times.
    pub(crate) async fn account(mut self, outages: usize) {
        self.hear().await;
        self.enough.store(self.publisher.sent(), Ordering::Relaxed);
        while let Some(done) = self.clients.join_next().await {
            let (way, ledger, recoveries) = done.unwrap();
            let last = ledger.last.unwrap();
            eprintln!(
                "{way:?}: {last} published, {} delivered, {} announced as missing by {} gaps",
                ledger.delivered, ledger.missed, ledger.gaps
            );
            assert_eq!(ledger.first + ledger.delivered + ledger.missed - 1, last, "{way:?}");
            assert!(ledger.gaps >= outages, "{way:?}: {outages} outages, {} gaps told", ledger.gaps);
            assert!(!recoveries.contains(&true), "{way:?}: nobody can recover what the gateway did not hear");
        }
    }
}

async fn follow(
    mut follower: Follower,
    way: Way,
    enough: Arc<AtomicU64>,
    marks: Arc<[AtomicU64]>,
    (address, place): (SocketAddr, usize),
) -> (Way, Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_the_first();
    while !ledger.has(enough.load(Ordering::Relaxed)) {
        match follower.next_or_end().await {
            Ok(heard) => ledger.enter(heard),
            // What an SDK does that was told to try again.
            Err(_) => {
                let deadline = Instant::now() + PATIENCE;
                while !follower.go_to(address).await {
                    assert!(Instant::now() < deadline, "{way:?}: not let in again");
                    sleep(GLANCE).await;
                }
            }
        }
        marks[place].store(ledger.last.unwrap_or_default(), Ordering::Relaxed);
    }
    (way, ledger, follower.recoveries)
}
