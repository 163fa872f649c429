//! Subscribers during an outage, and a publisher of consecutive numbers. They verify that every missing number is
//! covered by a gap notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::publisher::Publisher;
use super::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use super::{Gateway, POLL_INTERVAL, WAIT_TIMEOUT, encoding::Encoding, until};

/// One transport per kind of gap notice.
const TRANSPORTS: [Transport; 2] = [Transport::Sse, Transport::WebSocket(Encoding::Json)];

/// Running clients of one gateway.
pub(crate) struct OutageSubscribers {
    publisher: Publisher,
    stop_at: Arc<AtomicU64>,
    /// The last number that each client received.
    progress: Arc<[AtomicU64]>,
    clients: JoinSet<(Transport, Ledger, Vec<bool>)>,
}

impl OutageSubscribers {
    /// Connects clients that subscribe to [`NUMBERS`], the channel that the publisher must publish to.
    pub(crate) async fn start(gateway: &Gateway, publisher: impl FnOnce() -> Publisher) -> Self {
        let stop_at = Arc::new(AtomicU64::new(u64::MAX));
        let progress: Arc<[AtomicU64]> = TRANSPORTS.iter().map(|_| AtomicU64::new(0)).collect();
        let mut clients = JoinSet::new();
        for (index, transport) in TRANSPORTS.into_iter().enumerate() {
            let subscriber = Subscriber::connect(gateway.address(), transport).await;
            let at = (gateway.address(), index);
            clients.spawn(follow(subscriber, transport, Arc::clone(&stop_at), Arc::clone(&progress), at));
        }
        Self { publisher: publisher(), stop_at, progress, clients }
    }

    /// With a publisher on one Redis server.
    pub(crate) async fn on(gateway: &Gateway, redis: &super::Redis) -> Self {
        Self::start(gateway, || Publisher::steady(redis, &[NUMBERS])).await
    }

    /// Waits until every client has received a number that is published from now on.
    pub(crate) async fn wait_until_receiving(&mut self) {
        let now = self.publisher.sent() + 20;
        until("every subscriber receives new publications", async || {
            if let Some(Err(error)) = self.clients.try_join_next() {
                std::panic::resume_unwind(error.into_panic());
            }
            self.progress.iter().all(|last| last.load(Ordering::Relaxed) >= now).then_some(())
        })
        .await;
    }

    /// Stops, and verifies for each client that delivered and missing numbers add up to what was published, with at
    /// least this many gap notices.
    pub(crate) async fn verify(mut self, outages: usize) {
        self.wait_until_receiving().await;
        self.stop_at.store(self.publisher.sent(), Ordering::Relaxed);
        while let Some(done) = self.clients.join_next().await {
            let (transport, ledger, recoveries) = done.unwrap();
            let last = ledger.last.unwrap();
            eprintln!(
                "{transport:?}: {last} published, {} delivered, {} announced as missing by {} gaps",
                ledger.delivered, ledger.missed, ledger.gaps
            );
            assert_eq!(ledger.first + ledger.delivered + ledger.missed - 1, last, "{transport:?}");
            assert!(ledger.gaps >= outages, "{transport:?}: {outages} outages, {} gap notices", ledger.gaps);
            assert!(
                !recoveries.contains(&true),
                "{transport:?}: messages that the gateway did not receive cannot be recovered"
            );
        }
    }
}

async fn follow(
    mut subscriber: Subscriber,
    transport: Transport,
    stop_at: Arc<AtomicU64>,
    progress: Arc<[AtomicU64]>,
    (address, index): (SocketAddr, usize),
) -> (Transport, Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_start();
    while !ledger.has(stop_at.load(Ordering::Relaxed)) {
        match subscriber.next_or_end().await {
            Ok(received) => ledger.record(received),
            // An SDK retries after a temporary error.
            Err(_) => {
                let deadline = Instant::now() + WAIT_TIMEOUT;
                while !subscriber.reconnect_to(address).await {
                    assert!(Instant::now() < deadline, "{transport:?}: cannot reconnect");
                    sleep(POLL_INTERVAL).await;
                }
            }
        }
        progress[index].store(ledger.last.unwrap_or_default(), Ordering::Relaxed);
    }
    (transport, ledger, subscriber.recoveries)
}
