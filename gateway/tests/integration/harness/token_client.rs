//! Clients that log in with a token.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::http::Raw;
use super::sse::SseClient;
use super::within_timeout;
use super::ws_frames::{CLOSE, RawWebSocket};

/// The secret of all tokens.
pub(crate) const SECRET: &str = "a secret for tokens in tests, of 32 bytes and more";

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims, signed with [`SECRET`].
pub(crate) fn token(claims: &Value) -> String {
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let head = encode(r#"{"alg":"HS256","typ":"JWT"}"#.to_owned());
    let signed = format!("{head}.{}", encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

/// Opens a stream with a token.
pub(crate) async fn open_stream(address: SocketAddr, path: &str, token: &str) -> SseClient {
    let line = format!("Authorization: Bearer {token}\r\n");
    Box::pin(async move { SseClient::open_with(Raw::connect(address).await, path, &line).await }).await
}

/// The status of the response to a request for a stream with a token.
pub(crate) async fn stream_status(address: SocketAddr, path: &str, token: &str) -> u16 {
    let mut raw = Raw::connect(address).await;
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    raw.send(head).await;
    raw.head().await.unwrap().status
}

/// A WebSocket in the JSON encoding.
pub(crate) struct Socket {
    raw: RawWebSocket,
    received: VecDeque<Value>,
    last_id: u32,
    /// The client id.
    pub(crate) client: String,
}

impl Socket {
    /// Opens a WebSocket and completes its connect command.
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Self {
        let (mut socket, reply) = Self::try_connect(address, token).await;
        let client = reply["connect"]["client"].as_str();
        socket.client = client.unwrap_or_else(|| panic!("{reply}")).to_owned();
        socket
    }

    /// Opens a WebSocket, and returns the reply to its connect command or `{"close":CODE}`.
    pub(crate) async fn try_connect(address: SocketAddr, token: &str) -> (Self, Value) {
        let raw = Box::pin(RawWebSocket::open_with(address, "/ws", &[])).await;
        let mut socket = Self { raw, received: VecDeque::new(), last_id: 0, client: String::new() };
        let reply = socket.request("connect", json!({ "token": token })).await;
        (socket, reply)
    }

    /// The reply to a command. Answers pings, and keeps pushes for [`Socket::push`].
    pub(crate) async fn request(&mut self, method: &str, body: Value) -> Value {
        self.last_id += 1;
        let command = json!({ "id": self.last_id, method: body });
        self.raw.text(&command.to_string()).await;
        let mut pushes = VecDeque::new();
        let id = self.last_id;
        let reply = within_timeout("a reply", async {
            loop {
                let item = self.next().await;
                if item["id"] == id || item["close"].is_u64() {
                    return item;
                }
                pushes.push_back(item);
            }
        })
        .await;
        pushes.append(&mut self.received);
        self.received = pushes;
        reply
    }

    /// The next push, or `{"close":CODE,"reason":TEXT}`.
    pub(crate) async fn push(&mut self) -> Value {
        // Over all frames, since pings never end.
        within_timeout("a push", async {
            loop {
                let item = self.next().await;
                match item.get("push") {
                    Some(push) => return push.clone(),
                    None if item["close"].is_u64() => return item,
                    None => {}
                }
            }
        })
        .await
    }

    /// The close code, after all pushes.
    pub(crate) async fn close(&mut self) -> (u64, String) {
        within_timeout("a close", async {
            loop {
                let item = self.next().await;
                if let Some(code) = item["close"].as_u64() {
                    return (code, item["reason"].as_str().unwrap().to_owned());
                }
            }
        })
        .await
    }

    async fn next(&mut self) -> Value {
        while self.received.is_empty() {
            let frame = self.raw.frame().await.unwrap();
            if frame.first == CLOSE {
                let (code, reason) = frame.payload.split_at(2);
                let code = u16::from_be_bytes(code.try_into().unwrap());
                return json!({ "close": code, "reason": String::from_utf8_lossy(reason) });
            }
            for line in frame.payload.split(|byte| *byte == b'\n') {
                let item: Value = serde_json::from_slice(line).unwrap();
                if item == json!({}) {
                    self.raw.text("{}").await;
                } else {
                    self.received.push_back(item);
                }
            }
        }
        self.received.pop_front().unwrap()
    }
}
