//! Limits reject new connections with a response that clients understand, and never disconnect existing ones.

use crate::harness::http::Raw;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, SseClient, http, until};

#[tokio::test]
async fn full_gateway_rejects_new_connections_and_keeps_existing_ones() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 4\n").start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(open_within_limit(&gateway).await);
    }
    let mut stream = Raw::connect(gateway.address()).await;
    stream.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let response = stream.response().await.unwrap();
    assert_eq!(response.status, 200, "an EventSource does not reconnect after 503");
    let text = response.text();
    assert!(text.contains("retry:") && text.contains("event: error\n"), "{text}");

    let mut socket = RawWebSocket::open(gateway.address()).await;
    assert_eq!(socket.close().await.map(|(code, _)| code), Some(3013), "the client may reconnect later");
    assert_eq!(gateway.fetch("/health").await.status, 200, "a full gateway is still healthy");
    gateway.publish("a", "1").await;
    for client in &mut clients {
        assert_eq!(client.data("message").await, "1");
    }
}

/// Opens a stream. Waits while earlier connections, whose end the gateway has not noticed yet, exhaust the limit.
async fn open_within_limit(gateway: &Gateway) -> SseClient {
    let open = async || SseClient::try_begin(gateway.address(), "/sse/a", None).await;
    until("a stream within the limit", open).await.0
}

#[tokio::test]
async fn stream_with_too_many_channels_is_rejected() {
    let gateway = Gateway::settings().config("[limits]\nchannels_per_connection = 2\n").start().await;
    assert_eq!(http::fetch(gateway.address(), "/sse?channel=a&channel=b&channel=c").await.status, 400);
    SseClient::open(gateway.address(), "/sse?channel=a&channel=b").await;
}

#[tokio::test]
async fn closed_connections_free_their_slots() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 4\n").start().await;
    for round in 0..10 {
        let mut clients = Vec::new();
        while clients.len() < 3 {
            clients.push(open_within_limit(&gateway).await);
        }
        drop(clients);
        until(&format!("the connections of round {round} are closed"), async || {
            let open = gateway.metric("earshot_connections", &[]).await;
            (open == 0.0).then_some(())
        })
        .await;
    }
}
