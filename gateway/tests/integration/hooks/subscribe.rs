//! The subscribe hook.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use super::{Socket, start, start_for_all_origins, token};
use crate::harness::hook_server::{Answer, HookServer};
use crate::harness::http::{self, Raw};
use crate::harness::{Gateway, SseClient};

#[tokio::test]
async fn the_hook_decides_about_a_subscription() {
    let server = HookServer::start(|call| match call.channels()[0].as_str() {
        "hooked:error" => Answer::Json(json!({ "error": { "code": 1000, "message": "not yet" } })),
        "hooked:one" => Answer::Json(json!({ "result": { "channels": {
            "hooked:one": { "error": { "code": 403, "message": "pay first" } }
        } } })),
        "hooked:missing" => Answer::Json(json!({ "result": { "channels": {} } })),
        "hooked:out" => Answer::Json(json!({ "disconnect": { "code": 4500, "reason": "banned" } })),
        _ => Answer::allow(call, |name| name == "hooked:yes"),
    })
    .await;
    let gateway = start(&server, "").await;
    let mut socket = Socket::user(&gateway, "42").await;
    let reply = socket.subscribe("hooked:yes").await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    assert_eq!(socket.subscribe("hooked:no").await["error"]["code"], 103);
    assert_eq!(socket.subscribe("hooked:missing").await["error"]["code"], 103);
    let error = json!({ "code": 1000, "message": "not yet" });
    assert_eq!(socket.subscribe("hooked:error").await["error"], error);
    assert_eq!(socket.subscribe("hooked:one").await["error"]["code"], 403);
    gateway.publish("hooked:yes", "1").await;
    assert_eq!(socket.next().await["push"]["pub"]["data"], 1);
    socket.send(&json!({ "id": 9, "subscribe": { "channel": "hooked:out" } })).await;
    assert_eq!(socket.raw.close().await, Some((4500, "banned".to_owned())));
    let body = &server.calls()[0].body;
    let client = body["client"].as_str().unwrap();
    assert_eq!(client.len(), 36, "{client}");
    let expected = json!({
        "client": client, "transport": "websocket", "protocol": "json", "encoding": "json", "user": "42",
        "channels": ["hooked:yes"],
    });
    assert_eq!(*body, expected);
}

#[tokio::test]
async fn token_and_data_reach_the_hook() {
    let server = HookServer::start(Answer::allow_all).await;
    let gateway = start(&server, "").await;
    let mut socket = Socket::guest(&gateway, &[]).await;
    let subscribe = json!({ "channel": "hooked:a", "token": "opaque", "data": { "page": 7 } });
    let reply = socket.request(&json!({ "id": 2, "subscribe": subscribe })).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    let body = server.calls().remove(0).body;
    assert_eq!(body["tokens"], json!({ "hooked:a": "opaque" }));
    assert_eq!(body["data"], json!({ "hooked:a": { "page": 7 } }));
    assert_eq!(body["user"], "");
}

#[tokio::test]
async fn all_channels_of_a_connect_command_are_one_request() {
    let server = HookServer::start(|call| Answer::allow(call, |name| name != "hooked:7")).await;
    let gateway = start(&server, "").await;
    let subs: Map<String, Value> = (0..50).map(|n| (format!("hooked:{n}"), json!({}))).collect();
    let connect = json!({ "token": token("42"), "subs": subs });
    let (_socket, reply) = Socket::connect(&gateway, connect.clone()).await;
    let calls = server.calls();
    assert_eq!((calls.len(), calls[0].channels().len()), (1, 50));
    assert_eq!(calls[0].body["user"], "42");
    let subscribed = reply["connect"]["subs"].as_object().unwrap();
    assert_eq!((subscribed.len(), subscribed.contains_key("hooked:7")), (49, false));
    // The same user reconnects: the cache answers.
    let (_again, reply) = Socket::connect(&gateway, connect).await;
    assert_eq!((reply["connect"]["subs"].as_object().unwrap().len(), server.calls().len()), (49, 1));
}

#[tokio::test]
async fn subscribe_commands_that_arrive_together_share_a_request() {
    let server = HookServer::start(|call| Answer::allow(call, |name| name != "hooked:7")).await;
    let gateway = start(&server, "").await;
    // As SDKs reconnect: the connect command and the subscriptions in one frame.
    let frame = |connect: Value| {
        let subscribe =
            |n: u32| json!({ "id": n + 2, "subscribe": { "channel": format!("hooked:{n}") } }).to_string();
        let commands = (0..50).map(subscribe);
        [json!({ "id": 1, "connect": connect }).to_string()].into_iter().chain(commands).collect::<Vec<_>>()
    };
    for (user, connect) in [("42", json!({ "token": token("42") })), ("", json!({}))] {
        let before = server.calls().len();
        let mut socket = Socket::open(&gateway).await;
        socket.raw.text(&frame(connect).join("\n")).await;
        assert!(socket.next().await["connect"].is_object());
        for n in 0..50 {
            let reply = socket.next().await;
            assert_eq!(
                (reply["id"].as_u64(), reply["subscribe"].is_object()),
                (Some(n + 2), n != 7),
                "{reply}"
            );
        }
        let calls = &server.calls()[before..];
        let channels: usize = calls.iter().map(|call| call.channels().len()).sum();
        assert_eq!((calls[0].body["user"].as_str(), channels), (Some(user), 50));
        if user.is_empty() {
            // They are collected for a moment.
            assert!(calls.len() < 25, "{} calls", calls.len());
        } else {
            assert_eq!(calls.len(), 1);
        }
    }
}

