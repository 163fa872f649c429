//! Revocation by the API: what one node accepts reaches the clients of every node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::proxy::{Proxy, ProxyMode};
use crate::harness::sse::Next;
use crate::harness::token_client::{SECRET, Socket, now, open_stream, stream_status, token};
use crate::harness::{Gateway, Redis, SseClient, until};

fn config() -> String {
    format!(
        r#"
[[login]]
kind = "jwt"
hmac_secret = "{SECRET}"

[[login]]
kind = "anonymous"

[[namespace]]
name = "user"
channels = ["user:{{user}}"]
subscribe = "owner"

[[namespace]]
name = "open"
channels = ["open"]
subscribe = "anyone"
"#
    )
}

async fn node(redis: &Redis) -> Gateway {
    Gateway::settings().config(&config()).redis(redis).start().await
}

/// A token of a user that was issued a minute ago.
fn token_of(user: &str) -> String {
    token(&json!({ "sub": user, "iat": now() - 60, "jti": format!("id-{user}") }))
}

/// The result of a method, which must succeed.
async fn api(gateway: &Gateway, method: &str, body: Value) {
    let response = gateway.api(method, &body.to_string()).await;
    assert_eq!(response.json(), json!({ "result": {} }), "{method} {body}");
}

/// The code of the error of a method.
async fn api_error(gateway: &Gateway, method: &str, body: Value) -> u64 {
    let response = gateway.api(method, &body.to_string()).await.json();
    response["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {body}: {response}"))
}

/// The clients of one user on one node: a WebSocket that is subscribed to the channel of the user, and a stream.
struct Clients {
    user: &'static str,
    socket: Socket,
    stream: SseClient,
}

impl Clients {
    async fn connect(gateway: &Gateway, user: &'static str) -> Self {
        let mut socket = Socket::connect(gateway.address(), &token_of(user)).await;
        let channel = format!("user:{user}");
        let reply = socket.request("subscribe", json!({ "channel": channel })).await;
        assert!(reply["subscribe"].is_object(), "{reply}");
        let stream = open_stream(gateway.address(), &format!("/sse/{channel}"), &token_of(user)).await;
        Self { user, socket, stream }
    }

    /// Both receive the next publication.
    async fn assert_connected(&mut self, redis: &Redis) {
        redis.publish(&format!("user:{}", self.user), b"7").await;
        assert_eq!(self.socket.push().await["pub"]["data"], 7, "{}", self.user);
        assert_eq!(self.stream.data("message").await, "7", "{}", self.user);
    }

    async fn assert_ended(&mut self, code: u64, reason: &str) {
        assert_eq!(self.socket.close().await, (code, reason.to_owned()));
        self.assert_stream_ended(code, reason).await;
    }

    async fn assert_stream_ended(&mut self, code: u64, reason: &str) {
        let event = loop {
            let event = self.stream.event().await;
            // The link to Redis was down.
            if event.name != "gap" {
                break event;
            }
        };
        let data: Value = serde_json::from_str(&event.data).unwrap_or_else(|_| panic!("{event:?}"));
        assert_eq!(data, json!({ "code": code, "reason": reason }));
        assert!(matches!(self.stream.next().await, Next::End));
    }
}

#[tokio::test]
async fn a_disconnect_reaches_the_other_node() {
    let redis = Redis::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut other = Clients::connect(&second, "43").await;
    let mut clients = Clients::connect(&second, "42").await;
    api(&first, "disconnect", json!({ "user": "42" })).await;
    clients.assert_ended(3503, "force disconnect").await;
    // Once: the user may come back.
    let mut clients = Clients::connect(&second, "42").await;
    let mut kept = Socket::connect(second.address(), &token_of("42")).await;
    let disconnect = json!({ "code": 4001, "reason": "moved" });
    let body = json!({ "user": "42", "disconnect": disconnect, "whitelist": [kept.client] });
    api(&first, "disconnect", body).await;
    clients.assert_ended(4001, "moved").await;
    // By client id: only this connection.
    let mut third = Socket::connect(second.address(), &token_of("42")).await;
    api(&first, "disconnect", json!({ "client": third.client })).await;
    assert_eq!(third.close().await.0, 3503);
    let reply = kept.request("subscribe", json!({ "channel": "user:42" })).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    other.assert_connected(&redis).await;
}

