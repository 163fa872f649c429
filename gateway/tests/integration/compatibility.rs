//! Compatibility with Centrifugo: error codes, presence of fields, and rejection of unsupported features.

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::ws::Incoming;
use crate::harness::ws_frames::{BINARY, RawWebSocket, frame};
use crate::harness::{Gateway, Redis, WsClient};

const CONFIG: &str = r#"
[[namespace]]
name = "plain"
channels = ["plain-*"]
subscribe = "anyone"
history = { size = 0 }
publish = "anyone"

[[namespace]]
name = "rest"
channels = ["room-*"]
subscribe = "anyone"
publish = "anyone"
"#;

async fn gateway() -> Gateway {
    Gateway::settings().config(CONFIG).start().await
}

#[tokio::test]
async fn unsupported_subscription_types_are_rejected() {
    let gateway = gateway().await;
    let filter = json!({"key": "kind", "cmp": "eq", "val": "offer"});
    let rows = [
        (json!({"channel": "room-1", "type": 1}), 103),
        (json!({"channel": "room-1", "type": 2}), 103),
        (json!({"channel": "room-1", "type": 3}), 103),
        (json!({"channel": "room-1", "type": 4}), 108),
        (json!({"channel": "elsewhere", "type": 1}), 102),
        (json!({"channel": "room-1", "tf": filter}), 107),
        (json!({"channel": "room-1", "tf": {}}), 107),
    ];
    let mut client = WsClient::connect(gateway.address(), Encoding::Json).await;
    for (request, code) in rows {
        let reply = client.request("subscribe", request.clone()).await;
        assert_eq!(reply["error"]["code"], code, "{request}: {reply}");
    }
    // The rejected ones left no state behind.
    let reply = client.request("subscribe", json!({"channel": "room-1", "delta": "fossil"})).await;
    assert!(reply.get("error").is_none() && reply["subscribe"].get("delta").is_none(), "{reply}");
}

#[tokio::test]
async fn undefined_values_close_the_connection() {
    let gateway = gateway().await;
    let rows = [
        ("subscribe", json!({"channel": "room-1", "type": 99}), 3004),
        ("subscribe", json!({"channel": "room-1", "type": -1}), 3004),
        ("subscribe", json!({"channel": "room-1", "delta": "zip"}), 3501),
        ("send", json!({"data": {"no": "answer"}}), 3508),
    ];
    for (method, body, code) in rows {
        let mut socket = RawWebSocket::connected(gateway.address()).await;
        let command = match method {
            "send" => json!({"send": body}),
            _ => json!({"id": 2, method: body}),
        };
        socket.text(&command.to_string()).await;
        let (closed, reason) = socket.close().await.unwrap();
        assert_eq!(closed, code, "{command}");
        assert!(!reason.is_empty(), "{command}");
    }
}

#[tokio::test]
async fn unsupported_subscriptions_of_connect_are_ignored() {
    let gateway = gateway().await;
    let mut client = WsClient::handshake_only(gateway.address(), Encoding::Json).await;
    let subs = json!({"room-1": {}, "room-2": {"type": 1}, "room-3": {"tf": {}}, "room-4": {"type": 99}});
    let reply = client.request("connect", json!({ "subs": subs })).await;
    let given: Vec<&String> = reply["connect"]["subs"].as_object().unwrap().keys().collect();
    assert_eq!(given, ["room-1"], "{reply}");
}

#[tokio::test]
async fn map_publications_are_rejected() {
    let gateway = gateway().await;
    let mut client = WsClient::open(gateway.address(), &["room-1"]).await;
    for (kind, code) in [(1, 103), (2, 107)] {
        let request = json!({"channel": "room-1", "data": {"n": 1}, "type": kind, "key": "k"});
        let reply = client.request("publish", request).await;
        assert_eq!(reply["error"]["code"], code, "{reply}");
    }
}

