//! `replay = "last"`: whoever opens the page gets the newest publication at once, once, then what follows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::encoding::Encoding;
use crate::harness::publisher::{Load, Publisher};
use crate::harness::subscriber::{NUMBERS, number};
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

const CONFIG: &str = r#"
[[namespace]]
name = "brief"
channels = ["brief-*"]
replay = "last"
history = { size = 1, ttl = "1s" }

[[namespace]]
name = "plain"
channels = ["plain-*"]

[[namespace]]
name = "status"
channels = ["*"]
replay = "last"
"#;

async fn scene() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

/// Somebody was on the channel before, and heard these.
async fn publish(redis: &Redis, gateway: &Gateway, channel: &str, payloads: &[&str]) {
    let mut witness = WsClient::open(gateway.address(), &["witness"]).await;
    let earlier = subscribe(&mut witness, channel).await.1.len();
    assert!(earlier <= 1);
    for payload in payloads {
        redis.publish(channel, payload.as_bytes()).await;
        assert_eq!(witness.publication().await.data, *payload);
    }
}

/// The result of a subscribe, and the publications in it.
async fn subscribe(client: &mut WsClient, channel: &str) -> (Value, Vec<Publication>) {
    let reply = client.request("subscribe", json!({ "channel": channel })).await;
    let result = reply["subscribe"].clone();
    assert!(result.is_object(), "{reply}");
    (result.clone(), publications(channel, &result))
}

fn publications(channel: &str, result: &Value) -> Vec<Publication> {
    let all = result["publications"].as_array().into_iter().flatten();
    all.map(|publication| Publication::read(channel.to_owned(), publication)).collect()
}

fn data(publications: &[Publication]) -> Vec<&str> {
    publications.iter().map(|publication| publication.data.as_str()).collect()
}

#[tokio::test]
async fn a_socket_gets_the_newest_in_the_reply_and_then_what_follows() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = scene().await;
        publish(&redis, &gateway, "video:1", &["1", "2", "3"]).await;
        let mut client = WsClient::connect(gateway.address(), encoding).await;
        let (result, newest) = subscribe(&mut client, "video:1").await;
        assert_eq!(data(&newest), ["3"], "{result}");
        assert_eq!(newest[0].offset, 3);
        for number in ["4", "5"] {
            redis.publish("video:1", number.as_bytes()).await;
            assert_eq!(client.publication().await.data, number, "once, and in order");
        }
    }
}

#[tokio::test]
async fn a_stream_gets_the_newest_after_subscribed_and_then_what_follows() {
    for (path, name) in [("/sse/video:1", "message"), ("/sse?channel=video:1&channel=video:2", "video:1")] {
        let (redis, gateway) = scene().await;
        publish(&redis, &gateway, "video:1", &["1", "2", "3"]).await;
        let mut stream = SseClient::open(gateway.address(), path).await;
        let newest = stream.event().await;
        assert_eq!((newest.name.as_str(), newest.data.as_str()), (name, "3"));
        redis.publish("video:1", b"4").await;
        assert_eq!(stream.data(name).await, "4");

        let (mut again, _) = SseClient::resume(gateway.address(), path, &newest.id).await;
        assert_eq!(again.data(name).await, "4", "who has the newest is not given it again");
        redis.publish("video:1", b"5").await;
        assert_eq!(again.data(name).await, "5");
        assert_eq!(stream.data(name).await, "5");
    }
}

#[tokio::test]
async fn every_channel_of_a_stream_begins_with_its_newest() {
    let (redis, gateway) = scene().await;
    publish(&redis, &gateway, "a", &["1", "2"]).await;
    publish(&redis, &gateway, "b", &["3"]).await;
    publish(&redis, &gateway, "plain-1", &["4"]).await;
    let path = "/sse?channel=a&channel=nothing&channel=plain-1&channel=b";
    let mut stream = SseClient::open(gateway.address(), path).await;
    let mut got = [stream.event().await, stream.event().await].map(|event| (event.name, event.data));
    got.sort();
    assert_eq!(got, [("a", "2"), ("b", "3")].map(|(name, data)| (name.to_owned(), data.to_owned())));
    redis.publish("plain-1", b"5").await;
    assert_eq!(stream.data("plain-1").await, "5", "nothing else came before it");
}

#[tokio::test]
async fn where_nothing_was_said_yet_there_is_nothing_to_begin_with() {
    let (redis, gateway) = scene().await;
    let mut client = WsClient::open(gateway.address(), &["witness"]).await;
    let (_, newest) = subscribe(&mut client, "silent").await;
    assert_eq!(data(&newest), [] as [&str; 0]);
    let mut stream = SseClient::open(gateway.address(), "/sse/silent").await;
    redis.publish("silent", b"1").await;
    assert_eq!(client.publication().await.data, "1");
    assert_eq!(stream.data("message").await, "1");
}

#[tokio::test]
async fn other_namespaces_begin_with_nothing() {
    let (redis, gateway) = scene().await;
    publish(&redis, &gateway, "plain-1", &["1"]).await;
    let mut client = WsClient::open(gateway.address(), &["witness"]).await;
    let (_, newest) = subscribe(&mut client, "plain-1").await;
    assert_eq!(data(&newest), [] as [&str; 0]);
    let mut stream = SseClient::open(gateway.address(), "/sse/plain-1").await;
    redis.publish("plain-1", b"2").await;
    assert_eq!(stream.data("message").await, "2");
}