#[tokio::test]
async fn an_unsubscribe_reaches_the_other_node() {
    let redis = Redis::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut other = Clients::connect(&second, "43").await;
    let mut clients = Clients::connect(&second, "42").await;
    api(&first, "unsubscribe", json!({ "user": "42", "channel": "user:42" })).await;
    let push = clients.socket.push().await;
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("user:42"), &json!(2000)), "{push}");
    clients.assert_stream_ended(2000, "server unsubscribe").await;
    let reply = clients.socket.request("subscribe", json!({ "channel": "user:42" })).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    other.assert_connected(&redis).await;
}

#[tokio::test]
async fn a_refresh_reaches_the_other_node() {
    let redis = Redis::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut other = Clients::connect(&second, "43").await;
    let mut clients = Clients::connect(&second, "42").await;
    api(&first, "refresh", json!({ "user": "42", "expire_at": now() + 3600 })).await;
    assert_eq!(clients.socket.push().await["refresh"]["expires"], true);
    clients.assert_connected(&redis).await;
    api(&first, "refresh", json!({ "user": "42", "expired": true })).await;
    clients.assert_ended(3005, "connection expired").await;
    other.assert_connected(&redis).await;
}

#[tokio::test]
async fn a_revocation_reaches_all_nodes() {
    let redis = Redis::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut other = Clients::connect(&second, "43").await;
    let mut clients = Clients::connect(&second, "42").await;
    api(&first, "revoke", json!({ "token_id": "id-42", "ttl": 600 })).await;
    clients.assert_ended(3005, "connection expired").await;
    other.assert_connected(&redis).await;
    let mut own = Clients::connect(&first, "43").await;
    api(&first, "revoke", json!({ "user": "43" })).await;
    other.assert_ended(3005, "connection expired").await;
    own.assert_ended(3005, "connection expired").await;
}

#[tokio::test]
async fn an_expiry_of_the_api_ends_connections() {
    let redis = Redis::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut clients = Clients::connect(&second, "42").await;
    api(&first, "refresh", json!({ "user": "42", "expire_at": now() + 2 })).await;
    assert_eq!(clients.socket.push().await["refresh"]["expires"], true);
    // A stream has no grace in which its client could present another token.
    clients.assert_stream_ended(3005, "connection expired").await;
}

#[tokio::test]
async fn a_revoked_token_is_refused_by_all_nodes() {
    let redis = Redis::start().await;
    let mut nodes = [node(&redis).await, node(&redis).await];
    let mut waiting = Socket::connect(nodes[1].address(), &token_of("44")).await;
    api(&nodes[0], "revoke", json!({ "user": "42", "ttl": 600 })).await;
    api(&nodes[0], "revoke", json!({ "token_id": "id-44", "ttl": 600 })).await;
    assert_eq!(waiting.close().await.0, 3005);
    for restarted in [false, true] {
        if restarted {
            nodes = [node(&redis).await, node(&redis).await];
        }
        for gateway in &nodes {
            let address = gateway.address();
            until("the node knows the revocations", async || {
                let (_, reply) = Socket::try_connect(address, &token_of("44")).await;
                (reply["error"]["code"] == 109).then_some(())
            })
            .await;
            // SDKs request another token after this error.
            for revoked in [token_of("42"), token(&json!({ "sub": "42" }))] {
                let (_, reply) = Socket::try_connect(address, &revoked).await;
                assert_eq!(reply["error"]["code"], 109, "{reply}");
                assert_eq!(stream_status(address, "/sse/user:42", &revoked).await, 401);
            }
            let later = token(&json!({ "sub": "42", "iat": now() + 5, "exp": now() + 600 }));
            let mut socket = Socket::connect(address, &later).await;
            assert_eq!(stream_status(address, "/sse/user:42", &later).await, 200);
            let reply = socket.request("refresh", json!({ "token": token_of("42") })).await;
            assert_eq!(reply["close"], 3005, "{reply}");
            assert_eq!(stream_status(address, "/sse/user:43", &token_of("43")).await, 200);
        }
    }
}

