//! A log outlives deaf spells: whoever listens notices nothing. A log that was lost is announced to everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::api_publisher::ApiPublisher;
use crate::harness::encoding::Encoding;
use crate::harness::logs::{append_numbers, gateway};
use crate::harness::subscriber::{Follower, Heard, Ledger, NUMBERS, Position, Way};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, heavy, until};

/// Deaf spells in one run, and what is published between two.
const SPELLS: usize = 4;
const BETWEEN: u64 = 100;

/// Two gateways on a Redis, followers of every kind on each, and a publisher.
struct Scene {
    redis: Redis,
    gateways: [Gateway; 2],
    publisher: ApiPublisher,
    following: JoinSet<(Way, Ledger, Vec<bool>)>,
    enough: Arc<AtomicU64>,
}

impl Scene {
    async fn on(redis: Redis) -> Self {
        let gateways = [gateway(&redis).await, gateway(&redis).await];
        let enough = Arc::new(AtomicU64::new(u64::MAX));
        let mut following = JoinSet::new();
        for gateway in &gateways {
            for way in Way::ALL {
                let follower = Follower::join(gateway.address(), way).await;
                following.spawn(follow(follower, way, Arc::clone(&enough)));
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
            gateway.answers_ready_with(status).await;
        }
    }

    /// Everybody has heard everything, without a gap, without having been told to subscribe again.
    async fn nobody_has_noticed(mut self) {
        self.flows().await;
        self.enough.store(self.publisher.confirmed() + BETWEEN, Ordering::Relaxed);
        while let Some(done) = self.following.join_next().await {
            let (way, ledger, recoveries) = done.unwrap();
            assert_eq!((ledger.gaps, ledger.missed), (0, 0), "{way:?}");
            assert_eq!(ledger.last, Some(ledger.delivered), "{way:?}: everything from 1 on, once");
            assert!(recoveries.is_empty(), "{way:?}: it was to stay subscribed: {recoveries:?}");
        }
    }
}

async fn follow(mut follower: Follower, way: Way, enough: Arc<AtomicU64>) -> (Way, Ledger, Vec<bool>) {
    let mut ledger = Ledger::from_the_first();
    while !ledger.has(enough.load(Ordering::Relaxed)) {
        ledger.enter(follower.next().await);
    }
    (way, ledger, follower.recoveries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_the_subscriptions_were_cut() {
    let _alone = heavy().await;
    let scene = Scene::on(Redis::start().await).await;
    for _ in 0..SPELLS {
        scene.flows().await;
        scene.both_answer_ready_with(200).await;
        assert_eq!(scene.redis.cut_subscribers().await, 2, "each gateway has its link");
    }
    scene.flows().await;
    scene.both_answer_ready_with(200).await;
    let mut unheard = 0.0;
    for gateway in &scene.gateways {
        let heard = gateway.metric("earshot_messages_total", &[]).await;
        unheard += scene.publisher.confirmed() as f64 - heard;
    }
    // One or two may be on their way at this moment.
    assert!(unheard > 5.0, "all was heard in spite of it: this test shows nothing");
    eprintln!("{unheard} of {} were not heard and came from the log", scene.publisher.confirmed());
    scene.nobody_has_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_hung() {
    let _alone = heavy().await;
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
    let _alone = heavy().await;
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
        gateway.answers_ready_with(503).await;
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
            let mut socket = WsClient::speaking(gateway.address(), encoding).await;
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
        gateway.answers_ready_with(200).await;
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
    let _alone = heavy().await;
    let mut redis = Redis::start().await;
    let gateways = [gateway(&redis).await, gateway(&redis).await];
    let mut followers = Vec::new();
    for gateway in &gateways {
        // These come before the log is there.
        for way in Way::ALL {
            followers.push((Follower::join(gateway.address(), way).await, Ledger::from_the_first(), way));
        }
    }
    let (before, _) = append_numbers(&gateways[0], NUMBERS, 1..=5).await;
    for (follower, ledger, _) in &mut followers {
        while !ledger.has(5) {
            ledger.enter(follower.next().await);
        }
    }
    for gateway in &gateways {
        // And these when it is, and both gateways have heard all of it.
        for way in Way::ALL {
            followers.push((Follower::join(gateway.address(), way).await, Ledger::default(), way));
        }
    }
    let enough = Arc::new(AtomicU64::new(u64::MAX));
    let mut following = JoinSet::new();
    for (mut follower, mut ledger, way) in followers {
        let enough = Arc::clone(&enough);
        following.spawn(async move {
            while !ledger.has(enough.load(Ordering::Relaxed)) {
                let heard = follower.next().await;
                assert!(heard == Heard::Gap || ledger.gaps > 0, "{way:?}: {heard:?} of another log");
                ledger.enter(heard);
            }
            (follower, ledger, way)
        });
    }
    let publisher = ApiPublisher::start(gateways.iter().map(Gateway::address).collect(), NUMBERS, 5);
    lose(&mut redis, &gateways).await;
    publisher.allow(u64::MAX / 2);
    until("the new log is longer", async || (publisher.confirmed() > 50).then_some(())).await;
    enough.store(publisher.confirmed() + 100, Ordering::Relaxed);
    while let Some(done) = following.join_next().await {
        let (follower, ledger, way) = done.unwrap();
        let place = format!("{way:?}, subscribed before the log was there: {}", ledger.first == 1);
        assert_eq!(ledger.gaps, 1, "{place}: told once");
        match follower.position() {
            Position::Offset { epoch, .. } => {
                assert_ne!(*epoch, before, "{place}");
                assert_eq!(
                    follower.recoveries,
                    [false],
                    "{place}: it must not believe that it has everything"
                );
            }
            Position::Cursor(_) => assert!(follower.recoveries.is_empty(), "{place}"),
        }
    }
}
