//! The connect hook: login by the backend of the application.

use serde_json::{Value, json};

use super::Socket;
use crate::harness::hook_server::{Answer, HookCall, HookServer};
use crate::harness::http::Raw;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, SseClient, until};

fn answer(call: &HookCall) -> Answer {
    let token = call.body["token"].as_str().unwrap_or_default().to_owned();
    match if token.is_empty() { call.header("cookie") } else { token }.as_str() {
        "sid=42" | "opaque" => Answer::Json(json!({ "result": {
            "user": "42", "info": { "name": "Anna" }, "channels": ["room:1"],
        } })),
        "sid=short" => Answer::Json(json!({ "result": { "user": "7", "expire_at": 4_000_000_000_u64 } })),
        "sid=banned" => Answer::Json(json!({ "disconnect": { "code": 4500, "reason": "banned" } })),
        "sid=denied" => Answer::Json(json!({ "error": { "code": 401, "message": "no" } })),
        "sid=later" => Answer::Json(json!({ "error": { "code": 500, "message": "no", "temporary": true } })),
        "sid=garbage" => Answer::Json(json!({ "result": { "user": 42 } })),
        _ => Answer::Json(json!({ "result": {} })),
    }
}

async fn start(server: &HookServer) -> Gateway {
    let url = server.url("/connect");
    let config = format!(
        r#"
        [[login]]
        kind = "hook"
        [hooks]
        connect = "{url}"
        cookies = ["sid"]
        [[namespace]]
        name = "user"
        channels = ["user:{{user}}"]
        subscribe = "owner"
        publish = "owner"
        [[namespace]]
        name = "room"
        channels = ["room:*"]
        subscribe = "token"
        [[namespace]]
        name = "open"
        channels = ["open"]
        subscribe = "anyone"
        "#
    );
    Gateway::settings().config(&config).start().await
}

/// A socket with this cookie, before its connect command.
async fn socket(gateway: &Gateway, cookie: &str) -> Socket {
    let line = format!("Cookie: {cookie}");
    let raw = RawWebSocket::open_with(gateway.address(), "/ws", &[&line]).await;
    Socket { raw, received: Default::default() }
}

async fn connect(gateway: &Gateway, cookie: &str) -> (Socket, Value) {
    let mut socket = socket(gateway, cookie).await;
    let reply = socket.request(&json!({ "id": 1, "connect": {} })).await;
    (socket, reply)
}

async fn status(gateway: &Gateway, path: &str, cookie: &str) -> u16 {
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n")).await;
    raw.head().await.unwrap().status
}

#[tokio::test]
async fn the_hook_logs_a_client_in() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server).await;
    let (mut one, reply) = connect(&gateway, "sid=42; other=1").await;
    assert!(reply["connect"]["subs"]["room:1"].is_object(), "{reply}");
    assert_eq!(server.calls()[0].body, json!({ "transport": "websocket" }));
    assert_eq!(server.calls()[0].header("cookie"), "sid=42");
    assert!(one.subscribe("user:42").await["subscribe"].is_object());
    assert_eq!(
        one.request(&json!({ "id": 3, "subscribe": { "channel": "user:43" } })).await["error"]["code"],
        103
    );
    let publish = json!({ "channel": "user:42", "data": 1 });
    one.send(&json!({ "id": 4, "publish": publish })).await;
    let messages = [one.next().await, one.next().await];
    let push = messages.iter().find(|message| message["push"].is_object()).unwrap();
    let info = &push["push"]["pub"]["info"];
    assert_eq!((&info["user"], &info["conn_info"]), (&json!("42"), &json!({ "name": "Anna" })));
    // The token of a connect command is for the hook if no method verifies tokens.
    let (_socket, reply) = Socket::connect(&gateway, json!({ "token": "opaque" })).await;
    assert!(reply["connect"]["subs"]["room:1"].is_object(), "{reply}");
    let line = "Cookie: sid=42\r\n";
    SseClient::open_with(Raw::connect(gateway.address()).await, "/sse/user:42", line).await;
    let (_socket, reply) = connect(&gateway, "sid=short").await;
    assert_eq!(reply["connect"]["expires"], true, "{reply}");
}

#[tokio::test]
async fn a_client_without_a_login_gains_nothing() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server).await;
    let (mut socket, reply) = connect(&gateway, "sid=unknown").await;
    assert!(reply["connect"].is_object(), "{reply}");
    // No `[[login]]` has kind = "anonymous".
    for channel in ["user:42", "user:", "room:1", "open"] {
        assert!(socket.subscribe(channel).await["error"].is_object(), "{channel}");
    }
    assert_eq!(status(&gateway, "/sse/user:42", "sid=unknown").await, 401);
    // Pages of other sites log in with no cookie.
    let lines = "Cookie: sid=42\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site";
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!("GET /sse/user:42 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n")).await;
    assert_eq!(raw.head().await.unwrap().status, 403);
}

#[tokio::test]
async fn the_hook_rejects_clients() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server).await;
    for cookie in ["sid=banned", "sid=denied"] {
        let mut socket = socket(&gateway, cookie).await;
        socket.send(&json!({ "id": 1, "connect": {} })).await;
        assert_eq!(socket.raw.close().await.unwrap().0, 3507, "{cookie}");
        assert_eq!(status(&gateway, "/sse/open", cookie).await, 403, "{cookie}");
    }
    for cookie in ["sid=later", "sid=garbage"] {
        let (_socket, reply) = connect(&gateway, cookie).await;
        assert_eq!(
            (&reply["error"]["code"], &reply["error"]["temporary"]),
            (&json!(100), &json!(true)),
            "{cookie}"
        );
    }
    server.answer(|_| Answer::Raw(500, Vec::new(), Vec::new()));
    let (_socket, reply) = connect(&gateway, "sid=42").await;
    assert_eq!(reply["error"]["code"], 100);
}

#[tokio::test]
async fn a_revocation_ends_a_login_by_the_hook() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server).await;
    let (mut socket, _reply) = connect(&gateway, "sid=42").await;
    let response = gateway.api("disconnect", r#"{"user":"42"}"#).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(socket.raw.close().await.is_some());
    until("the hook was asked once", async || (server.calls().len() == 1).then_some(())).await;
}
