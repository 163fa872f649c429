//! Everything at once over real processes, and the books must balance: what was published is what each client was
//! given and what it was told that it misses.

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

/// Publishers over the log, what stands before the numbers of each, and how many each has.
const PUBLISHERS: u64 = 2;
const BASE: u64 = 1_000_000;
const EACH: u64 = 2000;

/// The last publication of all.
const END: u64 = BASE * PUBLISHERS + 1;

/// Numbers of one run over plain pub/sub.
const PLAIN: u64 = 4000;

/// The seed of one run: `TEST_SEED`, or another one each time.
fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    seed
}

/// Follows until `hear` says that it was enough; drops and comes back at random, to one gateway or the other. Gives
/// how often it came back.
async fn wander(
    subscriber: &mut Subscriber,
    gateways: [SocketAddr; 2],
    mut rng: Rng,
    mut hear: impl FnMut(Received, SocketAddr) -> bool,
) -> usize {
    let (mut returns, mut stay) = (0, rng.u32(1..400));
    loop {
        // An error: its gateway was killed.
        if let Ok(received) = subscriber.next_or_end().await {
            if hear(received, subscriber.address()) {
                return returns;
            }
            stay = stay.saturating_sub(1);
            if stay > 0 || !subscriber.is_between_messages() {
                continue;
            }
        }
        (returns, stay) = (returns + 1, rng.u32(1..400));
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !subscriber.reconnect_to(gateways[rng.usize(..2)]).await {
            assert!(Instant::now() < deadline, "nobody lets it in");
            sleep(std::time::Duration::from_millis(rng.u64(1..20))).await;
        }
    }
}

/// What one client came to.
struct Account {
    transport: Transport,
    /// Everything that it heard, in its order.
    received: Vec<u64>,
    ledger: Ledger,
    returns: usize,
    recoveries: Vec<bool>,
}

/// The line that says it all.
fn tell(source: &str, accounts: &[Account], due: u64) {
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).sum::<u64>();
    let recoveries: Vec<_> = accounts.iter().flat_map(|account| &account.recoveries).collect();
    let recovered = recoveries.iter().filter(|recovered| ***recovered).count();
    eprintln!(
        "{source}: {} clients, {due} deliveries due: {} delivered, {} announced as missing by {} gaps; {} returns, \
         {recovered} of {} recoveries whole",
        accounts.len(),
        sum(|account| account.received.len() as u64),
        sum(|account| account.ledger.missed),
        sum(|account| account.ledger.gaps as u64),
        sum(|account| account.returns as u64),
        recoveries.len(),
    );
}

