//! A log outlives outages of the link: subscribers are unaffected. A lost log is reported to every subscriber.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::api_publisher::ApiPublisher;
use crate::harness::encoding::Encoding;
use crate::harness::logs::{append_numbers, gateway};
use crate::harness::subscriber::{Ledger, NUMBERS, Position, Received, Subscriber, Transport};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

/// Outages per run, and publications between two of them.
const OUTAGES: usize = 4;
const NUMBERS_BETWEEN: u64 = 100;

/// Two gateways on one Redis server, subscribers of every transport on each, and a publisher.
struct Scene {
    redis: Redis,
    gateways: [Gateway; 2],
    publisher: ApiPublisher,
    following: JoinSet<(Transport, Ledger, Vec<bool>)>,
    stop_at: Arc<AtomicU64>,
}

impl Scene {
    async fn on(redis: Redis) -> Self {
        let gateways = [gateway(&redis).await, gateway(&redis).await];
        let stop_at = Arc::new(AtomicU64::new(u64::MAX));
        let mut following = JoinSet::new();
        for gateway in &gateways {
            for transport in Transport::ALL {
                let subscriber = Subscriber::connect(gateway.address(), transport).await;
                following.spawn(follow(subscriber, transport, Arc::clone(&stop_at)));
            }
        }
        let addresses = gateways.iter().map(Gateway::address).collect();
        let publisher = ApiPublisher::steady(addresses, NUMBERS);
        Self { redis, gateways, publisher, following, stop_at }
    }

    async fn wait_for_publications(&self) {
        let confirmed = self.publisher.confirmed();
        until("messages are flowing", async || {
            (self.publisher.confirmed() > confirmed + NUMBERS_BETWEEN).then_some(())
        })
        .await;
    }

    async fn wait_for_ready_status(&self, status: u16) {
        for gateway in &self.gateways {
            gateway.wait_for_ready_status(status).await;
        }
    }

    /// Asserts that every subscriber has received everything without a gap and without resubscribing.
    async fn assert_unaffected(mut self) {
        self.wait_for_publications().await;
        self.stop_at.store(self.publisher.confirmed() + NUMBERS_BETWEEN, Ordering::Relaxed);
        while let Some(done) = self.following.join_next().await {
            let (transport, ledger, recoveries) = done.unwrap();
            assert_eq!((ledger.gaps, ledger.missed), (0, 0), "{transport:?}");
            assert_eq!(ledger.last, Some(ledger.delivered), "{transport:?}: duplicate or missing");
            assert!(recoveries.is_empty(), "{transport:?}: it must stay subscribed: {recoveries:?}");
        }
    }
}

