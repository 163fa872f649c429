//! While the gateway could not hear, messages may be lost: each client is told, and can account for every number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::publisher::Publisher;
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

const OUTAGES: usize = 3;
const EACH: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_and_what_was_announced_as_missing_make_up_what_was_published() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let enough = Arc::new(AtomicU64::new(u64::MAX));
    let mut subscribers = JoinSet::new();
    for transport in [Transport::ALL; EACH].concat() {
        let subscriber = Subscriber::connect(gateway.address(), transport).await;
        subscribers.spawn(follow(subscriber, transport, Arc::clone(&enough)));
    }
    let publisher = Publisher::steady(&redis, &[NUMBERS, "other"]);
    for _ in 0..OUTAGES {
        let sent = publisher.sent();
        until("the load flows", async || (publisher.sent() > sent + 100).then_some(())).await;
        outage(&mut redis, &gateway).await;
    }
    enough.store(publisher.sent() + 100, Ordering::Relaxed);
    while let Some(done) = subscribers.join_next().await {
        let (transport, ledger, recoveries) = done.unwrap();
        let last = ledger.last.unwrap();
        eprintln!(
            "{transport:?}: {last} published, {} delivered, {} announced",
            ledger.delivered, ledger.missed
        );
        assert_eq!(ledger.first + ledger.delivered + ledger.missed - 1, last, "{transport:?}");
        assert!(ledger.missed > 0, "{transport:?}: nothing was lost: this test shows nothing");
        assert!(ledger.gaps >= OUTAGES, "{transport:?}: {OUTAGES} outages, {} gaps told", ledger.gaps);
        assert!(
            !recoveries.contains(&true),
            "{transport:?}: nobody can recover what the gateway did not hear"
        );
    }
}

async fn follow(
    mut subscriber: Subscriber,
    transport: Transport,
    enough: Arc<AtomicU64>,
) -> (Transport, Ledger, Vec<bool>) {
    let mut ledger = Ledger::default();
    while !ledger.has(enough.load(Ordering::Relaxed)) {
        ledger.record(subscriber.next().await);
    }
    (transport, ledger, subscriber.recoveries)
}