#[tokio::test]
async fn a_revocation_during_a_lost_link_takes_effect_afterwards() {
    let redis = Redis::start().await;
    let proxy = Proxy::before(redis.address()).await;
    let first = node(&redis).await;
    let second = Gateway::settings().config(&config()).environment("REDIS_URL", &proxy.url()).start().await;
    let mut clients = Clients::connect(&second, "42").await;
    let mut other = Socket::connect(second.address(), &token_of("43")).await;
    proxy.allow(ProxyMode::Closed);
    second.wait_for_ready_status(503).await;
    api(&first, "revoke", json!({ "user": "42" })).await;
    api(&first, "disconnect", json!({ "user": "44" })).await;
    // Nothing is in effect that Redis has not stored.
    assert_eq!(api_error(&second, "revoke", json!({ "user": "43" })).await, 100);
    proxy.allow(ProxyMode::Open);
    clients.assert_ended(3005, "connection expired").await;
    let reply = other.request("ping", json!({})).await;
    assert!(reply["ping"].is_object() && reply.get("error").is_none(), "{reply}");
}

#[tokio::test]
async fn a_server_without_tracking_is_read_at_an_interval() {
    let redis = Redis::start().await;
    redis.run(&["ACL", "SETUSER", "default", "-client|tracking"]).await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    let mut clients = Clients::connect(&second, "42").await;
    let health = second.fetch("/health").await.json();
    assert_eq!(health["session_stores"][0]["tracking"], "sweep", "{health}");
    api(&first, "revoke", json!({ "user": "42" })).await;
    // Other watched keys are read every 24 to 30 seconds.
    let ended = clients.assert_ended(3005, "connection expired");
    timeout(Duration::from_secs(15), ended).await.expect("revocations are read more often");
}

#[tokio::test]
async fn a_node_without_redis_revokes_its_own_clients() {
    let gateway = Gateway::settings().config(&config()).start().await;
    let mut socket = Socket::connect(gateway.address(), &token_of("42")).await;
    let mut stream = open_stream(gateway.address(), "/sse/user:42", &token_of("42")).await;
    api(&gateway, "revoke", json!({ "user": "42" })).await;
    assert_eq!(socket.close().await.0, 3005);
    assert_eq!(stream.event().await.name, "error");
    assert_eq!(stream_status(gateway.address(), "/sse/user:42", &token_of("42")).await, 401);
}

#[tokio::test]
async fn what_cannot_be_in_effect_is_an_error() {
    let redis = Redis::start().await;
    let config = format!("[limits]\nrevocations = 16\n{}", config());
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    for (method, body, code) in [
        ("disconnect", json!({}), 107),
        ("disconnect", json!({ "user": "42", "session": "s" }), 108),
        ("unsubscribe", json!({ "user": "42" }), 107),
        ("refresh", json!({ "user": "42" }), 107),
        ("revoke", json!({}), 107),
        ("revoke", json!({ "user": "42", "token_id": "t" }), 107),
        ("revoke", json!({ "session": "s" }), 107),
    ] {
        assert_eq!(api_error(&gateway, method, body.clone()).await, code, "{method} {body}");
    }
    for user in 0..16 {
        api(&gateway, "revoke", json!({ "user": user.to_string(), "ttl": 2 })).await;
    }
    assert_eq!(api_error(&gateway, "revoke", json!({ "user": "16" })).await, 106);
    until("the first revocations have expired", async || {
        let response = gateway.api("revoke", r#"{"user":"16"}"#).await.json();
        response["result"].is_object().then_some(())
    })
    .await;
    let without_logins = Gateway::on(&redis).await;
    assert_eq!(api_error(&without_logins, "disconnect", json!({ "user": "42" })).await, 108);
}
