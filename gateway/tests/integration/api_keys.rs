//! Keys of the HTTP API with scopes and namespaces, from files that change.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http::{self, Response};
use crate::harness::{Gateway, WsClient, until};

const MAIN: &str = "a-key-with-all-scopes-1";
const PUBLISHER: &str = "publisher-secret-of-chat-1";
const READER: &str = "reader-secret-of-all-1";
const ADMIN: &str = "admin-secret-of-chat-1";

/// The configuration, with the secrets of the publisher in a file of this directory.
fn config(directory: &TempDir) -> String {
    let file = directory.path().join("publisher");
    fs::write(&file, format!("{PUBLISHER}\n")).unwrap();
    format!(
        r#"
[api]
key = "{MAIN}"

[[api_key]]
name = "chat-backend"
secret_file = {file:?}
scopes = "publish"
namespaces = ["chat*"]

[[api_key]]
name = "dashboard"
secret = "{READER}"
scopes = ["read"]

[[api_key]]
name = "chat-admin"
secret = "{ADMIN}"
scopes = ["read", "admin"]
namespaces = "chat"

[[namespace]]
name = "chat"
channels = ["chat:*"]
subscribe = "anyone"

[[namespace]]
name = "chat-private"
channels = ["private:*"]
subscribe = "anyone"

[[namespace]]
name = "jobs"
channels = ["job:*"]
subscribe = "anyone"
"#
    )
}

async fn call(gateway: &Gateway, key: &str, method: &str, body: &str) -> Response {
    let header = format!("X-API-Key: {key}");
    http::post(gateway.address(), &format!("/api/{method}"), &[&header], body).await
}

async fn publish(gateway: &Gateway, key: &str) -> u16 {
    call(gateway, key, "publish", r#"{"channel":"chat:1","data":1}"#).await.status
}

#[tokio::test]
async fn a_key_is_limited_to_its_scopes_and_namespaces() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Gateway::settings().environment("EARSHOT_LOG", "debug");
    let gateway = settings.config(&config(&directory)).start().await;
    let (chat, private) = (r#"{"channel":"chat:1","data":1}"#, r#"{"channel":"private:1","data":1}"#);
    let job = r#"{"channel":"job:1","data":1}"#;
    for (key, method, body, status) in [
        (MAIN, "publish", job, 200),
        (MAIN, "info", "{}", 200),
        (MAIN, "history_remove", job, 200),
        (PUBLISHER, "publish", chat, 200),
        (PUBLISHER, "publish", private, 200),
        (PUBLISHER, "publish", job, 403),
        (PUBLISHER, "history", chat, 403),
        (PUBLISHER, "history_remove", chat, 403),
        (PUBLISHER, "channels", "{}", 403),
        (PUBLISHER, "info", "{}", 403),
        (READER, "publish", chat, 403),
        (READER, "broadcast", r#"{"channels":["chat:1"],"data":1}"#, 403),
        (READER, "history", job, 200),
        (READER, "info", "{}", 200),
        (READER, "history_remove", chat, 403),
        (ADMIN, "history_remove", chat, 200),
        (ADMIN, "history_remove", private, 403),
        (ADMIN, "history", job, 403),
        (ADMIN, "publish", chat, 403),
        (ADMIN, "info", "{}", 403),
        (READER, "fly", "{}", 404),
        ("reader-secret-of-all-2", "history", job, 401),
        ("", "history", job, 401),
    ] {
        let response = call(&gateway, key, method, body).await;
        assert_eq!(response.status, status, "{key} {method} {body}: {response:?}");
        if status == 403 {
            let error = &response.json()["error"];
            assert_eq!((&error["code"], &error["message"]), (&json!(103), &json!("permission denied")));
            assert!(error["detail"].as_str().is_some_and(|detail| !detail.contains(key)), "{error}");
        }
    }
    let query = http::post(gateway.address(), &format!("/api/publish?api_key={PUBLISHER}"), &[], job).await;
    assert_eq!(query.status, 403);
    gateway.wait_for_log(&["chat-backend", "chat-admin", "dashboard"]).await;
    let log = gateway.process.log();
    for secret in [MAIN, PUBLISHER, READER, ADMIN] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    let denied = [r#"method="publish""#, r#"status="403""#, r#"error="103""#];
    assert!(gateway.metric("earshot_api_requests_total", &denied).await >= 3.0);
}

#[tokio::test]
async fn a_broadcast_is_decided_for_each_channel() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::settings().config(&config(&directory)).start().await;
    let mut socket = WsClient::open(gateway.address(), &["chat:1", "job:1"]).await;
    let body = r#"{"channels":["job:1","chat:1","job:2"],"data":1}"#;
    let response = call(&gateway, PUBLISHER, "broadcast", body).await;
    assert_eq!(response.status, 200);
    let answer = response.json();
    let codes: Vec<&Value> = answer["result"]["responses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|response| &response["error"]["code"])
        .collect();
    assert_eq!(codes, [&json!(103), &Value::Null, &json!(103)], "{answer}");
    assert_eq!(socket.publication().await.channel, "chat:1");
    // Nothing of the denied channel precedes this publication.
    call(&gateway, MAIN, "publish", r#"{"channel":"job:1","data":2}"#).await;
    let next = socket.publication().await;
    assert_eq!((next.channel.as_str(), next.data.as_str()), ("job:1", "2"));
}

#[tokio::test]
async fn channels_are_listed_by_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::settings().config(&config(&directory)).start().await;
    let _socket = WsClient::open(gateway.address(), &["chat:1", "private:1", "job:1"]).await;
    let names = async |key| {
        let answer = call(&gateway, key, "channels", "{}").await.json();
        let channels = answer["result"]["channels"].as_object().cloned().unwrap_or_default();
        channels.keys().cloned().collect::<Vec<_>>()
    };
    until("all channels are listed", async || {
        (names(READER).await == ["chat:1", "job:1", "private:1"]).then_some(())
    })
    .await;
    assert_eq!(names(ADMIN).await, ["chat:1"]);
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart() {
    const NEXT: &str = "publisher-secret-of-chat-2";
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::settings().config(&config(&directory)).start().await;
    let file = directory.path().join("publisher");
    assert_eq!((publish(&gateway, PUBLISHER).await, publish(&gateway, NEXT).await), (200, 401));
    fs::write(&file, format!("{NEXT}\n{PUBLISHER}\n")).unwrap();
    until("the new key is valid", async || (publish(&gateway, NEXT).await == 200).then_some(())).await;
    assert_eq!(publish(&gateway, PUBLISHER).await, 200, "both are valid");
    fs::write(&file, format!("{NEXT}\n")).unwrap();
    until("the old key is rejected", async || (publish(&gateway, PUBLISHER).await == 401).then_some(()))
        .await;
    assert_eq!(publish(&gateway, NEXT).await, 200);
    // An invalid file changes nothing.
    fs::write(&file, "short\n").unwrap();
    gateway.wait_for_log(&["fewer than 16"]).await;
    assert_eq!(publish(&gateway, NEXT).await, 200);
    let log = gateway.process.log();
    assert!(!log.contains(NEXT) && !log.contains(PUBLISHER) && !log.contains("short"), "{log}");
}
