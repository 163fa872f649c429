//! Single-use tickets: for an `EventSource` or a WebSocket that a cookie cannot reach.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::http::{self, Raw};
use crate::harness::http2;
use crate::harness::sse::Next;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, Redis, SseClient, until, within_timeout};

/// The logins and namespaces, with the place of tickets.
fn config(redis: &str) -> String {
    format!(
        r#"
[[login]]
kind = "ticket"
secret = "a-secret-of-the-tickets"
{redis}

[[login]]
kind = "express"
secret = "keyboard cat"

[[namespace]]
name = "user"
channels = ["user:{{user}}"]
subscribe = "owner"

[[namespace]]
name = "room"
channels = ["room:*"]
subscribe = "token"
publish = "token"
"#
    )
}

/// A cookie of express-session, and its key.
const SESSION: (&str, &str) = (
    "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN",
    "connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0",
);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn gateway(redis: &Redis) -> Gateway {
    let settings = Gateway::settings().environment("EARSHOT_LOG", "debug");
    settings.config(&config("redis = \"default\"")).redis(redis).start().await
}

async fn ticket(gateway: &Gateway, params: Value) -> String {
    let response = gateway.api("ticket", &params.to_string()).await;
    let ticket = response.json()["result"]["ticket"].as_str().map(str::to_owned);
    ticket.unwrap_or_else(|| panic!("{response:?}"))
}

/// The head of the response to a request for a stream, and its connection, which stays open.
async fn request(address: SocketAddr, path: &str, lines: &str) -> (u16, Raw) {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
    (raw.head().await.unwrap().status, raw)
}

async fn status(address: SocketAddr, path: &str, last: &str) -> u16 {
    let line = if last.is_empty() { String::new() } else { format!("Last-Event-ID: {last}\r\n") };
    request(address, path, &line).await.0
}

/// Opens a WebSocket, and returns the reply to its connect command.
async fn connect(address: SocketAddr, path: &str, token: &str) -> (Value, RawWebSocket) {
    let mut socket = RawWebSocket::open_with(address, path, &[]).await;
    socket.text(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
    let frame = within_timeout("the reply", socket.frame()).await.unwrap();
    (serde_json::from_slice(&frame.payload).unwrap(), socket)
}

fn code_of(id: &str) -> &str {
    id.rsplit_once('~').unwrap().1
}

#[tokio::test]
async fn a_ticket_opens_one_stream_and_its_code_reconnects() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let one = ticket(&gateway, json!({ "user": "42", "ttl": 30 })).await;
    let path = format!("/sse/user:42?ticket={one}");
    let (mut stream, subscribed) = SseClient::connect(address, &path).await;
    redis.publish("user:42", b"{\"a\":1}").await;
    let event = stream.event().await;
    assert_eq!((event.name.as_str(), event.data.as_str()), ("message", "{\"a\":1}"));
    let code = code_of(&event.id).to_owned();
    assert_eq!(code, code_of(&subscribed.id), "the code is the same in all events");

    let other = ticket(&gateway, json!({ "user": "42" })).await;
    let other = format!("/sse/user:42?ticket={other}");
    let (_other_stream, other_subscribed) = SseClient::connect(address, &other).await;
    let cursor = event.id.strip_suffix(&format!("~{code}")).unwrap();
    for last in [
        "",
        cursor,
        &format!("{cursor}~"),
        &format!("{cursor}~{}", &code[..21]),
        &format!("{cursor}~AAAAAAAAAAAAAAAAAAAAAA"),
        // The code of another ticket of the same user.
        &format!("{cursor}~{}", code_of(&other_subscribed.id)),
    ] {
        assert_eq!(status(address, &path, last).await, 401, "{last}");
    }
    assert_eq!(status(address, &other, &event.id).await, 401);

    // As an EventSource does: the same URL, and what was missed meanwhile.
    drop(stream);
    redis.publish("user:42", b"2").await;
    let (mut stream, _) = SseClient::resume(address, &path, &event.id).await;
    let missed = stream.event().await;
    assert_eq!((missed.data.as_str(), code_of(&missed.id)), ("2", code.as_str()));
    // The code does not open channels of another user.
    let foreign = format!("/sse/user:43?ticket={one}");
    assert_eq!(status(address, &foreign, &event.id).await, 403);

    let log = gateway.process.log();
    for secret in [one.as_str(), &code, "a-secret-of-the-tickets"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(log.contains("ticket rejected"), "{log}");
}

#[tokio::test]
async fn all_kinds_of_streams_accept_a_ticket() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let params = json!({ "user": "42", "channels": ["room:*"] });
    // Several channels.
    let several =
        format!("/sse?channel=user:42&channel=room:1&ticket={}", ticket(&gateway, params.clone()).await);
    let (mut stream, _) = SseClient::connect(address, &several).await;
    redis.publish("room:1", b"1").await;
    let event = stream.event().await;
    assert_eq!((event.name.as_str(), event.data.as_str()), ("room:1", "1"));
    let (mut stream, _) = SseClient::resume(address, &several, &event.id).await;
    redis.publish("user:42", b"2").await;
    assert_eq!(stream.data("user:42").await, "2");
    // HTTP/2.
    let connection = http2::Connection::open(&gateway).await;
    let path = format!("/sse/room:1?ticket={}", ticket(&gateway, params.clone()).await);
    let mut stream = connection.stream(&path).await;
    let subscribed = stream.event().await;
    assert_eq!(subscribed.name, "subscribed");
    redis.publish("room:1", b"3").await;
    let event = stream.event().await;
    assert_eq!((event.data.as_str(), code_of(&event.id)), ("3", code_of(&subscribed.id)));
    // A reused connection.
    let mut raw = Raw::connect(address).await;
    raw.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status, 200);
    let path = format!("/sse/room:2?ticket={}", ticket(&gateway, params.clone()).await);
    let mut stream = SseClient::open_over(raw, &path).await;
    redis.publish("room:2", b"4").await;
    assert_eq!(stream.data("message").await, "4");
    // A denied channel is reported as such, although the ticket is spent.
    let path = format!("/sse/user:43?ticket={}", ticket(&gateway, params).await);
    assert_eq!(status(address, &path, "").await, 403);
    assert_eq!(status(address, &path, "").await, 401);
}

