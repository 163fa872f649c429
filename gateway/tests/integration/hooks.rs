//! Hooks: the backend of the application decides what clients may do, and answers their calls.

mod connect;
mod failures;
mod publish;
mod rpc;
mod subscribe;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::harness::hook_server::HookServer;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, within_timeout};

const SECRET: &str = "a secret of the tests, long enough";

/// A gateway whose hooks this server receives; `settings` are further settings of hooks.
async fn start(server: &HookServer, settings: &str) -> Gateway {
    let url = |event: &str| format!("{event} = \"{}\"\n", server.url(&format!("/{event}")));
    let urls: String = ["subscribe", "publish", "rpc"].into_iter().map(url).collect();
    start_with(&format!("{urls}{settings}")).await
}

/// As [`start`]; pages of every origin may connect.
async fn start_for_all_origins(server: &HookServer, settings: &str) -> Gateway {
    let url = server.url("/subscribe");
    let hooks = format!("subscribe = \"{url}\"\npublish = \"{url}\"\n{settings}");
    let settings = Gateway::settings().config(&config(&hooks));
    settings.environment("EARSHOT_ALLOWED_ORIGINS", "*").start().await
}

/// A gateway with this section `[hooks]`.
async fn start_with(hooks: &str) -> Gateway {
    Gateway::settings().config(&config(hooks)).start().await
}

fn config(hooks: &str) -> String {
    format!(
        r#"
        [[login]]
        kind = "jwt"
        hmac_secret = "{SECRET}"
        [[login]]
        kind = "anonymous"
        [hooks]
        {hooks}
        [[namespace]]
        name = "hooked"
        channels = ["hooked:*"]
        subscribe = "hook"
        publish = "hook"
        [[namespace]]
        name = "open"
        channels = ["open:*"]
        subscribe = ["anyone", "hook"]
        publish = "anyone"
        "#
    )
}

/// A connection token of a user.
fn token(user: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": user, "info": { "name": user } });
    let signed = format!("{}.{}", part(json!({ "alg": "HS256" })), part(claims));
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code))
}

/// A WebSocket client that reads each reply and push.
struct Socket {
    raw: RawWebSocket,
    received: VecDeque<Value>,
}

impl Socket {
    /// Connects without a login.
    async fn guest(gateway: &Gateway, lines: &[&str]) -> Self {
        let raw = RawWebSocket::open_with(gateway.address(), "/ws", lines).await;
        let mut socket = Self { raw, received: VecDeque::new() };
        let reply = socket.request(&json!({ "id": 1, "connect": {} })).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        socket
    }

    /// Connects as a user.
    async fn user(gateway: &Gateway, user: &str) -> Self {
        let (socket, reply) = Self::connect(gateway, json!({ "token": token(user) })).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        socket
    }

    /// Connects with a connect command. Also returns the reply.
    async fn connect(gateway: &Gateway, connect: Value) -> (Self, Value) {
        let mut socket = Self::open(gateway).await;
        let reply = socket.request(&json!({ "id": 1, "connect": connect })).await;
        (socket, reply)
    }

    /// Opens a socket without a connect command.
    async fn open(gateway: &Gateway) -> Self {
        let raw = RawWebSocket::open_with(gateway.address(), "/ws", &[]).await;
        Self { raw, received: VecDeque::new() }
    }

    async fn send(&mut self, command: &Value) {
        self.raw.text(&command.to_string()).await;
    }

    async fn request(&mut self, command: &Value) -> Value {
        self.send(command).await;
        self.next().await
    }

    async fn subscribe(&mut self, channel: &str) -> Value {
        self.request(&json!({ "id": 2, "subscribe": { "channel": channel } })).await
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
