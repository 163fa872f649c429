//! `deliver = "last"`: a new subscriber receives the last publication once, then what follows.

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
subscribe = "anyone"
replay = "last"
history = { size = 1, ttl = "1s" }

[[namespace]]
name = "plain"
channels = ["plain-*"]
subscribe = "anyone"

[[namespace]]
name = "status"
channels = ["*"]
subscribe = "anyone"
replay = "last"
"#;

async fn start() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

/// Subscribes first and publishes, so that the gateway has received these payloads.
async fn publish(redis: &Redis, gateway: &Gateway, channel: &str, payloads: &[&str]) {
    let mut control = WsClient::open(gateway.address(), &["control"]).await;
    let earlier = subscribe(&mut control, channel).await.1.len();
    assert!(earlier <= 1);
    for payload in payloads {
        redis.publish(channel, payload.as_bytes()).await;
        assert_eq!(control.publication().await.data, *payload);
    }
}

/// The result of a subscribe, and its publications.
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
async fn websocket_receives_the_last_publication_in_its_reply() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = start().await;
        publish(&redis, &gateway, "video:1", &["1", "2", "3"]).await;
        let mut client = WsClient::connect(gateway.address(), encoding).await;
        let (result, last_publications) = subscribe(&mut client, "video:1").await;
        assert_eq!(data(&last_publications), ["3"], "{result}");
        assert_eq!(last_publications[0].offset, 3);
        for number in ["4", "5"] {
            redis.publish("video:1", number.as_bytes()).await;
            assert_eq!(client.publication().await.data, number, "duplicate or out of order");
        }
    }
}

#[tokio::test]
async fn event_stream_receives_the_last_publication_after_subscribed() {
    for (path, name) in [("/sse/video:1", "message"), ("/sse?channel=video:1&channel=video:2", "video:1")] {
        let (redis, gateway) = start().await;
        publish(&redis, &gateway, "video:1", &["1", "2", "3"]).await;
        let mut stream = SseClient::open(gateway.address(), path).await;
        let last_publications = stream.event().await;
        assert_eq!((last_publications.name.as_str(), last_publications.data.as_str()), (name, "3"));
        redis.publish("video:1", b"4").await;
        assert_eq!(stream.data(name).await, "4");

        let (mut again, _) = SseClient::resume(gateway.address(), path, &last_publications.id).await;
        assert_eq!(again.data(name).await, "4", "the last publication is not repeated after a reconnect");
        redis.publish("video:1", b"5").await;
        assert_eq!(again.data(name).await, "5");
        assert_eq!(stream.data(name).await, "5");
    }
}

#[tokio::test]
async fn every_channel_of_a_stream_begins_with_its_last_publication() {
    let (redis, gateway) = start().await;
    publish(&redis, &gateway, "a", &["1", "2"]).await;
    publish(&redis, &gateway, "b", &["3"]).await;
    publish(&redis, &gateway, "plain-1", &["4"]).await;
    let path = "/sse?channel=a&channel=nothing&channel=plain-1&channel=b";
    let mut stream = SseClient::open(gateway.address(), path).await;
    let mut events = [stream.event().await, stream.event().await].map(|event| (event.name, event.data));
    events.sort();
    assert_eq!(events, [("a", "2"), ("b", "3")].map(|(name, data)| (name.to_owned(), data.to_owned())));
    redis.publish("plain-1", b"5").await;
    assert_eq!(stream.data("plain-1").await, "5", "no other event precedes it");
}

#[tokio::test]
async fn channel_without_publications_begins_empty() {
    let (redis, gateway) = start().await;
    let mut client = WsClient::open(gateway.address(), &["control"]).await;
    let (_, last_publications) = subscribe(&mut client, "silent").await;
    assert_eq!(data(&last_publications), [] as [&str; 0]);
    let mut stream = SseClient::open(gateway.address(), "/sse/silent").await;
    redis.publish("silent", b"1").await;
    assert_eq!(client.publication().await.data, "1");
    assert_eq!(stream.data("message").await, "1");
}

#[tokio::test]
async fn other_namespaces_begin_empty() {
    let (redis, gateway) = start().await;
    publish(&redis, &gateway, "plain-1", &["1"]).await;
    let mut client = WsClient::open(gateway.address(), &["control"]).await;
    let (_, last_publications) = subscribe(&mut client, "plain-1").await;
    assert_eq!(data(&last_publications), [] as [&str; 0]);
    let mut stream = SseClient::open(gateway.address(), "/sse/plain-1").await;
    redis.publish("plain-1", b"2").await;
    assert_eq!(stream.data("message").await, "2");
}