#[tokio::test]
async fn of_two_nodes_one_accepts_a_ticket() {
    let redis = Redis::start().await;
    let (one, two) = (gateway(&redis).await, gateway(&redis).await);
    for _ in 0..20 {
        let path = format!("/sse/user:42?ticket={}", ticket(&one, json!({ "user": "42" })).await);
        let (first, second) =
            tokio::join!(request(one.address(), &path, ""), request(two.address(), &path, ""));
        let mut statuses = [first.0, second.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
    }
    // The code is valid on every node.
    let path = format!("/sse/user:42?ticket={}", ticket(&one, json!({ "user": "42" })).await);
    let (_stream, subscribed) = SseClient::connect(one.address(), &path).await;
    assert_eq!(status(two.address(), &path, "").await, 401);
    assert_eq!(status(two.address(), &path, &subscribed.id).await, 200);
}

#[tokio::test]
async fn a_websocket_connects_with_a_ticket() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let params = json!({ "user": "42", "channels": ["room:*", "room:1"], "info": { "name": "Ada" } });
    let by_token = ticket(&gateway, params.clone()).await;
    let (reply, mut socket) = connect(address, "/ws", &by_token).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert!(
        reply["connect"]["subs"]["room:1"].is_object(),
        "channels without a wildcard are subscribed: {reply}"
    );
    socket.text(r#"{"id":2,"subscribe":{"channel":"user:43"}}"#).await;
    let frame = within_timeout("the reply", socket.frame()).await.unwrap();
    let reply: Value = serde_json::from_slice(&frame.payload).unwrap();
    assert_eq!(reply["error"]["code"], 103, "{reply}");
    let by_query = ticket(&gateway, params).await;
    let (reply, _socket) = connect(address, &format!("/ws?ticket={by_query}"), "").await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    // An SDK asks for another ticket after error 109.
    for (path, token) in [("/ws".to_owned(), by_token.as_str()), (format!("/ws?ticket={by_query}"), "")] {
        let (reply, _) = connect(address, &path, token).await;
        assert_eq!(reply["error"]["code"], 109, "{reply}");
    }
    let mut socket = RawWebSocket::open_with(address, "/ws", &[]).await;
    socket.text(r#"{"id":1,"connect":{"token":"no-ticket"}}"#).await;
    assert_eq!(socket.close().await.map(|(code, _)| code), Some(3500));
}

#[tokio::test]
async fn a_login_ends_when_it_expires() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let params = json!({ "user": "42", "expire_at": now() + 5 });
    let path = format!("/sse/user:42?ticket={}", ticket(&gateway, params.clone()).await);
    let (mut stream, subscribed) = SseClient::connect(address, &path).await;
    let (reply, mut socket) = connect(address, "/ws", &ticket(&gateway, params.clone()).await).await;
    assert!(reply["connect"]["client"].is_string() && reply["connect"].get("ttl").is_none(), "{reply}");
    let unused = ticket(&gateway, params).await;
    let event = stream.event().await;
    assert!(event.name == "error" && event.data.contains("3005"), "{event:?}");
    assert!(matches!(stream.next().await, Next::End));
    assert_eq!(socket.close().await.map(|(code, _)| code), Some(3005));
    assert_eq!(status(address, &path, &subscribed.id).await, 401);
    assert_eq!(status(address, &format!("/sse/user:42?ticket={unused}"), "").await, 401);
}

#[tokio::test]
async fn a_revocation_ends_the_login_and_its_code() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let path = format!("/sse/user:42?ticket={}", ticket(&gateway, json!({ "user": "42" })).await);
    let (mut stream, subscribed) = SseClient::connect(address, &path).await;
    let unused = ticket(&gateway, json!({ "user": "42" })).await;
    let response = gateway.api("revoke", r#"{"user":"42","ttl":60}"#).await;
    assert!(response.json()["result"].is_object(), "{response:?}");
    let event = stream.event().await;
    assert!(event.name == "error" && event.data.contains("3005"), "{event:?}");
    for (path, last) in [(path, subscribed.id.as_str()), (format!("/sse/user:42?ticket={unused}"), "")] {
        assert_eq!(status(address, &path, last).await, 401, "{path}");
    }
}

#[tokio::test]
async fn an_unused_ticket_expires() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let expired = ticket(&gateway, json!({ "user": "42", "ttl": 1 })).await;
    let key = format!("earshot:ticket:{expired}");
    until("Redis has removed the ticket", async || {
        (redis.run(&["EXISTS", &key]).await == redis::Value::Int(0)).then_some(())
    })
    .await;
    assert_eq!(status(gateway.address(), &format!("/sse/user:42?ticket={expired}"), "").await, 401);
    let ticket = ticket(&gateway, json!({ "user": "42" })).await;
    let ttl = redis.run(&["TTL", &format!("earshot:ticket:{ticket}")]).await;
    assert!(matches!(ttl, redis::Value::Int(1..=60)), "{ttl:?}");
}

