//! While a Redis link is down, messages may be lost: each client receives gap notices and can account for every number.

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
const CLIENTS_EACH: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_and_missing_messages_add_up_to_published_messages() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let stop_at = Arc::new(AtomicU64::new(u64::MAX));
    let mut subscribers = JoinSet::new();
    for transport in [Transport::ALL; CLIENTS_EACH].concat() {
        let subscriber = Subscriber::connect(gateway.address(), transport).await;
        subscribers.spawn(follow(subscriber, transport, Arc::clone(&stop_at)));
    }
    let publisher = Publisher::steady(&redis, &[NUMBERS, "other"]);
    for _ in 0..OUTAGES {
        let sent = publisher.sent();
        until("messages are flowing", async || (publisher.sent() > sent + 100).then_some(())).await;
        outage(&mut redis, &gateway).await;
    }
    stop_at.store(publisher.sent() + 100, Ordering::Relaxed);
    while let Some(done) = subscribers.join_next().await {
        let (transport, ledger, recoveries) = done.unwrap();
        let last = ledger.last.unwrap();
        eprintln!(
            "{transport:?}: {last} published, {} delivered, {} missing",
            ledger.delivered, ledger.missed
        );
        assert_eq!(ledger.first + ledger.delivered + ledger.missed - 1, last, "{transport:?}");
        assert!(ledger.missed > 0, "{transport:?}: nothing was lost: the test is void");
        assert!(ledger.gaps >= OUTAGES, "{transport:?}: {OUTAGES} outages, {} gap notices", ledger.gaps);
        assert!(
            !recoveries.contains(&true),
            "{transport:?}: messages that the gateway did not receive cannot be recovered"
        );
    }
}

async fn follow(
    mut subscriber: Subscriber,
    transport: Transport,
    stop_at: Arc<AtomicU64>,
) -> (Transport, Ledger, Vec<bool>) {
    let mut ledger = Ledger::default();
    while !ledger.has(stop_at.load(Ordering::Relaxed)) {
        ledger.record(subscriber.next().await);
    }
    (transport, ledger, subscriber.recoveries)
}

/// Restarts Redis and waits until the gateway has noticed.
async fn outage(redis: &mut Redis, gateway: &Gateway) {
    redis.kill();
    gateway.wait_for_ready_status(503).await;
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn outage_changes_the_epoch_and_prevents_recovery() {
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
async fn client_with_connect_subscriptions_is_disconnected_with_3010() {
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
async fn channel_without_history_continues_with_a_gap_event() {
    let mut redis = Redis::start().await;
    let config =
        "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nhistory = { size = 0 }\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut events = SseClient::open(gateway.address(), "/sse/news").await;
    let mut subscriber = WsClient::open(gateway.address(), &["news"]).await;
    outage(&mut redis, &gateway).await;
    redis.publish("news", b"1").await;
    assert!(events.data("gap").await.contains(r#""news""#));
    assert_eq!(events.data("message").await, "1");
    // Such a subscription may be ended with 2500, but it must not stay silent.
    match subscriber.next().await {
        Incoming::Publication(publication) => assert_eq!(publication.data, "1"),
        Incoming::Push(push) => assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn id_of_a_gap_event_resumes_but_earlier_ids_do_not() {
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
        assert_eq!(resumed.data(name).await, "2", "nothing is lost between the gap and the reconnect");

        let (mut lost, subscribed) = SseClient::resume(gateway.address(), path, &before.id).await;
        assert!(subscribed.data.contains(r#""news":{"recovered":false}"#), "{subscribed:?}");
        assert_eq!(lost.event().await.name, "gap");
    }
}

/// More at once than the shard queue holds, to more clients than the shard can serve at that rate.
const BURST: u64 = 9500;
const BURSTS_MAX: u64 = 20;
const BURST_CLIENTS: usize = 200;
const SMALL_QUEUE: &str = r#"
[gateway]
shards = 1

[limits]
shard_queue_items = 16
client_queue_bytes = "64MiB"
recovery_publications = 10000

[[namespace]]
name = "all"
channels = ["*"]
subscribe = "anyone"
history = { size = 10000, bytes = "16MiB" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_recovers_from_a_full_shard_queue() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(SMALL_QUEUE).redis(&redis).start().await;
    let mut clients = JoinSet::new();
    for _ in 0..BURST_CLIENTS {
        clients.spawn(read_and_discard(gateway.address()));
    }
    until("all clients are connected", async || {
        let there = gateway.metric("earshot_connections", &[r#"transport="sse""#]).await;
        (there >= BURST_CLIENTS as f64).then_some(())
    })
    .await;
    let mut subscribers = Vec::new();
    for encoding in Encoding::BOTH {
        let subscriber = Subscriber::connect(gateway.address(), Transport::WebSocket(encoding)).await;
        subscribers.push((subscriber, Ledger::from_start()));
    }
    let mut bursts = 0;
    while bursts < 3 || gateway.metric("earshot_gaps_total", &[r#"reason="queue-full""#]).await == 0.0 {
        bursts += 1;
        assert!(bursts < BURSTS_MAX, "the queue was never full: the test is void");
        let numbers = BURST * (bursts - 1) + 1..=BURST * bursts;
        redis.publish_all(numbers.map(|number| (NUMBERS, payload(number)))).await;
        let mut following = JoinSet::new();
        for (mut subscriber, mut ledger) in subscribers {
            following.spawn(async move {
                while !ledger.has(BURST * bursts) {
                    ledger.record(subscriber.next().await);
                }
                (subscriber, ledger)
            });
        }
        subscribers = following.join_all().await;
    }
    for (subscriber, ledger) in subscribers {
        assert!(!subscriber.recoveries.is_empty(), "no gap notice: {ledger:?}");
        assert!(!subscriber.recoveries.contains(&false), "the history was too short: {ledger:?}");
        assert_eq!((ledger.missed, ledger.delivered), (0, BURST * bursts), "{ledger:?}");
    }
}

/// A payload of 400 bytes, so that the clients keep the gateway busy.
fn payload(number: u64) -> String {
    format!(r#"{{"number":{number},"fill":"{}"}}"#, "x".repeat(375))
}

/// Reads a stream and discards its data.
async fn read_and_discard(address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET /sse/{NUMBERS} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    while raw.fill().await.is_ok_and(|more| more) {
        raw.take(raw.buffered().len());
    }
}