/// Redis dies and comes back, and the gateway knows of both.
async fn outage(redis: &mut Redis, gateway: &Gateway) {
    redis.kill();
    gateway.wait_for_ready_status(503).await;
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn after_a_deaf_spell_a_channel_has_another_epoch_and_the_old_one_cannot_be_recovered() {
    for encoding in Encoding::BOTH {
        let mut redis = Redis::start().await;
        let gateway = Gateway::on(&redis).await;
        let mut client = WsClient::connect(gateway.address(), encoding).await;
        let before = client.request("subscribe", json!({"channel": "news"})).await["subscribe"].clone();
        redis.publish("news", b"1").await;
        assert_eq!(client.publication().await.data, "1");

        outage(&mut redis, &gateway).await;
        let Incoming::Push(push) = client.next().await else { panic!("{encoding:?}: not a push") };
        assert_eq!(push["push"]["channel"], "news", "{push}");
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
        assert!(push["push"]["unsubscribe"]["reason"].is_string(), "{push}");

        let request = json!({"channel": "news", "recover": true, "epoch": before["epoch"], "offset": 1});
        let after = client.request("subscribe", request).await["subscribe"].clone();
        assert_ne!(after["epoch"], before["epoch"], "{after}");
        assert_eq!((&after["was_recovering"], after["recovered"] == true), (&json!(true), false), "{after}");
        redis.publish("news", b"2").await;
        assert_eq!(client.publication().await.data, "2");
    }
}

#[tokio::test]
async fn a_subscription_of_the_connect_command_is_disconnected_with_3010() {
    for encoding in Encoding::BOTH {
        let mut redis = Redis::start().await;
        let gateway = Gateway::on(&redis).await;
        let mut client = WsClient::handshake_only(gateway.address(), encoding).await;
        let reply = client.request("connect", json!({"subs": {"news": {}}})).await;
        assert_eq!(reply["connect"]["subs"]["news"]["recoverable"], true, "{reply}");
        outage(&mut redis, &gateway).await;
        match client.next().await {
            Incoming::Closed(Some((3010, reason))) => assert!(!reason.is_empty()),
            other => panic!("{encoding:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_channel_without_history_is_heard_again_and_its_streams_are_told() {
    let mut redis = Redis::start().await;
    let config = "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nhistory = { size = 0 }\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut events = SseClient::open(gateway.address(), "/sse/news").await;
    let mut subscriber = WsClient::open(gateway.address(), &["news"]).await;
    outage(&mut redis, &gateway).await;
    redis.publish("news", b"1").await;
    assert!(events.data("gap").await.contains(r#""news""#));
    assert_eq!(events.data("message").await, "1");
    // Whether such a socket is told as well is the gateway's to say; deaf it must not be.
    match subscriber.next().await {
        Incoming::Publication(publication) => assert_eq!(publication.data, "1"),
        Incoming::Push(push) => assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_id_of_a_gap_event_resumes_and_an_id_from_before_it_does_not() {
    for path in ["/sse/news", "/sse?channel=other&channel=news"] {
        let name = if path == "/sse/news" { "message" } else { "news" };
        let mut redis = Redis::start().await;
        let gateway = Gateway::on(&redis).await;
        let (mut stream, _) = SseClient::connect(gateway.address(), path).await;
        redis.publish("news", b"1").await;
        let before = stream.event().await;
        assert_eq!(before.data, "1");
        outage(&mut redis, &gateway).await;
        let mut gaps = Vec::new();
        let mut after = String::new();
        for _ in 0..if name == "message" { 1 } else { 2 } {
            let gap = stream.event().await;
            assert_eq!(gap.name, "gap", "{gap:?}");
            gaps.push(serde_json::from_str::<serde_json::Value>(&gap.data).unwrap()["channel"].clone());
            after = gap.id;
        }
        assert!(gaps.contains(&json!("news")), "{gaps:?}");
        drop(stream);

        redis.publish("news", b"2").await;
        let (mut resumed, subscribed) = SseClient::resume(gateway.address(), path, &after).await;
        assert!(subscribed.data.contains(r#""news":{"recovered":true}"#), "{subscribed:?}");
        assert_eq!(resumed.data(name).await, "2", "nothing is lost between the gap and the return");

        let (mut lost, subscribed) = SseClient::resume(gateway.address(), path, &before.id).await;
        assert!(subscribed.data.contains(r#""news":{"recovered":false}"#), "{subscribed:?}");
        assert_eq!(lost.event().await.name, "gap");
    }
}

/// More at once than the way to the shard holds, to more clients than it can serve at that rate.
const FLOOD: u64 = 9500;
const FLOODS_MAX: u64 = 20;
const CROWD: usize = 100;
const NARROW: &str = r#"
[gateway]
shards = 1

[limits]
shard_queue_items = 16
client_queue_bytes = "64MiB"
recovery_publications = 10000

[[namespace]]
name = "all"
channels = ["*"]
history = { size = 10000, bytes = "16MiB" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflow_inside_the_gateway_costs_a_socket_nothing_while_the_ring_suffices() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(NARROW).redis(&redis).start().await;
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        crowd.spawn(read_on(gateway.address()));
    }
    until("the crowd is there", async || {
        let there = gateway.metric("earshot_connections", &[r#"transport="sse""#]).await;
        (there >= CROWD as f64).then_some(())
    })
    .await;
    let mut subscribers = Vec::new();
    for encoding in Encoding::BOTH {
        let subscriber = Subscriber::connect(gateway.address(), Transport::WebSocket(encoding)).await;
        subscribers.push((subscriber, Ledger::from_start()));
    }
    let mut flood = 0;
    while flood < 3 || gateway.metric("earshot_gaps_total", &[r#"reason="queue-full""#]).await == 0.0 {
        flood += 1;
        assert!(flood < FLOODS_MAX, "the queue was never full: this test shows nothing");
        let numbers = FLOOD * (flood - 1) + 1..=FLOOD * flood;
        redis.publish_all(numbers.map(|number| (NUMBERS, payload(number)))).await;
        let mut following = JoinSet::new();
        for (mut subscriber, mut ledger) in subscribers {
            following.spawn(async move {
                while !ledger.has(FLOOD * flood) {
                    ledger.record(subscriber.next().await);
                }
                (subscriber, ledger)
            });
        }
        subscribers = following.join_all().await;
    }
    for (subscriber, ledger) in subscribers {
        assert!(!subscriber.recoveries.is_empty(), "it was told: {ledger:?}");
        assert!(!subscriber.recoveries.contains(&false), "the ring sufficed every time: {ledger:?}");
        assert_eq!((ledger.missed, ledger.delivered), (0, FLOOD * flood), "{ledger:?}");
    }
}

/// Of 400 bytes, so that the crowd keeps the gateway busy.
fn payload(number: u64) -> String {
    format!(r#"{{"number":{number},"fill":"{}"}}"#, "x".repeat(375))
}

/// Reads a stream and throws it away.
async fn read_on(address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET /sse/{NUMBERS} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    while raw.fill().await.is_ok_and(|more| more) {
        raw.take(raw.buffered().len());
    }
}