#[tokio::test]
async fn channel_without_history_has_no_positions() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    for encoding in Encoding::BOTH {
        let mut client = WsClient::connect(gateway.address(), encoding).await;
        let reply = client.request("subscribe", json!({"channel": "plain-1"})).await;
        assert_eq!(reply["subscribe"].as_object().map(|fields| fields.len()), Some(0), "{reply}");
        redis.publish("plain-1", b"1").await;
        let publication = client.publication().await;
        assert_eq!((publication.data.as_str(), publication.offset), ("1", 0), "{encoding:?}");

        let mut again = WsClient::connect(gateway.address(), encoding).await;
        for offset in 0..3 {
            let request = json!({"channel": "plain-1", "recover": true, "offset": offset});
            let reply = again.request("subscribe", request).await;
            assert_eq!(reply["subscribe"], json!({"was_recovering": true}), "{reply}");
            again.request("unsubscribe", json!({"channel": "plain-1"})).await;
        }
        let strict = json!({"channel": "plain-1", "recover": true, "flag": 2});
        let reply = again.request("subscribe", strict).await;
        assert_eq!(reply["error"]["code"], 112, "{reply}");
    }
}

#[tokio::test]
async fn empty_history_has_an_empty_array() {
    let gateway = gateway().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    socket.text(r#"{"id":2,"subscribe":{"channel":"room-1"}}"#).await;
    socket.frame().await.unwrap();
    socket.text(r#"{"id":3,"history":{"channel":"room-1","limit":10}}"#).await;
    let reply = String::from_utf8(socket.frame().await.unwrap().payload).unwrap();
    assert!(reply.contains(r#""publications":[]"#) && reply.contains(r#""offset":0"#), "{reply}");
    let answer = gateway.api("history", r#"{"channel":"room-1","limit":10}"#).await.json();
    assert_eq!((&answer["result"]["publications"], &answer["result"]["offset"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn format_in_the_query_selects_protobuf() {
    let gateway = gateway().await;
    let path = "/connection/websocket?format=protobuf";
    let mut socket = RawWebSocket::open_with(gateway.address(), path, &[]).await;
    // Id 1 and an empty connect request.
    socket.send(frame(BINARY, &[4, 8, 1, 34, 0])).await;
    let reply = socket.frame().await.unwrap();
    assert_eq!(reply.first, BINARY, "{:?}", reply.payload);
}

/// Payloads that JSON parsers disagree on.
fn ambiguous_payloads() -> Vec<String> {
    vec![
        r#""\ud800""#.to_owned(),
        r#"{"\udfff":[1e999]}"#.to_owned(),
        format!("[{}]", "9".repeat(400)),
        format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)),
    ]
}

#[tokio::test]
async fn every_publication_is_a_valid_json_frame() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    socket.text(r#"{"id":2,"subscribe":{"channel":"room-1"}}"#).await;
    socket.frame().await.unwrap();
    for payload in ambiguous_payloads() {
        redis.publish("room-1", payload.as_bytes()).await;
        let frame = String::from_utf8(socket.frame().await.unwrap().payload).unwrap();
        let push: Value = serde_json::from_str(&frame).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(push["push"]["pub"]["data"], payload.as_str());
    }
    let mut late = WsClient::connect(gateway.address(), Encoding::Json).await;
    let reply = late.request("subscribe", json!({"channel": "room-1", "recover": true})).await;
    let recovered: Vec<&Value> =
        reply["subscribe"]["publications"].as_array().unwrap().iter().map(|p| &p["data"]).collect();
    assert_eq!(recovered, ambiguous_payloads().iter().collect::<Vec<_>>());
    assert!(late.pending_pushes().iter().all(|incoming| matches!(incoming, Incoming::Publication(_))));

    let answer = gateway.api("history", r#"{"channel":"room-1","limit":10}"#).await.json();
    let history: Vec<&Value> =
        answer["result"]["publications"].as_array().unwrap().iter().map(|p| &p["data"]).collect();
    assert_eq!(history, ambiguous_payloads().iter().collect::<Vec<_>>());
}
