//! Login by the session that an application keeps in Redis.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::http::{self, Raw};
use crate::harness::http2::Connection;
use crate::harness::sse::Next;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, Redis, SseClient, until, within_timeout};

const CONFIG: &str = r#"
[[login]]
kind = "express"
secret = ["new", "keyboard cat"]

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"

[[namespace]]
name = "members"
channels = ["members"]
subscribe = "authenticated"
publish = "authenticated"

[[namespace]]
name = "open"
channels = ["open"]
subscribe = "anyone"
"#;

/// Cookies of express-session, with their session ids: one for each secret.
const FIRST: (&str, &str) =
    ("sess:custom.id-1", "connect.sid=s%3Acustom.id-1.wSKlgtSQ3U8KfZT9lRmaDy7e6D3O6jEh92T8gf7Gq5Y");
const SECOND: (&str, &str) = (
    "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN",
    "connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0",
);

/// A configuration with sessions in a Redis of their own.
fn config_with(sessions: &Redis) -> String {
    format!(
        "[redis.sessions]\nurl = {:?}\ncommand_timeout = \"1s\"\naffects_readiness = false\n{}",
        sessions.url(),
        CONFIG.replace("kind = \"express\"", "kind = \"express\"\nredis = \"sessions\"")
    )
}

async fn log_in(redis: &Redis, key: &str, user: &str) {
    let session = format!(r#"{{"cookie":{{"originalMaxAge":null}},"passport":{{"user":{user}}}}}"#);
    redis.run(&["SET", key, &session, "EX", "600"]).await;
}

fn line(cookie: &str) -> String {
    format!("Cookie: {cookie}\r\n")
}

async fn open(address: SocketAddr, path: &str, cookie: &str) -> SseClient {
    SseClient::open_with(Raw::connect(address).await, path, &line(cookie)).await
}

/// The status of the response to a request for a stream.
async fn status(address: SocketAddr, path: &str, lines: &str) -> u16 {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
    raw.head().await.unwrap().status
}

/// A WebSocket whose handshake contains a cookie.
struct Socket {
    raw: RawWebSocket,
    received: VecDeque<Value>,
}

impl Socket {
    async fn open(address: SocketAddr, cookie: &str) -> Self {
        let raw = RawWebSocket::open_with(address, "/ws", &[line(cookie).trim_end()]).await;
        Self { raw, received: VecDeque::new() }
    }

    /// Opens a WebSocket and completes its connect command.
    async fn connect(address: SocketAddr, cookie: &str) -> Self {
        let mut socket = Self::open(address, cookie).await;
        let reply = socket.request(r#"{"id":1,"connect":{}}"#).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        socket
    }

    async fn request(&mut self, text: &str) -> Value {
        self.raw.text(text).await;
        self.next().await
    }

    async fn subscribe(&mut self, id: u32, channel: &str) -> Value {
        self.request(&json!({ "id": id, "subscribe": { "channel": channel } }).to_string()).await
    }

    /// The next reply or push.
    async fn next(&mut self) -> Value {
        while self.received.is_empty() {
            let frame = within_timeout("a frame", self.raw.frame()).await.unwrap();
            let lines = frame.payload.split(|byte| *byte == b'\n');
            self.received.extend(lines.map(|line| serde_json::from_slice(line).unwrap()));
        }
        self.received.pop_front().unwrap()
    }
}

#[tokio::test]
async fn a_session_gives_access_to_the_channels_of_its_user() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let address = gateway.address();
    log_in(&redis, FIRST.0, "42").await;
    log_in(&redis, SECOND.0, "\"a:b\"").await;
    let mut stream = open(address, "/sse/user:42", FIRST.1).await;
    let mut socket = Socket::connect(address, FIRST.1).await;
    let reply = socket.subscribe(2, "user:42").await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    assert_eq!(socket.subscribe(3, "user:43").await["error"]["code"], 103);
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1");
    assert_eq!(socket.next().await["push"]["pub"]["data"], 1);
    for (path, cookie, expected) in [
        ("/sse/user:43", FIRST.1, 403),
        ("/sse/user:42", SECOND.1, 403),
        ("/sse/user:a:b", SECOND.1, 403),
        ("/sse/members", SECOND.1, 200),
        ("/sse/members", "connect.sid=s%3Acustom.id-1.wrong", 401),
        ("/sse/user:42", "connect.sid=custom.id-1", 401),
        ("/sse/open", FIRST.1, 200),
        ("/sse/open", "a=b", 401),
    ] {
        assert_eq!(status(address, path, &line(cookie)).await, expected, "{path} {cookie}");
    }
    let log = gateway.process.log();
    assert!(!log.contains("custom.id-1") && !log.contains("keyboard cat"), "{log}");
}

#[tokio::test]
async fn a_logout_ends_streams_and_sockets() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let address = gateway.address();
    // The key is deleted; the session stays without a user; another user logs in with the same session.
    for change in ["", r#"{"cookie":{},"passport":{}}"#, r#"{"cookie":{},"passport":{"user":43}}"#] {
        log_in(&redis, FIRST.0, "42").await;
        let mut stream = open(address, "/sse/user:42", FIRST.1).await;
        let mut socket = Socket::connect(address, FIRST.1).await;
        log_in(&redis, SECOND.0, "44").await;
        let mut other = open(address, "/sse/user:44", SECOND.1).await;
        match change {
            "" => drop(redis.run(&["DEL", FIRST.0]).await),
            value => drop(redis.run(&["SET", FIRST.0, value, "EX", "600"]).await),
        }
        let event = stream.event().await;
        assert_eq!(event.name, "error", "{event:?}");
        assert!(event.data.contains("3005"), "{event:?}");
        assert!(matches!(stream.next().await, Next::End));
        assert_eq!(socket.raw.close().await.map(|(code, _)| code), Some(3005), "{change}");
        assert_ne!(status(address, "/sse/user:42", &line(FIRST.1)).await, 200);
        redis.publish("user:44", b"1").await;
        assert_eq!(other.data("message").await, "1", "another session is not affected");
    }
}

