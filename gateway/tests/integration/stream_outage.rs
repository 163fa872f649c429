//! A log outlives deaf spells: whoever listens notices nothing. A log that was lost is announced to everybody.

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

/// Deaf spells in one run, and what is published between two.
const SPELLS: usize = 4;
const BETWEEN: u64 = 100;

/// Two gateways on a Redis, followers of every kind on each, and a publisher.
struct Scene {
    redis: Redis,
    gateways: [Gateway; 2],
    publisher: ApiPublisher,
    following: JoinSet<(Transport, Ledger, Vec<bool>)>,
    enough: Arc<AtomicU64>,
}

impl Scene {
    async fn on(redis: Redis) -> Self {
        let gateways = [gateway(&redis).await, gateway(&redis).await];
        let enough = Arc::new(AtomicU64::new(u64::MAX));
        let mut following = JoinSet::new();
        for gateway in &gateways {
            for transport in Transport::ALL {
                let subscriber = Subscriber::connect(gateway.address(), transport).await;
                following.spawn(follow(subscriber, transport, Arc::clone(&enough)));
            }
        }
        let addresses = gateways.iter().map(Gateway::address).collect();
        let publisher = ApiPublisher::steady(addresses, NUMBERS);
        Self { redis, gateways, publisher, following, enough }
    }

    async fn flows(&self) {
        let confirmed = self.publisher.confirmed();
        until("the load flows", async || (self.publisher.confirmed() > confirmed + BETWEEN).then_some(()))
            .await;
    }

    async fn both_answer_ready_with(&self, status: u16) {
        for gateway in &self.gateways {
            gateway.wait_for_ready_status(status).await;
        }
    }

    /// Everybody has heard everything, without a gap, without having been told to subscribe again.
    async fn nobody_has_noticed(mut self) {
        self.flows().await;
        self.enough.store(self.publisher.confirmed() + BETWEEN, Ordering::Relaxed);
        while let Some(done) = self.following.join_next().await {
            let (transport, ledger, recoveries) = done.unwrap();
            assert_eq!((ledger.gaps, ledger.missed), (0, 0), "{transport:?}");
            assert_eq!(ledger.last, Some(ledger.delivered), "{transport:?}: everything from 1 on, once");
            assert!(recoveries.is_empty(), "{transport:?}: it was to stay subscribed: {recoveries:?}");
        }
    }
}

async fn follow(
    mut subscriber: Subscriber,
    transport: Transport,
    enough: Arc<AtomicU64>,
) -> (Transport, Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_start();
    while !ledger.has(enough.load(Ordering::Relaxed)) {
        ledger.record(subscriber.next().await);
    }
    (transport, ledger, subscriber.recoveries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_the_subscriptions_were_cut() {
    let _exclusive = exclusive().await;
    let scene = Scene::on(Redis::start().await).await;
    for _ in 0..SPELLS {
        scene.flows().await;
        scene.both_answer_ready_with(200).await;
        assert_eq!(scene.redis.disconnect_subscribers().await, 2, "each gateway has its link");
    }
    scene.flows().await;
    scene.both_answer_ready_with(200).await;
    let mut unheard = 0.0;
    for gateway in &scene.gateways {
        let received = gateway.metric("earshot_messages_total", &[]).await;
        unheard += scene.publisher.confirmed() as f64 - received;
    }
    // One or two may be on their way at this moment.
    assert!(unheard > 5.0, "all was received in spite of it: this test shows nothing");
    eprintln!("{unheard} of {} were not received and came from the log", scene.publisher.confirmed());
    scene.nobody_has_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_hung() {
    let _exclusive = exclusive().await;
    let scene = Scene::on(Redis::start().await).await;
    for _ in 0..2 {
        scene.flows().await;
        scene.redis.signal("STOP");
        scene.both_answer_ready_with(503).await;
        scene.redis.signal("CONT");
        scene.both_answer_ready_with(200).await;
    }
    scene.nobody_has_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_a_redis_that_keeps_everything_was_killed() {
    let _exclusive = exclusive().await;
    let mut scene = Scene::on(Redis::start_durable().await).await;
    for _ in 0..SPELLS {
        scene.flows().await;
        scene.redis.kill();
        scene.both_answer_ready_with(503).await;
        scene.redis.restart().await;
    }
    scene.both_answer_ready_with(200).await;
    scene.nobody_has_noticed().await;
}

/// A Redis that keeps nothing dies and comes back.
async fn lose(redis: &mut Redis, gateways: &[Gateway]) {
    redis.kill();
    for gateway in gateways {
        gateway.wait_for_ready_status(503).await;
    }
    redis.restart().await;
}

#[tokio::test]
async fn everybody_is_told_when_redis_lost_the_log_and_hears_what_follows() {
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
    lose(&mut redis, &gateways).await;
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
        assert_eq!(gateway.metric("earshot_gaps_total", &[r#"reason="log-lost""#]).await, 1.0);
    }
    let (after, offset) = append_numbers(&gateways[1], NUMBERS, 6..=7).await;
    assert_eq!(offset, 2, "the log began anew");
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

/// A log that grew beyond where everybody stood, before anybody could look at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_announced_also_when_the_new_one_is_longer_at_once() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateways = [gateway(&redis).await, gateway(&redis).await];
    let mut subscribers = Vec::new();
    for gateway in &gateways {
        // These come before the log is there.
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
        // And these when it is, and both gateways have heard all of it.
        for transport in Transport::ALL {
            subscribers.push((
                Subscriber::connect(gateway.address(), transport).await,
                Ledger::default(),
                transport,
            ));
        }
    }
    let enough = Arc::new(AtomicU64::new(u64::MAX));
    let mut following = JoinSet::new();
    for (mut subscriber, mut ledger, transport) in subscribers {
        let enough = Arc::clone(&enough);
        following.spawn(async move {
            while !ledger.has(enough.load(Ordering::Relaxed)) {
                let received = subscriber.next().await;
                assert!(
                    received == Received::Gap || ledger.gaps > 0,
                    "{transport:?}: {received:?} of another log"
                );
                ledger.record(received);
            }
            (subscriber, ledger, transport)
        });
    }
    let publisher = ApiPublisher::start(gateways.iter().map(Gateway::address).collect(), NUMBERS, 5);
    lose(&mut redis, &gateways).await;
    publisher.allow(u64::MAX / 2);
    until("the new log is longer", async || (publisher.confirmed() > 50).then_some(())).await;
    enough.store(publisher.confirmed() + 100, Ordering::Relaxed);
    while let Some(done) = following.join_next().await {
        let (subscriber, ledger, transport) = done.unwrap();
        let place = format!("{transport:?}, subscribed before the log was there: {}", ledger.first == 1);
        assert_eq!(ledger.gaps, 1, "{place}: told once");
        match subscriber.position() {
            Position::Offset { epoch, .. } => {
                assert_ne!(*epoch, before, "{place}");
                assert_eq!(
                    subscriber.recoveries,
                    [false],
                    "{place}: it must not believe that it has everything"
                );
            }
            Position::Cursor(_) => assert!(subscriber.recoveries.is_empty(), "{place}"),
        }
    }
}