async fn follow(
    mut subscriber: Subscriber,
    transport: Transport,
    stop_at: Arc<AtomicU64>,
) -> (Transport, Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_start();
    while !ledger.has(stop_at.load(Ordering::Relaxed)) {
        ledger.record(subscriber.next().await);
    }
    (transport, ledger, subscriber.recoveries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_subscriptions_cause_no_gap() {
    let _exclusive = exclusive().await;
    let scene = Scene::on(Redis::start().await).await;
    for _ in 0..OUTAGES {
        scene.wait_for_publications().await;
        scene.wait_for_ready_status(200).await;
        assert_eq!(scene.redis.disconnect_subscribers().await, 2, "one link per gateway");
    }
    scene.wait_for_publications().await;
    scene.wait_for_ready_status(200).await;
    let mut missed = 0.0;
    for gateway in &scene.gateways {
        let received = gateway.metric("earshot_messages_total", &[]).await;
        missed += scene.publisher.confirmed() as f64 - received;
    }
    // One or two messages may be in flight.
    assert!(missed > 5.0, "everything was received live: the test is void");
    eprintln!("{missed} of {} were read from the log", scene.publisher.confirmed());
    scene.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_redis_causes_no_gap() {
    let _exclusive = exclusive().await;
    let scene = Scene::on(Redis::start().await).await;
    for _ in 0..2 {
        scene.wait_for_publications().await;
        scene.redis.signal("STOP");
        scene.wait_for_ready_status(503).await;
        scene.redis.signal("CONT");
        scene.wait_for_ready_status(200).await;
    }
    scene.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_a_durable_redis_causes_no_gap() {
    let _exclusive = exclusive().await;
    let mut scene = Scene::on(Redis::start_durable().await).await;
    for _ in 0..OUTAGES {
        scene.wait_for_publications().await;
        scene.redis.kill();
        scene.wait_for_ready_status(503).await;
        scene.redis.restart().await;
    }
    scene.wait_for_ready_status(200).await;
    scene.assert_unaffected().await;
}

/// Restarts a Redis server without persistence.
async fn lose_log(redis: &mut Redis, gateways: &[Gateway]) {
    redis.kill();
    for gateway in gateways {
        gateway.wait_for_ready_status(503).await;
    }
    redis.restart().await;
}

#[tokio::test]
async fn lost_log_is_reported_to_every_subscriber() {
    let mut redis = Redis::start().await;
    let gateways = [gateway(&redis).await, gateway(&redis).await];
    let (before, _) = append_numbers(&gateways[0], NUMBERS, 1..=5).await;
    let mut sockets = Vec::new();
    let mut streams = Vec::new();
    for gateway in &gateways {
        for encoding in Encoding::BOTH {
            let mut socket = WsClient::connect(gateway.address(), encoding).await;
            socket.request("subscribe", json!({ "channel": NUMBERS })).await;
            sockets.push(socket);
        }
        streams.push(SseClient::open(gateway.address(), "/sse/numbers").await);
    }
    lose_log(&mut redis, &gateways).await;
    for stream in &mut streams {
        let gap: Value = serde_json::from_str(&stream.data("gap").await).unwrap();
        assert_eq!(gap, json!({"channel": NUMBERS, "reason": "log-lost"}));
    }
    for socket in &mut sockets {
        let Incoming::Push(push) = socket.next().await else { panic!("not a push") };
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
        let request = json!({"channel": NUMBERS, "recover": true, "epoch": before, "offset": 5});
        let reply = socket.request("subscribe", request).await;
        assert!(reply["subscribe"]["recovered"] != true, "{reply}");
        assert!(reply["subscribe"]["epoch"] != before.as_str(), "{reply}");
    }
    for gateway in &gateways {
        gateway.wait_for_ready_status(200).await;
        gateway.wait_for_metric("earshot_gaps_total", &[r#"reason="log-lost""#], |gaps| gaps == 1.0).await;
    }
    let (after, offset) = append_numbers(&gateways[1], NUMBERS, 6..=7).await;
    assert_eq!(offset, 2, "a new log begins");
    assert_ne!(after, before);
    for socket in &mut sockets {
        for number in 6..=7 {
            let publication = socket.publication().await;
            assert_eq!((publication.offset, publication.data), (number - 5, number.to_string()));
        }
    }
    for stream in &mut streams {
        assert_eq!([stream.data("message").await, stream.data("message").await], ["6", "7"]);
    }
}

/// The new log becomes longer than every known position before a gateway can read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_log_is_reported_even_if_the_new_one_is_longer() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateways = [gateway(&redis).await, gateway(&redis).await];
    let mut subscribers = Vec::new();
    for gateway in &gateways {
        // These subscribe before the log exists.
        for transport in Transport::ALL {
            subscribers.push((
                Subscriber::connect(gateway.address(), transport).await,
                Ledger::from_start(),
                transport,
            ));
        }
    }
    let (before, _) = append_numbers(&gateways[0], NUMBERS, 1..=5).await;
    for (subscriber, ledger, _) in &mut subscribers {
        while !ledger.has(5) {
            ledger.record(subscriber.next().await);
        }
    }
    for gateway in &gateways {
        // These subscribe when it exists and both gateways have received all of it.
        for transport in Transport::ALL {
            subscribers.push((
                Subscriber::connect(gateway.address(), transport).await,
                Ledger::default(),
                transport,
            ));
        }
    }
    let stop_at = Arc::new(AtomicU64::new(u64::MAX));
    let mut following = JoinSet::new();
    for (mut subscriber, mut ledger, transport) in subscribers {
        let stop_at = Arc::clone(&stop_at);
        following.spawn(async move {
            while !ledger.has(stop_at.load(Ordering::Relaxed)) {
                let received = subscriber.next().await;
                assert!(
                    received == Received::Gap || ledger.gaps > 0,
                    "{transport:?}: {received:?} from another log"
                );
                ledger.record(received);
            }
            (subscriber, ledger, transport)
        });
    }
    let publisher = ApiPublisher::start(gateways.iter().map(Gateway::address).collect(), NUMBERS, 5);
    lose_log(&mut redis, &gateways).await;
    publisher.allow(u64::MAX / 2);
    until("the new log is longer", async || (publisher.confirmed() > 50).then_some(())).await;
    stop_at.store(publisher.confirmed() + 100, Ordering::Relaxed);
    while let Some(done) = following.join_next().await {
        let (subscriber, ledger, transport) = done.unwrap();
        let which = format!("{transport:?}, subscribed before the log existed: {}", ledger.first == 1);
        assert_eq!(ledger.gaps, 1, "{which}: one gap");
        match subscriber.position() {
            Position::Offset { epoch, .. } => {
                assert_ne!(*epoch, before, "{which}");
                assert_eq!(subscriber.recoveries, [false], "{which}: the recovery must not succeed");
            }
            Position::Cursor(_) => assert!(subscriber.recoveries.is_empty(), "{which}"),
        }
    }
}
