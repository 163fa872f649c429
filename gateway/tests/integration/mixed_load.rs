//! Everything at once against real processes: what each client received plus what gap notices cover equals what was
//! published.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::api_publisher::{ApiPublisher, Receipt};
use crate::harness::encoding::Encoding;
use crate::harness::logs::{append, gateway, offsets_and_data, read_log, restart_empty};
use crate::harness::proxy::{Disconnect, Proxy};
use crate::harness::publisher::Publisher;
use crate::harness::subscriber::{Ledger, NUMBERS, Received, Subscriber, Transport, number};
use crate::harness::{Gateway, Redis, SseClient, WAIT_TIMEOUT, exclusive, until};

const CLIENTS: usize = 20;
const TRANSPORTS: [Transport; 3] =
    [Transport::WebSocket(Encoding::Json), Transport::WebSocket(Encoding::Protobuf), Transport::Sse];

/// Publishers to the log, the distance between their first numbers, and the numbers of each.
const PUBLISHERS: u64 = 2;
const NUMBER_RANGE: u64 = 1_000_000;
const NUMBERS_EACH: u64 = 2000;

/// The last publication.
const END: u64 = NUMBER_RANGE * PUBLISHERS + 1;

/// Numbers per run over plain pub/sub.
const PLAIN_NUMBERS: u64 = 4000;

/// The seed of a run: `TEST_SEED`, or a random one.
fn seed() -> u64 {
    let configured = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = configured.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    seed
}

/// Receives until `on_received` returns true; disconnects at random and reconnects to either gateway. Returns the
/// number of reconnects.
async fn receive_with_reconnects(
    subscriber: &mut Subscriber,
    gateways: [SocketAddr; 2],
    mut rng: Rng,
    mut on_received: impl FnMut(Received, SocketAddr) -> bool,
) -> usize {
    let (mut reconnects, mut remaining) = (0, rng.u32(1..400));
    loop {
        // An error means that its gateway was killed.
        if let Ok(received) = subscriber.next_or_end().await {
            if on_received(received, subscriber.address()) {
                return reconnects;
            }
            remaining = remaining.saturating_sub(1);
            if remaining > 0 || !subscriber.is_between_messages() {
                continue;
            }
        }
        (reconnects, remaining) = (reconnects + 1, rng.u32(1..400));
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !subscriber.reconnect_to(gateways[rng.usize(..2)]).await {
            assert!(Instant::now() < deadline, "cannot reconnect");
            sleep(std::time::Duration::from_millis(rng.u64(1..20))).await;
        }
    }
}

/// The result of one client.
struct Outcome {
    transport: Transport,
    /// Everything that it received, in order.
    received: Vec<u64>,
    ledger: Ledger,
    reconnects: usize,
    recoveries: Vec<bool>,
}

/// Prints a summary.
fn print_summary(source: &str, outcomes: &[Outcome], due: u64) {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let recoveries: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.recoveries).collect();
    let recovered = recoveries.iter().filter(|recovered| ***recovered).count();
    eprintln!(
        "{source}: {} clients, {due} deliveries due: {} delivered, {} announced as missing by {} gaps; {} reconnects, \
         {recovered} of {} recoveries whole",
        outcomes.len(),
        sum(|outcome| outcome.received.len() as u64),
        sum(|outcome| outcome.ledger.missed),
        sum(|outcome| outcome.ledger.gaps as u64),
        sum(|outcome| outcome.reconnects as u64),
        recoveries.len(),
    );
}