#[tokio::test]
async fn reconnecting_client_ends_with_the_last_publication() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = start().await;
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
        let last_publications = publications("video:1", &reply["subscribe"]);
        assert_eq!(
            data(&last_publications),
            ["3"],
            "an unknown position also receives the last publication: {reply}"
        );
        redis.publish("video:1", b"4").await;
        assert_eq!(client.publication().await.data, "4");
    }
}

#[tokio::test]
async fn connect_subscriptions_begin_with_the_last_publication() {
    for encoding in Encoding::BOTH {
        let (redis, gateway) = start().await;
        publish(&redis, &gateway, "video:1", &["1", "2"]).await;
        let mut client = WsClient::handshake_only(gateway.address(), encoding).await;
        let reply = client.request("connect", json!({"subs": {"video:1": {}}})).await;
        let last_publications = publications("video:1", &reply["connect"]["subs"]["video:1"]);
        assert_eq!(data(&last_publications), ["2"], "{reply}");
        redis.publish("video:1", b"3").await;
        assert_eq!(client.publication().await.data, "3");
    }
}

#[tokio::test]
async fn last_publication_expires() {
    let (redis, gateway) = start().await;
    let before = Instant::now();
    publish(&redis, &gateway, "brief-1", &["1"]).await;
    let mut client = WsClient::open(gateway.address(), &["control"]).await;
    let (_, last_publications) = subscribe(&mut client, "brief-1").await;
    if before.elapsed() < Duration::from_millis(900) {
        assert_eq!(data(&last_publications), ["1"]);
    }
    until("the last publication has expired", async || {
        let mut late = WsClient::open(gateway.address(), &["control"]).await;
        subscribe(&mut late, "brief-1").await.1.is_empty().then_some(())
    })
    .await;
    assert!(before.elapsed() >= Duration::from_secs(1), "it expired too early");
    let mut stream = SseClient::open(gateway.address(), "/sse/brief-1").await;
    redis.publish("brief-1", b"2").await;
    assert_eq!(stream.data("message").await, "2", "the expired publication is not delivered to a stream");
}

#[tokio::test]
async fn last_publication_is_updated_without_subscribers() {
    let (redis, gateway) = start().await;
    publish(&redis, &gateway, "video:1", &["1"]).await;
    until("no client is connected", async || {
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
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_during_publications_misses_none() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    // Subscribe before the first publication, so that every client finds a last publication.
    let _first = WsClient::open(gateway.address(), &[NUMBERS]).await;
    let progress: Arc<[AtomicU64]> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let load = Load { channels: &[NUMBERS], batch: 16, padding: 0, max_lead: 500 };
    let publisher = Publisher::start(&redis, load, Arc::clone(&progress));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, progress) = (gateway.address(), Arc::clone(&progress));
        clients.spawn(async move {
            for _ in 0..ROUNDS {
                match client % 2 {
                    0 => through_a_socket(address, &progress[client]).await,
                    _ => through_a_stream(address, &progress[client]).await,
                }
            }
            // The publisher does not wait for clients that are done.
            progress[client].store(u64::MAX, Ordering::Relaxed);
        });
    }
    clients.join_all().await;
    drop(publisher);
}

/// Publications that a client receives after the last one before it disconnects.
const FOLLOWING: u64 = 50;

async fn through_a_socket(address: SocketAddr, progress: &AtomicU64) {
    let mut client = WsClient::connect(address, Encoding::Json).await;
    let (result, last_publications) = subscribe(&mut client, NUMBERS).await;
    assert!(client.pending_pushes().is_empty(), "received before the reply: {:?}", client.pending_pushes());
    assert!(last_publications.len() <= 1, "{result}");
    let mut last =
        last_publications.first().map(|publication| (number(&publication.data), publication.offset));
    for _ in 0..FOLLOWING {
        progress.store(last.map_or(0, |(number, _)| number), Ordering::Relaxed);
        let publication = client.publication().await;
        let next = (number(&publication.data), publication.offset);
        if let Some((number, offset)) = last {
            assert_eq!(next, (number + 1, offset + 1));
        }
        last = Some(next);
    }
}

async fn through_a_stream(address: SocketAddr, progress: &AtomicU64) {
    let mut stream = SseClient::open(address, &format!("/sse/{NUMBERS}")).await;
    let mut last = number(&stream.data("message").await);
    for _ in 0..FOLLOWING {
        progress.store(last, Ordering::Relaxed);
        let next = number(&stream.data("message").await);
        assert_eq!(next, last + 1);
        last = next;
    }
}
