//! The cursor of an event stream allows a reconnect for any channel names and up to the maximum number of channels.

use serde_json::{Value, json};

use crate::harness::http::Raw;
use crate::harness::sse::Event;
use crate::harness::{Gateway, Redis, SseClient, http};

/// Two names with the same 32-bit FNV-1a hash.
const COLLIDING: [&str; 2] = ["costarring", "liquid"];

/// The path and query of a stream of these channels.
fn query(channels: impl IntoIterator<Item = String>) -> String {
    let pairs: Vec<String> = channels.into_iter().map(|channel| format!("channel={channel}")).collect();
    format!("/sse?{}", pairs.join("&"))
}

/// The default maximum of channels, with names of 40 bytes.
fn long_names() -> Vec<String> {
    (0..128).map(|number| format!("{number:0>40}")).collect()
}

/// Whether each channel was recovered.
fn recovered(subscribed: &Event) -> Value {
    let data: Value = serde_json::from_str(&subscribed.data).unwrap();
    let states = data["channels"].as_object().unwrap().iter();
    states.map(|(name, state)| (name.clone(), state["recovered"].clone())).collect()
}

#[tokio::test]
async fn channels_with_colliding_name_hashes_are_recovered() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let path = query(COLLIDING.map(str::to_owned));
    let (mut stream, _) = SseClient::connect(gateway.address(), &path).await;
    let mut id = String::new();
    for name in COLLIDING {
        redis.publish(name, b"1").await;
        let event = stream.event().await;
        assert_eq!((event.name.as_str(), event.data.as_str()), (name, "1"));
        id = event.id;
    }
    drop(stream);
    for name in COLLIDING {
        redis.publish(name, b"2").await;
    }
    let (mut stream, subscribed) = SseClient::resume(gateway.address(), &path, &id).await;
    assert_eq!(recovered(&subscribed), json!({"costarring": true, "liquid": true}));
    let mut missed = [stream.event().await, stream.event().await].map(|event| (event.name, event.data));
    missed.sort();
    assert_eq!(missed, COLLIDING.map(|name| (name.to_owned(), "2".to_owned())));

    // A cursor of the other channel is not accepted.
    let (_, subscribed) = SseClient::connect(gateway.address(), "/sse/liquid").await;
    let (_, other) = SseClient::resume(gateway.address(), "/sse/costarring", &subscribed.id).await;
    assert_eq!(recovered(&other), json!({"costarring": false}));
}

#[tokio::test]
async fn stream_with_the_maximum_of_channels_recovers() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let path = query(long_names());
    let name = &long_names()[77];
    let (mut stream, _) = SseClient::connect(gateway.address(), &path).await;
    redis.publish(name, b"1").await;
    let id = stream.event().await.id;
    assert!(id.len() < 16 * 128, "{} bytes of id per event", id.len());
    drop(stream);
    redis.publish(name, b"2").await;
    let (mut stream, subscribed) = SseClient::resume(gateway.address(), &path, &id).await;
    let states = recovered(&subscribed);
    assert!(states.as_object().unwrap().values().all(|recovered| recovered == true), "{states}");
    assert_eq!(stream.data(name).await, "2");
    // A page that reopens the stream itself and an `EventSource` that reconnects later: both ids are sent.
    let reopened = format!("{path}&last_event_id={id}");
    let (mut stream, _) = SseClient::connect(gateway.address(), &reopened).await;
    let event = stream.event().await;
    assert_eq!((&event.name, event.data.as_str()), (name, "2"));
    redis.publish(name, b"3").await;
    assert_eq!(stream.data(name).await, "3");
    let (mut stream, _) = SseClient::resume(gateway.address(), &reopened, &event.id).await;
    assert_eq!(stream.data(name).await, "3");
}

#[tokio::test]
async fn stream_whose_cursor_would_exceed_the_header_limit_is_rejected() {
    let gateway = Gateway::settings().config("[limits]\nrequest_header_bytes = \"8KiB\"\n").start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", query(long_names()))).await;
    let mut rejected = raw.head().await.unwrap();
    assert_eq!(rejected.status, 400);
    let length = rejected.header("content-length").unwrap().parse().unwrap();
    rejected.body = raw.exactly(length).await.unwrap();
    let text = rejected.text();
    for part in ["128 channels", "Last-Event-ID", "limits.request_header_bytes", "8192"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    // With fewer channels, the stream and its reconnect are accepted.
    let path = query(long_names().into_iter().take(40));
    let (_, subscribed) = SseClient::connect(gateway.address(), &path).await;
    SseClient::resume(gateway.address(), &path, &subscribed.id).await;
}

#[tokio::test]
async fn duplicate_channels_count_once() {
    let gateway = Gateway::start().await;
    let names = (0..129).map(|number| ["a", "b", "c"][number % 3].to_owned());
    let mut stream = SseClient::open(gateway.address(), &query(names)).await;
    for (channel, data) in [("a", "1"), ("b", "2"), ("c", "3")] {
        gateway.publish(channel, data).await;
        assert_eq!(stream.data(channel).await, data);
    }
    let distinct = query((0..129).map(|number| number.to_string()));
    let rejected = http::fetch(gateway.address(), &distinct).await;
    assert_eq!((rejected.status, rejected.text().contains("128")), (400, true), "{rejected:?}");
}

/// hyper serves later requests of a connection: the limit and the response are the same.
#[tokio::test]
async fn cursor_limit_is_the_same_on_a_keep_alive_connection() {
    let gateway = Gateway::start().await;
    let path = query(long_names());
    let (_, subscribed) = SseClient::connect(gateway.address(), &path).await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    raw.response().await.unwrap();
    let (_, again) = SseClient::resume_over(raw, &path, &subscribed.id).await;
    let states = recovered(&again);
    assert!(states.as_object().unwrap().values().all(|recovered| recovered == true), "{states}");
}
