//! The rpc hook.

use serde_json::{Value, json};

use super::{Socket, start, start_with};
use crate::harness::hook_server::{Answer, HookServer};
use crate::harness::until;

fn rpc(id: u32, method: &str, data: &Value) -> Value {
    json!({ "id": id, "rpc": { "method": method, "data": data } })
}

#[tokio::test]
async fn the_hook_answers_calls() {
    let server = HookServer::start(|call| match call.body["method"].as_str().unwrap() {
        "add" => {
            let numbers = call.body["data"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap());
            Answer::Json(json!({ "result": { "data": { "sum": numbers.sum::<i64>() } } }))
        }
        "none" => Answer::Json(json!({ "result": {} })),
        "error" => {
            Answer::Json(json!({ "error": { "code": 404, "message": "no method", "temporary": true } }))
        }
        "close" => Answer::Json(json!({ "disconnect": { "code": 3501, "reason": "bye" } })),
        _ => Answer::Raw(200, Vec::new(), b"not JSON".to_vec()),
    })
    .await;
    let gateway = start(&server, "").await;
    let mut socket = Socket::user(&gateway, "42").await;
    let reply = socket.request(&rpc(2, "add", &json!([1, 2]))).await;
    assert_eq!(reply, json!({ "id": 2, "rpc": { "data": { "sum": 3 } } }));
    let reply = socket.request(&rpc(3, "none", &json!({}))).await;
    assert!(reply["rpc"].is_object(), "{reply}");
    let reply = socket.request(&rpc(4, "error", &json!({}))).await;
    assert_eq!(reply["error"], json!({ "code": 404, "message": "no method", "temporary": true }));
    assert_eq!(socket.request(&rpc(5, "garbage", &json!({}))).await["error"]["code"], 100);
    socket.send(&rpc(6, "close", &json!({}))).await;
    assert_eq!(socket.raw.close().await, Some((3501, "bye".to_owned())));
    let call = server.calls().remove(0);
    assert_eq!((call.path.as_str(), &call.body["user"]), ("/rpc", &json!("42")));
}

#[tokio::test]
async fn without_a_hook_rpc_is_not_available() {
    let gateway = start_with("subscribe = \"http://127.0.0.1:9/\"\npublish = \"http://127.0.0.1:9/\"").await;
    let mut socket = Socket::guest(&gateway, &[]).await;
    assert_eq!(socket.request(&rpc(2, "add", &json!([]))).await["error"]["code"], 108);
}

#[tokio::test]
async fn calls_in_flight_are_limited() {
    let server = HookServer::start(|_| Answer::Hang).await;
    let gateway = start(&server, "rpc_inflight = 2\ntimeout = \"1s\"").await;
    let mut socket = Socket::guest(&gateway, &[]).await;
    for id in 2..=4 {
        socket.send(&rpc(id, "hang", &json!({}))).await;
    }
    let mut codes = Vec::new();
    for id in 2..=4 {
        let reply = socket.next().await;
        assert_eq!(reply["id"], id);
        codes.push(reply["error"]["code"].clone());
    }
    assert_eq!(codes, [100, 100, 111]);
    until("the calls have arrived", async || (server.calls().len() == 2).then_some(())).await;
    // The limit counts what waits, not what was answered.
    server.answer(|_| Answer::Json(json!({ "result": {} })));
    assert!(socket.request(&rpc(5, "m", &json!({}))).await["rpc"].is_object());
}