/// What goes wrong in a run: links are cut, the first gateway is killed in the middle and started again.
async fn trouble(
    redis: &Redis,
    gateways: &mut [Gateway; 2],
    (progress, total): (impl Fn() -> u64, u64),
    rng: &mut Rng,
    again: impl AsyncFn(&mut Gateway),
) {
    for tenth in 1..=9 {
        let at = total * tenth / 10 + rng.u64(..total / 20);
        until("the load flows", async || (progress() >= at).then_some(())).await;
        match tenth {
            4 => gateways[0].process.kill(),
            5 => again(&mut gateways[0]).await,
            _ => drop(redis.disconnect_subscribers().await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_log_nothing_is_missing_and_nothing_comes_twice() {
    let _exclusive = exclusive().await;
    let mut rng = Rng::with_seed(seed());
    let redis = Redis::start_durable().await;
    let mut gateways = [gateway(&redis).await, gateway(&redis).await];
    let addresses = [gateways[0].address(), gateways[1].address()];
    // The log exists before the clients come: a socket with a position of before it could not return after a publication.
    append(&gateways[0], NUMBERS, json!({ "data": 0 })).await;
    gateways[0].api("history_remove", &json!({ "channel": NUMBERS }).to_string()).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let transport = TRANSPORTS[client % TRANSPORTS.len()];
        let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
        clients.spawn(account_for_all(subscriber, transport, addresses, rng.fork()));
    }
    let publisher = |number| ApiPublisher::start(addresses.to_vec(), NUMBERS, BASE * number);
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    publishers.iter().for_each(|publisher| publisher.allow(EACH));
    let progress = || publishers.iter().map(ApiPublisher::confirmed).sum();
    let restart = async |killed: &mut Gateway| restart_empty(killed, &redis).await;
    trouble(&redis, &mut gateways, (progress, EACH * PUBLISHERS), &mut rng, restart).await;
    let mut receipts = Vec::new();
    for publisher in publishers {
        receipts.extend(publisher.finish().await);
    }
    let (epoch, offset) = append(&gateways[0], NUMBERS, json!({ "data": END })).await;
    receipts.push(Receipt { number: END, epoch, offset });
    let accounts = clients.join_all().await;
    tell("stream", &accounts, receipts.len() as u64 * CLIENTS as u64);

    let log = confirmed_log(receipts);
    for Account { transport, received, ledger, recoveries, .. } in accounts {
        assert!(
            received == log,
            "{transport:?}: what it received is not the log: {}",
            difference(&received, &log)
        );
        assert_eq!(ledger.gaps, 0, "{transport:?}: and nobody told it otherwise");
        assert!(!recoveries.contains(&false), "{transport:?}: {recoveries:?}");
    }
    for gateway in &gateways {
        tells(gateway, &log).await;
    }
}

/// Where two lists part, and how they go on.
fn difference(one: &[u64], other: &[u64]) -> String {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let on = |list: &[u64]| format!("{:?} of {}", &list[same..list.len().min(same + 5)], list.len());
    format!("after {same} {} and {}", on(one), on(other))
}

async fn account_for_all(
    mut subscriber: Subscriber,
    transport: Transport,
    gateways: [SocketAddr; 2],
    rng: Rng,
) -> Account {
    let (mut received, mut ledger) = (Vec::new(), Ledger::default());
    let returns = wander(&mut subscriber, gateways, rng, |next, _| {
        match next {
            Received::Number(number) => received.push(number),
            Received::Gap => ledger.gaps += 1,
        }
        next == Received::Number(END)
    })
    .await;
    Account { transport, received, ledger, returns, recoveries: subscriber.recoveries }
}

/// The log as its publishers know it: every number once, in the order of its publisher, without a hole.
fn confirmed_log(mut receipts: Vec<Receipt>) -> Vec<u64> {
    receipts.sort_unstable_by_key(|receipt| receipt.offset);
    let offsets: Vec<u64> = receipts.iter().map(|receipt| receipt.offset).collect();
    let expected: Vec<u64> = (2..=EACH * PUBLISHERS + 2).collect();
    assert!(offsets == expected, "not every offset once: {}", difference(&offsets, &expected));
    assert!(receipts.iter().all(|receipt| receipt.epoch == receipts[0].epoch), "one epoch");
    let numbers: Vec<u64> = receipts.iter().map(|receipt| receipt.number).collect();
    for base in (0..PUBLISHERS).map(|publisher| BASE * publisher) {
        let of_one = numbers.iter().copied().filter(|number| (base..base + BASE).contains(number));
        assert!(of_one.eq(base + 1..=base + EACH), "in the order of its publisher, once each");
    }
    numbers
}

/// A gateway tells the log as its publishers know it.
async fn tells(gateway: &Gateway, log: &[u64]) {
    let (_, publications) = read_log(gateway, NUMBERS).await;
    let told: Vec<u64> =
        offsets_and_data(&publications).iter().map(|(_, data)| data.as_u64().unwrap()).collect();
    assert!(told == log, "the history is not the log: {}", difference(&told, log));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_plain_pubsub_every_hole_is_announced() {
    let _exclusive = exclusive().await;
    let mut rng = Rng::with_seed(seed());
    let redis = Redis::start().await;
    let mut gateways = [Gateway::on(&redis).await, Gateway::on(&redis).await];
    let addresses = [gateways[0].address(), gateways[1].address()];
    let enough = Arc::new(AtomicU64::new(u64::MAX));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let transport = TRANSPORTS[client % TRANSPORTS.len()];
        let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
        clients.spawn(account_for_holes(subscriber, transport, addresses, rng.fork(), Arc::clone(&enough)));
    }
    let publisher = Publisher::steady(&redis, &[NUMBERS]);
    let restart = async |killed: &mut Gateway| {
        *killed = Gateway::settings().redis(&redis).at(killed.address()).start().await;
    };
    trouble(&redis, &mut gateways, (|| publisher.sent(), PLAIN), &mut rng, restart).await;
    enough.store(publisher.sent() + 100, Ordering::Relaxed);
    let accounts = clients.join_all().await;
    // Each had enough at a number of its own.
    tell("pubsub", &accounts, accounts.iter().filter_map(|account| account.ledger.last).sum());
    for Account { transport, ledger, .. } in accounts {
        assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{transport:?}: {ledger:?}");
        assert!(ledger.missed > 0, "{transport:?}: nothing was lost: this test shows nothing");
    }
}

/// How long a name leads new connections to another server.
const EXCURSIONS: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_name_that_leads_elsewhere_for_a_while_every_hole_is_announced() {
    let _exclusive = exclusive().await;
    for cut in [Disconnect::Commands, Disconnect::Everything] {
        let mut rng = Rng::with_seed(seed());
        let (home, away) = (Redis::start().await, Redis::start().await);
        let proxy = Proxy::before(home.address()).await;
        let behind = || Gateway::settings().environment("REDIS_URL", &proxy.url());
        let gateways = [behind().start().await, behind().start().await];
        let addresses = [gateways[0].address(), gateways[1].address()];
        let enough = Arc::new(AtomicU64::new(u64::MAX));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let transport = TRANSPORTS[client % TRANSPORTS.len()];
            let subscriber = Subscriber::connect(addresses[client % 2], transport).await;
            clients.spawn(account_for_holes(
                subscriber,
                transport,
                addresses,
                rng.fork(),
                Arc::clone(&enough),
            ));
        }
        let publisher = Publisher::steady_at(watch::channel(proxy.url()).1, &[NUMBERS]);
        let flows = async || {
            let next = publisher.sent() + 300;
            until("the load flows", async || (publisher.sent() >= next).then_some(())).await;
        };
        for span in EXCURSIONS {
            flows().await;
            proxy.redirect(away.address(), cut);
            sleep(span).await;
            proxy.redirect(home.address(), cut);
        }
        flows().await;
        enough.store(publisher.sent() + 100, Ordering::Relaxed);
        let accounts = clients.join_all().await;
        tell(
            "a name that leads elsewhere",
            &accounts,
            accounts.iter().filter_map(|one| one.ledger.last).sum(),
        );
        for Account { transport, ledger, .. } in accounts {
            assert_eq!(
                ledger.delivered + ledger.missed,
                ledger.last.unwrap(),
                "{cut:?} {transport:?}: {ledger:?}"
            );
            assert!(ledger.missed > 0, "{cut:?} {transport:?}: nothing was lost: this test shows nothing");
        }
    }
}

async fn account_for_holes(
    mut subscriber: Subscriber,
    transport: Transport,
    gateways: [SocketAddr; 2],
    rng: Rng,
    enough: Arc<AtomicU64>,
) -> Account {
    let (mut received, mut ledger, mut home) = (Vec::new(), Ledger::from_start(), subscriber.address());
    let returns = wander(&mut subscriber, gateways, rng, |next, gateway| {
        if let Received::Number(number) = next {
            // One gateway may hear Redis a little later than the other: after its gap it tells the last numbers again.
            if gateway != home && ledger.gap_reported && ledger.has(number) {
                return false;
            }
            home = gateway;
            received.push(number);
        }
        // A number that is twice, in disorder, or behind a hole that was not told ends the test here.
        ledger.record(next);
        ledger.has(enough.load(Ordering::Relaxed))
    })
    .await;
    Account { transport, received, ledger, returns, recoveries: subscriber.recoveries }
}

/// Two names with the same 32-bit hash (FNV-1a).
const COLLIDING: [&str; 2] = ["costarring", "liquid"];

/// Numbers on each of them.
const COLLIDING_NUMBERS: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_stream_of_names_that_collide_nothing_is_lost_silently() {
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
            let (mut stream, mut returns) = (stream, 0);
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
                    returns += 1;
                }
            }
            (returns, ledgers.map(|ledger| ledger.missed))
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
        let (returns, missed) = client.unwrap();
        assert!(returns > 0, "it was never away");
        assert_eq!(missed, [0, 0], "the history has everything that it missed");
    }
}