#[tokio::test]
async fn only_trusted_pages_log_in_with_cookies() {
    let redis = Redis::start().await;
    let config = format!("allowed_origins = [\"*\", \"https://app.example\"]\n{CONFIG}");
    let gateway = Gateway::settings().production().config(&config).redis(&redis).start().await;
    log_in(&redis, FIRST.0, "42").await;
    for (lines, expected) in [
        ("", 200),
        ("Origin: https://app.example\r\n", 200),
        ("Origin: http://localhost\r\n", 200),
        ("Origin: https://evil.example\r\n", 401),
        ("Sec-Fetch-Site: cross-site\r\n", 401),
    ] {
        let lines = format!("{lines}{}", line(FIRST.1));
        assert_eq!(status(gateway.address(), "/sse/user:42", &lines).await, expected, "{lines}");
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_checked_is_retried() {
    let redis = Redis::start().await;
    let sessions = Redis::start().await;
    let config = config_with(&sessions);
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let address = gateway.address();
    log_in(&sessions, FIRST.0, "42").await;
    let mut before = open(address, "/sse/user:42", FIRST.1).await;
    sessions.signal("STOP");
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET /sse/user:42 HTTP/1.1\r\nHost: localhost\r\n{}\r\n", line(FIRST.1))).await;
    let head = raw.head().await.unwrap();
    assert_eq!(head.status, 200, "an EventSource does not reconnect after an HTTP error");
    let event = String::from_utf8(raw.chunk().await.unwrap()).unwrap();
    assert!(event.contains("event: error") && event.contains("retry: "), "{event}");
    let reply = Socket::open(address, FIRST.1).await.request(r#"{"id":1,"connect":{}}"#).await;
    assert_eq!(
        (reply["error"]["code"].as_u64(), reply["error"]["temporary"].as_bool()),
        (Some(100), Some(true))
    );
    // A client that needs no login is not affected, and no login ends.
    assert_eq!(status(address, "/sse/open", "").await, 401);
    redis.publish("user:42", b"1").await;
    assert_eq!(before.data("message").await, "1");
    sessions.signal("CONT");
    until("the session is read again", async || {
        (status(address, "/sse/user:42", &line(FIRST.1)).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn commands_wait_for_the_login() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    log_in(&redis, FIRST.0, "42").await;
    let mut socket = Socket::open(gateway.address(), FIRST.1).await;
    socket
        .raw
        .text(
            "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"members\"}}\n\
             {\"id\":3,\"publish\":{\"channel\":\"members\",\"data\":1}}\n{\"id\":4,\"ping\":{}}",
        )
        .await;
    let mut replies = Vec::new();
    while replies.len() < 4 {
        let item = socket.next().await;
        if item["id"].is_u64() {
            assert!(item.get("error").is_none(), "{item}");
            replies.push(item["id"].as_u64().unwrap());
        }
    }
    assert_eq!(replies, [1, 2, 3, 4]);
    // Without a login, the commands after the connect command are checked as those of a guest.
    let mut socket = Socket::open(gateway.address(), "connect.sid=s%3Ax.y").await;
    socket.raw.text("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"members\"}}").await;
    assert!(socket.next().await["connect"].is_object());
    assert_eq!(socket.next().await["error"]["code"], 101);
    assert_eq!(http::fetch(gateway.address(), "/health").await.status, 200);
}

#[tokio::test]
async fn a_session_is_revoked_by_its_id() {
    let redis = Redis::start().await;
    let config = CONFIG;
    let first = Gateway::settings().config(config).redis(&redis).start().await;
    let second = Gateway::settings().config(config).redis(&redis).start().await;
    log_in(&redis, FIRST.0, "42").await;
    log_in(&redis, SECOND.0, "42").await;
    let mut socket = Socket::connect(second.address(), FIRST.1).await;
    let mut other = Socket::connect(second.address(), SECOND.1).await;
    let response = first.api("revoke", r#"{"session":"custom.id-1"}"#).await;
    assert_eq!(response.json(), json!({ "result": {} }));
    assert_eq!(socket.raw.close().await.map(|(code, _)| code), Some(3005));
    for gateway in [&first, &second] {
        assert_eq!(status(gateway.address(), "/sse/user:42", &line(FIRST.1)).await, 401);
        assert_eq!(status(gateway.address(), "/sse/user:42", &line(SECOND.1)).await, 200);
    }
    // The sessions of a user end once: those that still exist are logins again.
    let response = first.api("revoke", r#"{"user":"42"}"#).await;
    assert_eq!(response.json(), json!({ "result": {} }));
    assert_eq!(other.raw.close().await.map(|(code, _)| code), Some(3005));
    assert_eq!(status(second.address(), "/sse/user:42", &line(SECOND.1)).await, 200);
    let stored = format!("{:?}", redis.run(&["HGETALL", "earshot:revocations"]).await);
    assert!(!stored.contains("custom.id-1"), "{stored}");
}

#[tokio::test]
async fn a_session_ends_when_its_key_gets_another_type() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    log_in(&redis, FIRST.0, "42").await;
    let mut stream = open(gateway.address(), "/sse/user:42", FIRST.1).await;
    // In one step: the key is never missing.
    let replace = "redis.call('DEL', KEYS[1]) return redis.call('HSET', KEYS[1], 'user', '42')";
    redis.run(&["EVAL", replace, "1", FIRST.0]).await;
    let event = stream.event().await;
    assert!(event.name == "error" && event.data.contains("3005"), "{event:?}");
    assert_eq!(status(gateway.address(), "/sse/user:42", &line(FIRST.1)).await, 401);
    let logged = until("the change is logged", async || {
        let count = gateway.process.log().matches("a watched key has another type").count();
        (count > 0).then_some(count)
    });
    assert_eq!(logged.await, 1);
}

#[tokio::test]
async fn a_second_connect_command_is_rejected_while_the_first_waits_for_the_login() {
    let (redis, sessions) = (Redis::start().await, Redis::start().await);
    let gateway = Gateway::settings().config(&config_with(&sessions)).redis(&redis).start().await;
    log_in(&sessions, FIRST.0, "42").await;
    sessions.signal("STOP");
    let mut socket = Socket::open(gateway.address(), FIRST.1).await;
    socket.raw.text("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"connect\":{}}").await;
    assert_eq!(socket.raw.close().await.map(|(code, _)| code), Some(3501));
    sessions.signal("CONT");
}

#[tokio::test]
async fn a_session_gives_access_over_http2() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    log_in(&redis, FIRST.0, "42").await;
    let connection = Connection::open(&gateway).await;
    for (path, cookie, status) in [
        ("/sse/user:42", FIRST.1, 200),
        ("/sse/user:43", FIRST.1, 403),
        ("/sse/user:42", "connect.sid=s%3Acustom.id-1.wrong", 401),
    ] {
        let response = connection.get_with_headers(path, &[("cookie", cookie)]).await;
        assert_eq!(response.status(), status, "{path} {cookie}");
    }
}
