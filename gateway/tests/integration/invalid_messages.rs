//! Invalid commands, and unusual payloads from Redis: each has its exact response.

use serde_json::json;

use crate::harness::control_clients::ControlClients;
use crate::harness::ws_frames::{BINARY, RawWebSocket, TEXT, frame};
use crate::harness::{Gateway, Redis, SseClient, WsClient};

const CONFIG: &str = r#"
[limits]
commands_per_frame = 64
channels_per_connection = 3
message_bytes = "64KiB"

[websocket]
connect_timeout = "1s"
ping_interval = "1s"
pong_timeout = "900ms"

[[namespace]]
name = "closed"
channels = ["closed-*"]
subscribe = "nobody"

[[namespace]]
name = "quiet"
channels = ["quiet-*"]
subscribe = "anyone"
publish = "nobody"

[[namespace]]
name = "open"
channels = ["open-*", "control"]
subscribe = "anyone"
publish = "subscribers"
"#;

#[tokio::test]
async fn each_protocol_violation_has_its_close_code() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    let too_many = (2..=66).map(|id| format!(r#"{{"id":{id},"ping":{{}}}}"#)).collect::<Vec<_>>().join("\n");
    let rows: [(&str, &str, u16); 12] = [
        ("invalid JSON", "hello", 3501),
        ("truncated JSON", r#"{"id":2,"ping":"#, 3501),
        ("not an object", "[1]", 3501),
        ("an unknown command", r#"{"id":2,"fly":{}}"#, 3501),
        ("a number as channel name", r#"{"id":2,"subscribe":{"channel":7}}"#, 3501),
        ("a negative id", r#"{"id":-2,"ping":{}}"#, 3501),
        ("an empty frame", "", 3501),
        ("a frame of whitespace", " \n ", 3501),
        ("a second connect", r#"{"id":2,"connect":{}}"#, 3501),
        ("two methods in one command", r#"{"id":2,"ping":{},"rpc":{}}"#, 3501),
        ("an unsolicited pong", "{}", 3501),
        ("too many commands in a frame", &too_many, 3501),
    ];
    for (what, text, code) in rows {
        let mut socket = RawWebSocket::connected(gateway.address()).await;
        socket.text(text).await;
        assert_closed(&mut socket, code, what).await;
        control.assert_unaffected(&mut gateway, what).await;
    }
}

#[tokio::test]
async fn invalid_first_message_has_its_close_code() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    let mut early = RawWebSocket::open(gateway.address()).await;
    early.text(r#"{"id":1,"subscribe":{"channel":"open-1"}}"#).await;
    assert_closed(&mut early, 3501, "a command before connect").await;

    let mut silent = RawWebSocket::open(gateway.address()).await;
    assert_closed(&mut silent, 3502, "no connect in time").await;

    let mut binary = RawWebSocket::open_with(gateway.address(), "/ws?cf_protocol=protobuf", &[]).await;
    binary.send(frame(BINARY, &[0x7f, 1, 2, 3])).await;
    assert_closed(&mut binary, 3501, "truncated Protobuf").await;
    control.assert_unaffected(&mut gateway, "invalid first messages").await;
}

#[tokio::test]
async fn client_without_pong_is_closed_with_3012() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    let ping = socket.frame().await.unwrap();
    assert_eq!((ping.first, &ping.payload[..]), (TEXT, &b"{}"[..]));
    assert_closed(&mut socket, 3012, "no pong").await;
}

#[tokio::test]
async fn pong_and_empty_binary_messages_keep_the_connection_open() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    for _ in 0..3 {
        socket.send(frame(BINARY, b"")).await;
        assert_eq!(socket.frame().await.unwrap().payload, b"{}", "only pings are sent");
        socket.text("{}").await;
    }
}

#[tokio::test]
async fn each_rejected_command_has_its_error_code() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    let mut socket = WsClient::open(gateway.address(), &["open-1", "quiet-1"]).await;
    let rows = [
        ("subscribe", json!({"channel": "open-1"}), 105),
        ("subscribe", json!({"channel": ""}), 107),
        ("subscribe", json!({}), 107),
        ("subscribe", json!({"channel": "x".repeat(256)}), 107),
        ("subscribe", json!({"channel": "open-\u{7}"}), 107),
        ("subscribe", json!({"channel": "open-\n"}), 107),
        ("subscribe", json!({"channel": "elsewhere"}), 102),
        ("subscribe", json!({"channel": "closed-1"}), 103),
        ("publish", json!({"channel": "", "data": 1}), 107),
        ("publish", json!({"channel": "quiet-1", "data": 1}), 103),
        ("publish", json!({"channel": "open-2", "data": 1}), 103),
        ("publish", json!({"channel": "elsewhere", "data": 1}), 102),
        ("publish", json!({"channel": "open-1"}), 107),
        ("rpc", json!({"method": "x", "data": {}}), 108),
        ("presence", json!({"channel": "open-1"}), 108),
        ("history", json!({"channel": "open-2"}), 103),
    ];
    for (method, body, code) in rows {
        let reply = socket.request(method, body.clone()).await;
        assert_eq!(reply["error"]["code"], code, "{method} {body}: {reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply}");
        control.assert_unaffected(&mut gateway, method).await;
    }
    assert!(socket.request("subscribe", json!({"channel": "open-3"})).await.get("error").is_none());
    let one_too_many = socket.request("subscribe", json!({"channel": "open-4"})).await;
    assert_eq!(one_too_many["error"]["code"], 106, "{one_too_many}");
    gateway.publish("open-1", "\"still there\"").await;
    assert_eq!(socket.publication().await.data, "\"still there\"");
}

#[tokio::test]
async fn deeply_nested_json_is_delivered_as_a_string() {
    let mut gateway = Gateway::start().await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    socket.text(r#"{"id":2,"subscribe":{"channel":"a"}}"#).await;
    socket.frame().await.unwrap();
    socket.text(&format!(r#"{{"id":3,"publish":{{"channel":"a","data":{deep}}}}}"#)).await;
    let push = loop {
        let text = String::from_utf8(socket.frame().await.unwrap().payload).unwrap();
        if let Some(push) = text.lines().find(|line| line.contains(&deep)) {
            break push.to_owned();
        }
    };
    let push: serde_json::Value = serde_json::from_str(&push).expect("a strict parser reads the frame");
    assert_eq!(push["push"]["pub"]["data"], deep.as_str());
    gateway.assert_alive();
}

#[tokio::test]
async fn commands_of_one_frame_are_answered_in_order() {
    let gateway = Gateway::start().await;
    let mut socket = RawWebSocket::open(gateway.address()).await;
    let commands = [
        r#"{"id":1,"connect":{"subs":{"given":{}}}}"#,
        r#"{"id":2,"subscribe":{"channel":"a"}}"#,
        r#"{"id":3,"rpc":{"method":"x"}}"#,
        r#"{"id":4,"publish":{"channel":"a","data":{"n": 1}}}"#,
        r#"{"id":5,"unsubscribe":{"channel":"a"}}"#,
        r#"{"id":6,"ping":{}}"#,
    ];
    socket.text(&commands.join("\n")).await;
    let mut lines = Vec::new();
    while !lines.iter().any(|line: &String| line.starts_with(r#"{"id":6"#)) {
        let frame = socket.frame().await.unwrap();
        lines.extend(String::from_utf8(frame.payload).unwrap().split('\n').map(str::to_owned));
    }
    let replies: Vec<&String> = lines.iter().filter(|line| line.starts_with(r#"{"id":"#)).collect();
    let begins = [
        r#"{"id":1,"connect":{"client":""#,
        r#"{"id":2,"subscribe":{"#,
        r#"{"id":3,"error":{"code":108,"#,
        r#"{"id":4,"publish":{}}"#,
        r#"{"id":5,"unsubscribe":{}}"#,
        r#"{"id":6,"ping":{}}"#,
    ];
    assert_eq!(replies.len(), begins.len(), "{lines:?}");
    for (reply, begin) in replies.iter().zip(begins) {
        assert!(reply.starts_with(begin), "{reply} does not begin with {begin}");
    }
    assert!(replies[0].contains(r#""subs":{"given":{"#), "{}", replies[0]);
    if let Some(push) = lines.iter().position(|line| line.contains(r#""data":{"n": 1}"#)) {
        assert!(push > lines.iter().position(|line| line.starts_with(r#"{"id":2"#)).unwrap());
    }
}

#[tokio::test]
async fn unusual_payloads_from_redis_are_delivered() {
    let redis = Redis::start().await;
    let config = "[limits]\npublication_bytes = \"64KiB\"\n";
    let mut gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut socket = WsClient::open(gateway.address(), &["odd"]).await;
    let mut events = SseClient::open(gateway.address(), "/sse/odd").await;
    let largest = format!("\"{}\"", "x".repeat(64 * 1024 - 2));
    let rows: [(&[u8], &str, &str); 5] = [
        (b"", r#""""#, r#""""#),
        (b"\xff\x00\xfe", r#""/wD+""#, "/wD+"),
        (b"nul \0 and bell \x07", r#""nul \u0000 and bell \u0007""#, "nul \0 and bell \u{7}"),
        (b"{\"half\":", r#""{\"half\":""#, "{\"half\":"),
        (largest.as_bytes(), &largest, &largest),
    ];
    for (payload, json, data) in rows {
        assert_eq!(redis.publish("odd", payload).await, 1);
        assert_eq!(socket.publication().await.data, json);
        assert_eq!(events.data("message").await, data);
        gateway.assert_alive();
    }
}

#[tokio::test]
async fn oversized_payload_causes_a_gap_notice() {
    let redis = Redis::start().await;
    let config = "[limits]\npublication_bytes = \"64KiB\"\n";
    let mut gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut socket = WsClient::open(gateway.address(), &["odd"]).await;
    let mut events = SseClient::open(gateway.address(), "/sse/odd").await;
    redis.publish("odd", &vec![b'x'; 8 << 20]).await;
    redis.publish("odd", b"1").await;
    let gap: serde_json::Value = serde_json::from_str(&events.data("gap").await).unwrap();
    assert_eq!((&gap["channel"], &gap["reason"]), (&json!("odd"), &json!("too-large")));
    assert_eq!(events.data("message").await, "1");
    socket.resubscribe_after_gaps(1).await;
    redis.publish("odd", b"2").await;
    assert_eq!(socket.publication().await.data, "2");
    gateway.assert_alive();
}

async fn assert_closed(socket: &mut RawWebSocket, code: u16, what: &str) {
    let (closed_with, reason) = socket.close().await.unwrap_or_else(|| panic!("{what}: no close frame"));
    assert_eq!(closed_with, code, "{what}: {reason}");
    assert!(!reason.is_empty() && reason.len() <= 123, "{what}: the reason is {reason:?}");
}