#[tokio::test]
async fn all_channels_of_an_event_stream_are_one_request() {
    let server = HookServer::start(|call| Answer::allow(call, |name| name != "hooked:no")).await;
    let gateway = start(&server, "").await;
    let names: Vec<String> = (0..20).map(|n| format!("channel=hooked:{n}")).collect();
    let path = format!("/sse?{}&channel=open:a", names.join("&"));
    let line = format!("Authorization: Bearer {}\r\n", token("42"));
    let mut stream = SseClient::open_with(Raw::connect(gateway.address()).await, &path, &line).await;
    let calls = server.calls();
    assert_eq!((calls.len(), calls[0].channels().len()), (1, 20));
    assert_eq!((&calls[0].body["transport"], &calls[0].body["user"]), (&json!("sse"), &json!("42")));
    gateway.publish("hooked:3", "5").await;
    assert_eq!(stream.data("hooked:3").await, "5");
    let denied = http::fetch(gateway.address(), "/sse?channel=open:a&channel=hooked:no").await;
    assert_eq!(denied.status, 403);
}

#[tokio::test]
async fn equal_questions_of_one_identity_share_an_answer() {
    let server = HookServer::start(|call| Answer::allow(call, |_| call.body["user"] == "anna")).await;
    let gateway = start(&server, "").await;
    let subscribe = async |gateway: &Gateway, user: &str| {
        let mut socket = Socket::user(gateway, user).await;
        socket.subscribe("hooked:a").await["subscribe"].is_object()
    };
    // Alternating users: neither gets the answer of the other.
    for _ in 0..3 {
        assert!(subscribe(&gateway, "anna").await);
        assert!(!subscribe(&gateway, "bob").await);
    }
    let users: Vec<_> = server.calls().iter().map(|call| call.body["user"].clone()).collect();
    assert_eq!(users, ["anna", "bob"]);
    let reused = gateway.metric("earshot_hook_decisions_reused_total", &[r#"source="cache""#]).await;
    assert_eq!(reused, 4.0);
}

#[tokio::test]
async fn without_a_cache_each_question_is_asked() {
    let count = AtomicUsize::new(0);
    let server = HookServer::start(move |call| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        Answer::allow(call, |_| is_first)
    })
    .await;
    let gateway = start(&server, "cache = \"0s\"").await;
    for expected in [true, false] {
        let mut socket = Socket::user(&gateway, "42").await;
        assert_eq!(socket.subscribe("hooked:a").await["subscribe"].is_object(), expected);
    }
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn the_hook_is_not_asked_if_another_rule_permits() {
    let server = HookServer::start(|_| Answer::Hang).await;
    let gateway = start(&server, "").await;
    let mut socket = Socket::guest(&gateway, &[]).await;
    assert!(socket.subscribe("open:a").await["subscribe"].is_object());
    SseClient::open(gateway.address(), "/sse/open:a").await;
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn only_listed_fields_of_the_request_are_forwarded() {
    let server = HookServer::start(Answer::allow_all).await;
    let settings = "headers = [\"X-Request-Id\"]\ncookies = [\"sid\"]\ncache = \"5s\"\nsecret = \"a signing secret of 32 bytes....\"";
    let gateway = start_for_all_origins(&server, settings).await;
    let lines = [
        "X-Request-Id: r-1",
        "X-Other: no",
        "Cookie: other=1; sid=s-1; sidx=2",
        "X-Earshot-Signature: forged",
    ];
    let mut socket = Socket::guest(&gateway, &lines).await;
    assert!(socket.subscribe("hooked:a").await["subscribe"].is_object());
    let call = server.calls().remove(0);
    assert_eq!(
        (call.header("x-request-id"), call.header("cookie")),
        ("r-1".to_owned(), "sid=s-1".to_owned())
    );
    assert!(call.header("x-other").is_empty() && call.header("content-type") == "application/json");
    // The signature covers the time and the body.
    let signature = call.header("x-earshot-signature");
    let (time, code) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a signing secret of 32 bytes....");
    let expected = ring::hmac::sign(&key, format!("{time}.{}", call.text).as_bytes());
    assert_eq!(code, expected.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    // Clients without a login that differ in a forwarded field do not share an answer.
    let mut other = Socket::guest(&gateway, &["Cookie: sid=s-2"]).await;
    assert!(other.subscribe("hooked:a").await["subscribe"].is_object());
    assert_eq!(server.calls().len(), 2);
    // Cookies of a page of another site are not forwarded.
    let lines = ["Cookie: sid=s-3", "Sec-Fetch-Site: cross-site"];
    let head = format!("GET /sse/hooked:b HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", lines.join("\r\n"));
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(head).await;
    raw.head().await.unwrap();
    assert_eq!(server.calls().len(), 3);
    assert_eq!(server.calls()[2].header("cookie"), "");
}
