//! A limit rejects the newcomer, in a way that it understands, and never evicts the one who is there.

use crate::harness::http::Raw;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, SseClient, http, until};

#[tokio::test]
async fn a_full_gateway_tells_the_newcomer_and_keeps_the_residents() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 4\n").start().await;
    let mut residents = Vec::new();
    for _ in 0..4 {
        residents.push(SseClient::open(gateway.address(), "/sse/a").await);
    }
    let mut stream = Raw::connect(gateway.address()).await;
    stream.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let told = stream.response().await.unwrap();
    assert_eq!(told.status, 200, "an EventSource that gets 503 never comes back");
    let text = told.text();
    assert!(text.contains("retry:") && text.contains("event: error\n"), "{text}");

    let mut socket = RawWebSocket::open(gateway.address()).await;
    assert_eq!(socket.close().await.map(|(code, _)| code), Some(3013), "it may come back later");
    assert_eq!(gateway.fetch("/health").await.status, 200, "a full node is not a dead one");
    gateway.publish("a", "1").await;
    for resident in &mut residents {
        assert_eq!(resident.data("message").await, "1");
    }
}

#[tokio::test]
async fn a_stream_of_too_many_channels_is_refused() {
    let gateway = Gateway::settings().config("[limits]\nchannels_per_connection = 2\n").start().await;
    assert_eq!(http::fetch(gateway.address(), "/sse?channel=a&channel=b&channel=c").await.status, 400);
    SseClient::open(gateway.address(), "/sse?channel=a&channel=b").await;
}

#[tokio::test]
async fn places_are_free_again_when_their_holders_have_gone() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 4\n").start().await;
    for round in 0..10 {
        let mut residents = Vec::new();
        while residents.len() < 3 {
            residents.push(SseClient::open(gateway.address(), "/sse/a").await);
        }
        drop(residents);
        until(&format!("the places of round {round} are free"), async || {
            let taken = gateway.metric("earshot_connections", &[]).await;
            (taken == 0.0).then_some(())
        })
        .await;
    }
}
