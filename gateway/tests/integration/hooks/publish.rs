//! The publish hook.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Socket, start};
use crate::harness::hook_server::{Answer, HookCall, HookServer};
use crate::harness::{Gateway, SseClient};

fn answer(call: &HookCall) -> Answer {
    if call.path == "/subscribe" {
        return Answer::allow_all(call);
    }
    match call.body["data"]["text"].as_str().unwrap_or_default() {
        "replace" => {
            Answer::Raw(200, Vec::new(), b"{\"result\": {\"data\": {\n\"text\": \"***\"\n}}}".to_vec())
        }
        "spam" => Answer::Json(json!({ "error": { "code": 1001, "message": "spam" } })),
        "ban" => Answer::Json(json!({ "disconnect": { "code": 4501, "reason": "banned" } })),
        "garbage" => Answer::Raw(200, Vec::new(), b"ok".to_vec()),
        _ => Answer::Json(json!({ "result": {} })),
    }
}

fn publish(id: u32, text: &str) -> Value {
    json!({ "id": id, "publish": { "channel": "hooked:a", "data": { "text": text } } })
}

async fn stream(gateway: &Gateway) -> SseClient {
    SseClient::open(gateway.address(), "/sse/hooked:a").await
}

#[tokio::test]
async fn the_hook_decides_about_a_publication() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server, "").await;
    let mut stream = stream(&gateway).await;
    let mut socket = Socket::user(&gateway, "42").await;
    assert!(socket.request(&publish(2, "hello")).await["publish"].is_object());
    assert_eq!(stream.data("message").await, r#"{"text":"hello"}"#);
    assert!(socket.request(&publish(3, "replace")).await["publish"].is_object());
    // The hook's line breaks would end the frame of a client.
    assert_eq!(stream.data("message").await, "{ \"text\": \"***\" }");
    let reply = socket.request(&publish(4, "spam")).await;
    assert_eq!(reply["error"], json!({ "code": 1001, "message": "spam" }));
    assert_eq!(socket.request(&publish(5, "garbage")).await["error"]["code"], 100);
    assert!(socket.request(&publish(6, "end")).await["publish"].is_object());
    assert_eq!(stream.data("message").await, r#"{"text":"end"}"#);
    socket.send(&publish(7, "ban")).await;
    assert_eq!(socket.raw.close().await, Some((4501, "banned".to_owned())));
    let calls = server.calls();
    let call = calls.iter().find(|call| call.path == "/publish").unwrap();
    assert_eq!((&call.body["channel"], &call.body["user"]), (&json!("hooked:a"), &json!("42")));
}

#[tokio::test]
async fn neither_a_client_nor_a_hook_can_forge_the_publisher() {
    let server = HookServer::start(|call| match call.path.as_str() {
        "/subscribe" => Answer::allow_all(call),
        _ => Answer::Json(json!({ "result": { "info": { "user": "root" }, "user": "root" } })),
    })
    .await;
    let gateway = start(&server, "").await;
    let mut reader = Socket::user(&gateway, "reader").await;
    assert!(reader.subscribe("hooked:a").await["subscribe"].is_object());
    let mut socket = Socket::user(&gateway, "42").await;
    let forged = json!({
        "channel": "hooked:a", "data": {}, "info": { "user": "root" }, "user": "root",
    });
    assert!(socket.request(&json!({ "id": 2, "publish": forged })).await["publish"].is_object());
    let publication = reader.next().await["push"]["pub"].clone();
    assert_eq!(publication["info"]["user"], "42", "{publication}");
    assert_eq!(publication["info"]["conn_info"], json!({ "name": "42" }));
    let call = server.calls().into_iter().find(|call| call.path == "/publish").unwrap();
    assert_eq!((&call.body["user"], &call.body["info"]), (&json!("42"), &Value::Null));
}

#[tokio::test]
async fn publications_of_a_client_keep_their_order() {
    let server = HookServer::start(|call| {
        // The first takes longer than the others.
        if call.body["data"]["text"] == "0" {
            return Answer::Late(Duration::from_millis(200), json!({ "result": {} }));
        }
        answer(call)
    })
    .await;
    let gateway = start(&server, "").await;
    let mut stream = stream(&gateway).await;
    let mut socket = Socket::user(&gateway, "42").await;
    for n in 0..5 {
        socket.send(&publish(n + 2, &n.to_string())).await;
    }
    for n in 0..5 {
        assert_eq!(stream.data("message").await, format!(r#"{{"text":"{n}"}}"#));
    }
}

#[tokio::test]
async fn the_limit_of_publications_applies_before_the_hook() {
    let server = HookServer::start(answer).await;
    let gateway = start(&server, "[limits]\npublishes_per_second = 1").await;
    let mut socket = Socket::user(&gateway, "42").await;
    // Counted once, although the gateway asks the hook first.
    assert!(socket.request(&publish(2, "hello")).await["publish"].is_object());
    let mut codes = Vec::new();
    for id in 3..23 {
        codes.push(socket.request(&publish(id, "spam")).await["error"]["code"].clone());
    }
    assert!(codes.contains(&json!(111)), "{codes:?}");
    assert!(server.calls().len() < 21);
}
