//! A hook that gives no valid answer.

use serde_json::{Value, json};

use super::{Socket, start, start_with};
use crate::harness::hook_server::{Answer, HookServer};
use crate::harness::http::Raw;
use crate::harness::process::free_port;
use crate::harness::{Gateway, SseClient, until};

/// Makes an answer.
type AnswerNow = Box<dyn Fn() -> Answer + Send + Sync>;

/// The reply of a new guest to a subscribe command.
async fn subscribe(gateway: &Gateway) -> Value {
    Socket::guest(gateway, &[]).await.subscribe("hooked:a").await
}

fn assert_temporary(reply: &Value) {
    assert_eq!(
        (&reply["error"]["code"], &reply["error"]["temporary"]),
        (&json!(100), &json!(true)),
        "{reply}"
    );
}

#[tokio::test]
async fn an_invalid_answer_denies_temporarily() {
    let server = HookServer::start(|_| Answer::Hang).await;
    let settings = "timeout = \"300ms\"\nbreaker_failures = 1000";
    let gateway = start(&server, settings).await;
    assert_temporary(&subscribe(&gateway).await);
    let target = server.url("/elsewhere");
    let json = |value: Value| move || Answer::Json(value.clone());
    let raw = |status: u16, body: Vec<u8>| {
        let target = target.clone();
        move || Answer::Raw(status, vec![("location", target.clone())], body.clone())
    };
    let allowed = br#"{"result":{"channels":{"hooked:a":{"allow":true}}}}"#.to_vec();
    let huge = [&allowed[..], &[b' '; 100_000]].concat();
    let answers: Vec<(&str, AnswerNow)> = vec![
        ("redirect", Box::new(raw(302, allowed.clone()))),
        ("permanent redirect", Box::new(raw(308, allowed.clone()))),
        ("forbidden", Box::new(raw(403, allowed.clone()))),
        ("not found", Box::new(raw(404, Vec::new()))),
        ("error", Box::new(raw(500, allowed.clone()))),
        ("unavailable", Box::new(raw(503, allowed.clone()))),
        ("no content", Box::new(raw(204, Vec::new()))),
        ("huge", Box::new(raw(200, huge))),
        ("empty", Box::new(raw(200, Vec::new()))),
        ("text", Box::new(raw(200, b"<html>ok</html>".to_vec()))),
        ("cut off", Box::new(raw(200, allowed[..30].to_vec()))),
        ("no member", Box::new(json(json!({})))),
        ("null", Box::new(json(json!({ "result": null })))),
        ("without channels", Box::new(json(json!({ "result": {} })))),
        ("boolean", Box::new(json(json!({ "result": { "channels": { "hooked:a": true } } })))),
        (
            "text for true",
            Box::new(json(json!({ "result": { "channels": { "hooked:a": { "allow": "true" } } } }))),
        ),
        ("two members", Box::new(json(json!({ "result": { "channels": {} }, "error": { "code": 1000 } })))),
        ("code", Box::new(json(json!({ "error": { "code": 7 } })))),
        ("close code", Box::new(json(json!({ "disconnect": { "code": 1000 } })))),
    ];
    for (name, answer) in answers {
        server.answer(move |_| answer());
        let reply = subscribe(&gateway).await;
        println!("{name}: {reply}");
        assert_temporary(&reply);
    }
    assert!(server.calls().iter().all(|call| call.path == "/subscribe"));
    server.answer(Answer::allow_all);
    assert!(subscribe(&gateway).await["subscribe"].is_object());
    gateway.wait_for_log(&["hook gives no valid answer"]).await;
}

#[tokio::test]
async fn a_refused_connection_denies_or_allows() {
    let url = format!(
        "subscribe = \"http://127.0.0.1:{}/\"\npublish = \"http://127.0.0.1:{}/\"\n",
        free_port(),
        free_port()
    );
    let gateway = start_with(&format!("{url}on_error = \"deny\"")).await;
    assert_temporary(&subscribe(&gateway).await);
    // The connect command fails as well: a client would not ask for an omitted channel again.
    let (_socket, reply) = Socket::connect(&gateway, json!({ "subs": { "hooked:a": {} } })).await;
    assert_temporary(&reply);
    // The stream ends with an error event, after which an `EventSource` reconnects.
    let opened = SseClient::try_begin(gateway.address(), "/sse/hooked:a", None).await;
    assert!(opened.is_none());
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /sse/hooked:a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    let event = String::from_utf8(raw.chunk().await.unwrap()).unwrap();
    assert!(event.contains("event: error") && event.contains("3004"), "{event}");
    let gateway = start_with(&format!("{url}on_error = \"allow\"")).await;
    assert!(subscribe(&gateway).await["subscribe"].is_object());
    SseClient::open(gateway.address(), "/sse/hooked:a").await;
}

#[tokio::test]
async fn a_failed_request_is_repeated_once() {
    let server = HookServer::start(|_| Answer::Raw(503, Vec::new(), Vec::new())).await;
    let gateway = start(&server, "breaker_failures = 1000").await;
    assert_temporary(&subscribe(&gateway).await);
    assert_eq!(server.calls().len(), 2);
    // Calling a method twice could have an effect twice.
    let mut socket = Socket::guest(&gateway, &[]).await;
    assert_temporary(&socket.request(&json!({ "id": 2, "rpc": { "method": "m", "data": {} } })).await);
    assert_eq!(server.calls().len(), 3);
}

#[tokio::test]
async fn the_breaker_opens() {
    let server = HookServer::start(|_| Answer::Raw(500, Vec::new(), Vec::new())).await;
    let gateway = start(&server, "breaker_failures = 3\nbreaker_pause = \"5m\"").await;
    for _ in 0..3 {
        assert_temporary(&subscribe(&gateway).await);
    }
    assert_eq!(gateway.metric("earshot_hook_breaker_state", &[r#"hook="subscribe""#]).await, 2.0);
    server.answer(Answer::allow_all);
    assert_temporary(&subscribe(&gateway).await);
    assert_eq!(server.calls().len(), 3);
    assert_eq!(gateway.metric("earshot_hook_calls_total", &[r#"result="breaker-open""#]).await, 1.0);
    gateway.wait_for_log(&["hook failed several times"]).await;
}

#[tokio::test]
async fn the_breaker_closes_again() {
    let server = HookServer::start(|_| Answer::Raw(500, Vec::new(), Vec::new())).await;
    let gateway = start(&server, "breaker_failures = 1\nbreaker_pause = \"100ms\"").await;
    assert_temporary(&subscribe(&gateway).await);
    server.answer(Answer::allow_all);
    until("the hook is asked again", async || {
        subscribe(&gateway).await["subscribe"].is_object().then_some(())
    })
    .await;
    assert_eq!(gateway.metric("earshot_hook_breaker_state", &[r#"hook="subscribe""#]).await, 0.0);
    assert_eq!(server.calls().len(), 2);
}