#[tokio::test]
async fn who_comes_back_gets_what_follows_its_place_and_ends_with_the_newest() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = scene().await;
        publish(&redis, &gateway, "video:1", &["1", "2", "3"]).await;
        let mut client = WsClient::connect(gateway.address(), encoding).await;
        for (offset, expected) in [(3, vec![]), (2, vec!["3"])] {
            let request = json!({"channel": "video:1", "recover": true, "offset": offset});
            let reply = client.request("subscribe", request).await;
            let result = &reply["subscribe"];
            assert_eq!(data(&publications("video:1", result)), expected, "from {offset}: {reply}");
            client.request("unsubscribe", json!({"channel": "video:1"})).await;
        }
        let request = json!({"channel": "video:1", "recover": true, "offset": 3, "epoch": "another"});
        let reply = client.request("subscribe", request).await;
        let newest = publications("video:1", &reply["subscribe"]);
        assert_eq!(data(&newest), ["3"], "whoever stood elsewhere needs the newest, too: {reply}");
        redis.publish("video:1", b"4").await;
        assert_eq!(client.publication().await.data, "4");
    }
}

#[tokio::test]
async fn the_subscriptions_of_a_connect_command_begin_with_the_newest() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = scene().await;
        publish(&redis, &gateway, "video:1", &["1", "2"]).await;
        let mut client = WsClient::handshake_only(gateway.address(), encoding).await;
        let reply = client.request("connect", json!({"subs": {"video:1": {}}})).await;
        let newest = publications("video:1", &reply["connect"]["subs"]["video:1"]);
        assert_eq!(data(&newest), ["2"], "{reply}");
        redis.publish("video:1", b"3").await;
        assert_eq!(client.publication().await.data, "3");
    }
}

#[tokio::test]
async fn the_newest_is_given_within_its_time_and_not_after_it() {
    let (redis, gateway) = scene().await;
    let before = Instant::now();
    publish(&redis, &gateway, "brief-1", &["1"]).await;
    let mut client = WsClient::open(gateway.address(), &["witness"]).await;
    let (_, newest) = subscribe(&mut client, "brief-1").await;
    if before.elapsed() < Duration::from_millis(900) {
        assert_eq!(data(&newest), ["1"]);
    }
    until("the newest is too old", async || {
        let mut late = WsClient::open(gateway.address(), &["witness"]).await;
        subscribe(&mut late, "brief-1").await.1.is_empty().then_some(())
    })
    .await;
    assert!(before.elapsed() >= Duration::from_secs(1), "it was given up too early");
    let mut stream = SseClient::open(gateway.address(), "/sse/brief-1").await;
    redis.publish("brief-1", b"2").await;
    assert_eq!(stream.data("message").await, "2", "what is too old does not come over a stream either");
}

#[tokio::test]
async fn a_page_that_opens_when_all_others_have_gone_gets_the_newest() {
    let (redis, gateway) = scene().await;
    publish(&redis, &gateway, "video:1", &["1"]).await;
    until("nobody is there", async || {
        (gateway.metric("earshot_connections", &[]).await == 0.0).then_some(())
    })
    .await;
    redis.publish("video:1", b"2").await;
    until("the gateway has received it", async || {
        let mut stream = SseClient::open(gateway.address(), "/sse/video:1").await;
        (stream.data("message").await == "2").then_some(())
    })
    .await;
}

const CLIENTS: usize = 40;
const TIMES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_a_publisher_runs_begins_with_one_and_misses_none_after_it() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = scene().await;
    // The channel is heard before the first publication: those who come find a newest one, however late they are.
    let _first = WsClient::open(gateway.address(), &[NUMBERS]).await;
    let marks: Arc<[AtomicU64]> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let pace = Load { channels: &[NUMBERS], batch: 16, padding: 0, max_lead: 500 };
    let publisher = Publisher::start(&redis, pace, Arc::clone(&marks));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, marks) = (gateway.address(), Arc::clone(&marks));
        clients.spawn(async move {
            for _ in 0..TIMES {
                match client % 2 {
                    0 => through_a_socket(address, &marks[client]).await,
                    _ => through_a_stream(address, &marks[client]).await,
                }
            }
            // Nobody waits for those who are done.
            marks[client].store(u64::MAX, Ordering::Relaxed);
        });
    }
    clients.join_all().await;
    drop(publisher);
}

/// How many follow the newest before a client leaves.
const FOLLOWING: u64 = 50;

async fn through_a_socket(address: SocketAddr, mark: &AtomicU64) {
    let mut client = WsClient::connect(address, Encoding::Json).await;
    let (result, newest) = subscribe(&mut client, NUMBERS).await;
    assert!(client.pending_pushes().is_empty(), "before the reply: {:?}", client.pending_pushes());
    assert!(newest.len() <= 1, "{result}");
    let mut last = newest.first().map(|publication| (number(&publication.data), publication.offset));
    for _ in 0..FOLLOWING {
        mark.store(last.map_or(0, |(number, _)| number), Ordering::Relaxed);
        let publication = client.publication().await;
        let next = (number(&publication.data), publication.offset);
        if let Some((number, offset)) = last {
            assert_eq!(next, (number + 1, offset + 1));
        }
        last = Some(next);
    }
}

async fn through_a_stream(address: SocketAddr, mark: &AtomicU64) {
    let mut stream = SseClient::open(address, &format!("/sse/{NUMBERS}")).await;
    let mut last = number(&stream.data("message").await);
    for _ in 0..FOLLOWING {
        mark.store(last, Ordering::Relaxed);
        let next = number(&stream.data("message").await);
        assert_eq!(next, last + 1);
        last = next;
    }
}