/// Injects failures: cuts links, kills the first gateway halfway and restarts it.
async fn inject_failures(
    redis: &Redis,
    gateways: &mut [Gateway; 2],
    (progress, total): (impl Fn() -> u64, u64),
    rng: &mut Rng,
    restart: impl AsyncFn(&mut Gateway),
) {
    for tenth in 1..=9 {
        let at = total * tenth / 10 + rng.u64(..total / 20);
        until("messages are flowing", async || (progress() >= at).then_some(())).await;
        match tenth {
            4 => gateways[0].process.kill(),
            5 => restart(&mut gateways[0]).await,
            _ => drop(redis.disconnect_subscribers().await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_channel_delivers_every_message_exactly_once() {
    let _exclusive = exclusive().await;
    let mut rng = Rng::with_seed(seed());
    let redis = Redis::start_durable().await;
    let mut gateways = [gateway(&redis).await, gateway(&redis).await];
    let addresses = [gateways[0].address(), gateways[1].address()];
    // The log must exist before the clients connect: a WebSocket with a position from before it could not recover.
    append(&gateways[0], NUMBERS, json!({ "data": 0 })).await;
    gateways[0].api("history_remove", &json!({ "channel": NUMBERS }).to_string()).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let transport = TRANSPORTS[client % TRANSPORTS.len()];
        let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
        clients.spawn(receive_all(subscriber, transport, addresses, rng.fork()));
    }
    let publisher = |number| ApiPublisher::start(addresses.to_vec(), NUMBERS, NUMBER_RANGE * number);
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    publishers.iter().for_each(|publisher| publisher.allow(NUMBERS_EACH));
    let progress = || publishers.iter().map(ApiPublisher::confirmed).sum();
    let restart = async |killed: &mut Gateway| restart_empty(killed, &redis).await;
    inject_failures(&redis, &mut gateways, (progress, NUMBERS_EACH * PUBLISHERS), &mut rng, restart).await;
    let mut receipts = Vec::new();
    for publisher in publishers {
        receipts.extend(publisher.finish().await);
    }
    let (epoch, offset) = append(&gateways[0], NUMBERS, json!({ "data": END })).await;
    receipts.push(Receipt { number: END, epoch, offset });
    let outcomes = clients.join_all().await;
    print_summary("stream", &outcomes, receipts.len() as u64 * CLIENTS as u64);

    let log = confirmed_log(receipts);
    for Outcome { transport, received, ledger, recoveries, .. } in outcomes {
        assert!(
            received == log,
            "{transport:?}: received messages differ from the log: {}",
            difference(&received, &log)
        );
        assert_eq!(ledger.gaps, 0, "{transport:?}: a gap was reported");
        assert!(!recoveries.contains(&false), "{transport:?}: {recoveries:?}");
    }
    for gateway in &gateways {
        assert_history(gateway, &log).await;
    }
}

/// Shows where two lists differ.
fn difference(one: &[u64], other: &[u64]) -> String {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let on = |list: &[u64]| format!("{:?} of {}", &list[same..list.len().min(same + 5)], list.len());
    format!("after {same} {} and {}", on(one), on(other))
}

async fn receive_all(
    mut subscriber: Subscriber,
    transport: Transport,
    gateways: [SocketAddr; 2],
    rng: Rng,
) -> Outcome {
    let (mut received, mut ledger) = (Vec::new(), Ledger::default());
    let reconnects = receive_with_reconnects(&mut subscriber, gateways, rng, |next, _| {
        match next {
            Received::Number(number) => received.push(number),
            Received::Gap => ledger.gaps += 1,
        }
        next == Received::Number(END)
    })
    .await;
    Outcome { transport, received, ledger, reconnects, recoveries: subscriber.recoveries }
}

/// The log according to its publishers: every number once, in the order of its publisher, without a hole.
fn confirmed_log(mut receipts: Vec<Receipt>) -> Vec<u64> {
    receipts.sort_unstable_by_key(|receipt| receipt.offset);
    let offsets: Vec<u64> = receipts.iter().map(|receipt| receipt.offset).collect();
    let expected: Vec<u64> = (2..=NUMBERS_EACH * PUBLISHERS + 2).collect();
    assert!(offsets == expected, "duplicate or missing offset: {}", difference(&offsets, &expected));
    assert!(receipts.iter().all(|receipt| receipt.epoch == receipts[0].epoch), "more than one epoch");
    let numbers: Vec<u64> = receipts.iter().map(|receipt| receipt.number).collect();
    for base in (0..PUBLISHERS).map(|publisher| NUMBER_RANGE * publisher) {
        let of_one = numbers.iter().copied().filter(|number| (base..base + NUMBER_RANGE).contains(number));
        assert!(of_one.eq(base + 1..=base + NUMBERS_EACH), "duplicate, missing or out of order");
    }
    numbers
}

/// Asserts that a gateway returns the log as its publishers know it.
async fn assert_history(gateway: &Gateway, log: &[u64]) {
    let (_, publications) = read_log(gateway, NUMBERS).await;
    let history: Vec<u64> =
        offsets_and_data(&publications).iter().map(|(_, data)| data.as_u64().unwrap()).collect();
    assert!(history == log, "the history differs from the log: {}", difference(&history, log));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_pubsub_reports_every_gap() {
    let _exclusive = exclusive().await;
    let mut rng = Rng::with_seed(seed());
    let redis = Redis::start().await;
    let mut gateways = [Gateway::on(&redis).await, Gateway::on(&redis).await];
    let addresses = [gateways[0].address(), gateways[1].address()];
    let stop_at = Arc::new(AtomicU64::new(u64::MAX));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let transport = TRANSPORTS[client % TRANSPORTS.len()];
        let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
        clients.spawn(receive_with_gaps(subscriber, transport, addresses, rng.fork(), Arc::clone(&stop_at)));
    }
    let publisher = Publisher::steady(&redis, &[NUMBERS]);
    let restart = async |killed: &mut Gateway| {
        *killed = Gateway::settings().redis(&redis).at(killed.address()).start().await;
    };
    inject_failures(&redis, &mut gateways, (|| publisher.sent(), PLAIN_NUMBERS), &mut rng, restart).await;
    stop_at.store(publisher.sent() + 100, Ordering::Relaxed);
    let outcomes = clients.join_all().await;
    // Each client stops at a different number.
    print_summary("pubsub", &outcomes, outcomes.iter().filter_map(|outcome| outcome.ledger.last).sum());
    for Outcome { transport, ledger, .. } in outcomes {
        assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{transport:?}: {ledger:?}");
        assert!(ledger.missed > 0, "{transport:?}: nothing was lost: the test is void");
    }
}

/// For how long the proxy redirects new connections to another server.
const REDIRECT_TIMES: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_redirect_to_another_server_reports_every_gap() {
    let _exclusive = exclusive().await;
    for cut in [Disconnect::Commands, Disconnect::Everything] {
        let mut rng = Rng::with_seed(seed());
        let (home, elsewhere) = (Redis::start().await, Redis::start().await);
        let proxy = Proxy::before(home.address()).await;
        let settings = || Gateway::settings().environment("REDIS_URL", &proxy.url());
        let gateways = [settings().start().await, settings().start().await];
        let addresses = [gateways[0].address(), gateways[1].address()];
        let stop_at = Arc::new(AtomicU64::new(u64::MAX));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let transport = TRANSPORTS[client % TRANSPORTS.len()];
            let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
            clients.spawn(receive_with_gaps(
                subscriber,
                transport,
                addresses,
                rng.fork(),
                Arc::clone(&stop_at),
            ));
        }
        let publisher = Publisher::steady_at(watch::channel(proxy.url()).1, &[NUMBERS]);
        let flows = async || {
            let next = publisher.sent() + 300;
            until("messages are flowing", async || (publisher.sent() >= next).then_some(())).await;
        };
        for span in REDIRECT_TIMES {
            flows().await;
            proxy.redirect(elsewhere.address(), cut);
            sleep(span).await;
            proxy.redirect(home.address(), cut);
        }
        flows().await;
        stop_at.store(publisher.sent() + 100, Ordering::Relaxed);
        let outcomes = clients.join_all().await;
        print_summary(
            "temporary redirect",
            &outcomes,
            outcomes.iter().filter_map(|one| one.ledger.last).sum(),
        );
        for Outcome { transport, ledger, .. } in outcomes {
            assert_eq!(
                ledger.delivered + ledger.missed,
                ledger.last.unwrap(),
                "{cut:?} {transport:?}: {ledger:?}"
            );
            assert!(ledger.missed > 0, "{cut:?} {transport:?}: nothing was lost: the test is void");
        }
    }
}

async fn receive_with_gaps(
    mut subscriber: Subscriber,
    transport: Transport,
    gateways: [SocketAddr; 2],
    rng: Rng,
    stop_at: Arc<AtomicU64>,
) -> Outcome {
    let (mut received, mut ledger, mut home) = (Vec::new(), Ledger::from_start(), subscriber.address());
    let reconnects = receive_with_reconnects(&mut subscriber, gateways, rng, |next, gateway| {
        if let Received::Number(number) = next {
            // One gateway may receive from Redis later than the other: after a gap it can deliver the last numbers
            // again.
            if gateway != home && ledger.gap_reported && ledger.has(number) {
                return false;
            }
            home = gateway;
            received.push(number);
        }
        // Panics on a duplicate, on a wrong order, and on missing numbers without a gap notice.
        ledger.record(next);
        ledger.has(stop_at.load(Ordering::Relaxed))
    })
    .await;
    Outcome { transport, received, ledger, reconnects, recoveries: subscriber.recoveries }
}

/// Two names with the same 32-bit hash (FNV-1a).
const COLLIDING: [&str; 2] = ["costarring", "liquid"];

/// Numbers on each of them.
const COLLIDING_NUMBERS: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colliding_channel_names_recover_without_loss() {
    let mut rng = Rng::with_seed(seed());
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let progress: Arc<[AtomicU64]> = (0..6).map(|_| AtomicU64::new(0)).collect();
    let mut clients = JoinSet::new();
    for client in 0..progress.len() {
        let path = "/sse?channel=costarring&channel=liquid";
        let (stream, _) = SseClient::connect(gateway.address(), path).await;
        let (address, mut rng, progress) = (gateway.address(), rng.fork(), Arc::clone(&progress));
        clients.spawn(async move {
            let (mut stream, mut reconnects) = (stream, 0);
            let mut ledgers = COLLIDING.map(|_| Ledger::from_start());
            while !ledgers.iter().all(|ledger| ledger.has(COLLIDING_NUMBERS)) {
                let event = stream.event().await;
                let channel = COLLIDING.iter().position(|name| event.name == *name);
                if let Some(channel) = channel {
                    ledgers[channel].record(Received::Number(number(&event.data)));
                } else {
                    let gap: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                    let channel = COLLIDING.iter().position(|name| gap["channel"] == *name).unwrap();
                    ledgers[channel].record(Received::Gap);
                }
                let least = ledgers.iter().map(|ledger| ledger.last.unwrap_or_default()).min();
                progress[client].store(least.unwrap_or_default(), Ordering::Relaxed);
                if rng.u32(..30) == 0 {
                    (stream, _) = SseClient::resume(address, path, &event.id).await;
                    reconnects += 1;
                }
            }
            (reconnects, ledgers.map(|ledger| ledger.missed))
        });
    }
    for number in 1..=COLLIDING_NUMBERS {
        let text = number.to_string();
        redis.publish_all(COLLIDING.map(|name| (name, &text))).await;
        if number % 20 == 0 {
            until("the clients keep up", async || {
                progress.iter().all(|seen| seen.load(Ordering::Relaxed) + 40 > number).then_some(())
            })
            .await;
        }
    }
    while let Some(client) = clients.join_next().await {
        let (reconnects, missed) = client.unwrap();
        assert!(reconnects > 0, "it never reconnected");
        assert_eq!(missed, [0, 0], "the history has all missed messages");
    }
}
