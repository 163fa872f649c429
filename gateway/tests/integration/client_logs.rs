//! The log explains each refused command and each end of a connection.

use serde_json::json;

use crate::harness::encoding::Encoding;
use crate::harness::ws_frames::{self, RawWebSocket};
use crate::harness::{Gateway, SseClient, WsClient};

/// A gateway that logs at debug level, with a channel that clients may not subscribe to.
async fn gateway() -> Gateway {
    let config = "log = \"debug\"\n\
        [[namespace]]\nname = \"closed\"\nchannels = [\"closed\"]\nsubscribe = \"nobody\"\n\
        [[namespace]]\nname = \"open\"\nchannels = [\"open\"]\nsubscribe = \"anyone\"\n";
    Gateway::settings().config(config).start().await
}

#[tokio::test]
async fn denied_commands_are_logged_with_channel_and_peer() {
    let gateway = gateway().await;
    let mut client = WsClient::connect(gateway.address(), Encoding::Json).await;
    let reply = client.request("subscribe", json!({ "channel": "closed" })).await;
    assert_eq!(reply["error"]["code"], 103, "{reply}");
    let denied = "client rejected: permission denied: clients may not subscribe";
    gateway.wait_for_log(&[denied, "channel=closed", "peer=127.0.0.1:"]).await;
    let reply = client.request("subscribe", json!({ "channel": "other" })).await;
    assert_eq!(reply["error"]["code"], 102, "{reply}");
    gateway.wait_for_log(&["client rejected: no namespace matches this channel", "channel=other"]).await;
    let reply = client.request("subscribe", json!({ "channel": "open", "token": "x" })).await;
    assert_eq!(reply["error"]["code"], 103, "{reply}");
    gateway.wait_for_log(&["client rejected: a token was sent", "channel=open"]).await;
}

#[tokio::test]
async fn channels_that_a_connect_reply_omits_are_logged() {
    let gateway = gateway().await;
    let mut socket = RawWebSocket::open(gateway.address()).await;
    socket.text(r#"{"id":1,"connect":{"subs":{"closed":{},"open":{}}}}"#).await;
    let reply = String::from_utf8(socket.frame().await.unwrap().payload).unwrap();
    assert!(reply.contains("\"open\"") && !reply.contains("\"closed\""), "{reply}");
    gateway.wait_for_log(&["clients may not subscribe", "channel=closed"]).await;
}

#[tokio::test]
async fn end_of_each_connection_is_logged_with_its_reason() {
    let gateway = gateway().await;
    let mut invalid = RawWebSocket::connected(gateway.address()).await;
    invalid.text("no command").await;
    let expected = "connection closed: disconnected with code 3501: bad request";
    gateway.wait_for_log(&[expected, "transport=\"websocket\"", "peer=127.0.0.1:"]).await;
    let mut closing = RawWebSocket::connected(gateway.address()).await;
    closing.send(ws_frames::frame(ws_frames::CLOSE, &1000u16.to_be_bytes())).await;
    gateway.wait_for_log(&["connection closed: the client sent a close frame"]).await;
    let mut unmasked = RawWebSocket::connected(gateway.address()).await;
    unmasked.send(ws_frames::unmasked(ws_frames::TEXT, b"{}")).await;
    gateway.wait_for_log(&["connection closed: WebSocket protocol error"]).await;
    drop(SseClient::open(gateway.address(), "/sse/open").await);
    gateway
        .wait_for_log(&["transport=\"sse\" ", "connection closed: the client closed the connection"])
        .await;
}