#[tokio::test]
async fn a_ticket_decides_alone() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let address = gateway.address();
    let session = r#"{"cookie":{"originalMaxAge":null},"passport":{"user":42}}"#;
    redis.run(&["SET", SESSION.0, session, "EX", "600"]).await;
    let cookie = format!("Cookie: {}\r\n", SESSION.1);
    assert_eq!(request(address, "/sse/user:42", &cookie).await.0, 200);
    for invalid in ["AAAAAAAAAAAAAAAAAAAAAA", "x", ""] {
        let path = format!("/sse/user:42?ticket={invalid}");
        assert_eq!(request(address, &path, &cookie).await.0, 401, "{invalid}");
    }
    // The ticket of another user counts, not the cookie.
    let other = ticket(&gateway, json!({ "user": "43" })).await;
    let path = format!("/sse/user:42?ticket={other}");
    assert_eq!(request(address, &path, &cookie).await.0, 403);
}

#[tokio::test]
async fn without_its_redis_no_ticket_is_accepted() {
    let redis = Redis::start().await;
    let mut tickets = Redis::start().await;
    let instance = format!(
        "[redis.tickets]\nurl = {:?}\ncommand_timeout = \"1s\"\naffects_readiness = false\n",
        tickets.url()
    );
    let config = format!("{instance}{}", config("redis = \"tickets\"\nkey_prefix = \"app:\""));
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let address = gateway.address();
    let unused = ticket(&gateway, json!({ "user": "42" })).await;
    let stored = tickets.run(&["EXISTS", &format!("app:ticket:{unused}")]).await;
    assert_eq!(stored, redis::Value::Int(1));
    tickets.kill();
    let (status, mut raw) = request(address, &format!("/sse/user:42?ticket={unused}"), "").await;
    assert_eq!(status, 200, "an EventSource does not reconnect after an HTTP error");
    let event = String::from_utf8(raw.chunk().await.unwrap()).unwrap();
    assert!(event.contains("event: error") && !event.contains("subscribed"), "{event}");
    let (reply, _) = connect(address, "/ws", &unused).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)));
    let response = gateway.api("ticket", r#"{"user":"42"}"#).await;
    assert_eq!(response.json()["error"]["code"], 100, "{response:?}");
}

#[tokio::test]
async fn without_redis_tickets_are_in_the_memory_of_the_node() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(&config("")).redis(&redis).start().await;
    let path = format!("/sse/user:42?ticket={}", ticket(&gateway, json!({ "user": "42" })).await);
    let (_stream, subscribed) = SseClient::connect(gateway.address(), &path).await;
    assert_eq!(status(gateway.address(), &path, "").await, 401);
    assert_eq!(status(gateway.address(), &path, &subscribed.id).await, 200);
}

#[tokio::test]
async fn invalid_parameters_are_rejected() {
    let redis = Redis::start().await;
    let gateway = gateway(&redis).await;
    let large = "x".repeat(17_000);
    for (params, code) in [
        (json!({}), 107),
        (json!({ "user": 42 }), 107),
        (json!({ "user": "42", "ttl": 0 }), 107),
        (json!({ "user": "42", "ttl": 61 }), 107),
        (json!({ "user": "42", "expires_at": 1 }), 107),
        (json!({ "user": "42", "expire_at": now() - 1 }), 107),
        (json!({ "user": "42", "info": large }), 106),
    ] {
        let response = gateway.api("ticket", &params.to_string()).await;
        assert_eq!(response.json()["error"]["code"], code, "{response:?}");
    }
    let without = Gateway::start().await;
    let response = http::post(without.address(), "/api/ticket", &[], r#"{"user":"42"}"#).await;
    assert_eq!(response.json()["error"]["code"], 108, "{response:?}");
}
