//! Limits of users and addresses: connections, failed logins, publications.
//!
//! The clients have addresses of their own behind a trusted proxy: on loopback, limits per address do not apply.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::ws::WsClient;
use crate::harness::ws_frames::RawWebSocket;
use crate::harness::{Gateway, Redis, until};

const SECRET: &str = "a secret of at least thirty-two bytes";

const LOGIN: &str = r#"
[[login]]
kind = "jwt"
hmac_secret = "a secret of at least thirty-two bytes"

[[namespace]]
name = "open"
channels = ["open"]
subscribe = "authenticated"
publish = "authenticated"
"#;

fn token(user: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(&json!({ "sub": user })));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

async fn start(limits: &str) -> Gateway {
    Gateway::settings()
        .config(&format!("trusted_proxies = [\"127.0.0.1\"]\n[limits]\n{limits}\n{LOGIN}"))
        .start()
        .await
}

/// A stream of a client at this address; its first event.
async fn stream(gateway: &Gateway, address: &str, lines: &str) -> (Raw, String) {
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!(
        "GET /sse/open HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\n{lines}\r\n"
    ))
    .await;
    let status = raw.head().await.unwrap().status;
    if status != 200 {
        return (raw, status.to_string());
    }
    let event = String::from_utf8(raw.chunk().await.unwrap()).unwrap();
    (raw, event)
}

fn bearer(user: &str) -> String {
    format!("Authorization: Bearer {}\r\n", token(user))
}

/// A WebSocket client with this token, which connects.
async fn connect(gateway: &Gateway, token: &str) -> WsClient {
    let mut client = WsClient::handshake_only(gateway.address(), Encoding::Json).await;
    let reply = client.request("connect", json!({ "token": token })).await;
    assert!(reply["connect"].is_object(), "{reply}");
    client
}

/// The close code of a WebSocket client with this token.
async fn rejection(gateway: &Gateway, token: &str) -> u16 {
    let mut client = RawWebSocket::open(gateway.address()).await;
    client.text(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
    client.close().await.unwrap().0
}

#[tokio::test]
async fn a_user_has_a_limited_number_of_connections_over_all_transports() {
    let gateway = start("connections_per_user = 2").await;
    let (_first, event) = stream(&gateway, "203.0.113.1", &bearer("42")).await;
    assert!(event.contains("event: subscribed"), "{event}");
    let second = connect(&gateway, &token("42")).await;
    assert_eq!(rejection(&gateway, &token("42")).await, 3504);
    let (_, event) = stream(&gateway, "203.0.113.2", &bearer("42")).await;
    assert!(event.contains("3504"), "{event}");
    let _other = connect(&gateway, &token("43")).await;
    let rejected =
        gateway.metric("earshot_limit_rejections_total", &["limit=\"connections_per_user\""]).await;
    assert_eq!(rejected, 2.0);
    drop(second);
    until("the connection no longer counts", async || {
        stream(&gateway, "203.0.113.2", &bearer("42")).await.1.contains("event: subscribed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_address_has_a_limited_number_of_connections() {
    let gateway = start("connections_per_address = 2").await;
    let mut open = Vec::new();
    for user in ["1", "2"] {
        let (raw, event) = stream(&gateway, "203.0.113.1", &bearer(user)).await;
        assert!(event.contains("event: subscribed"), "{event}");
        open.push(raw);
    }
    let (_, event) = stream(&gateway, "203.0.113.1", &bearer("3")).await;
    assert!(event.contains("3013"), "{event}");
    let (_other, event) = stream(&gateway, "203.0.113.2", &bearer("3")).await;
    assert!(event.contains("event: subscribed"), "{event}");
    // Loopback clients are not counted.
    let mut local = Vec::new();
    for user in ["4", "5", "6"] {
        local.push(connect(&gateway, &token(user)).await);
    }
    open.clear();
    until("the connections no longer count", async || {
        stream(&gateway, "203.0.113.1", &bearer("3")).await.1.contains("event: subscribed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_guesses_cost_redis_as_many_reads_as_permitted() {
    let redis = Redis::start().await;
    let config = "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nfailed_logins_per_minute = 20\n\
                  [[login]]\nkind = \"plain\"\nuser = \"/user\"\n\
                  [[namespace]]\nname = \"open\"\nchannels = [\"open\"]\nsubscribe = \"authenticated\"\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    redis.run(&["SET", "session:0123456789abcdef0123456789abcdef", "{\"user\":\"42\"}", "EX", "600"]).await;
    let valid = "Cookie: session=0123456789abcdef0123456789abcdef\r\n";
    until("logins are possible", async || {
        stream(&gateway, "203.0.113.9", valid).await.1.contains("event: subscribed").then_some(())
    })
    .await;
    redis.run(&["CONFIG", "RESETSTAT"]).await;
    let guesses = (0..8).map(|task| {
        let gateway = &gateway;
        async move {
            for guess in 0..1250 {
                let cookie = format!("Cookie: session=guess{task:02}{guess:025}\r\n");
                let (_, event) = stream(gateway, "203.0.113.1", &cookie).await;
                assert!(event == "401" || event.contains("3013"), "{event}");
            }
        }
    });
    futures::future::join_all(guesses).await;
    let (_, event) = stream(&gateway, "203.0.113.1", valid).await;
    assert!(event.contains("3013"), "the address has no login left: {event}");
    let (_stream, event) = stream(&gateway, "203.0.113.2", valid).await;
    assert!(event.contains("event: subscribed"), "another address: {event}");
    let stats = format!("{:?}", redis.run(&["INFO", "commandstats"]).await);
    let reads = stats.split("cmdstat_get:calls=").nth(1).and_then(|rest| rest.split(',').next());
    let reads: usize = reads.and_then(|reads| reads.parse().ok()).unwrap();
    // Each guess is one read. The bucket refills by one in three seconds; logins that run at once may exceed it.
    assert!(reads <= 200, "{reads} reads for 10,000 guesses");
}

#[tokio::test]
async fn one_client_has_a_limited_number_of_pending_token_checks() {
    let gateway = start("channels_per_connection = 16").await;
    let mut client = connect(&gateway, &token("42")).await;
    // One frame: all commands are read before the first check has ended.
    let subscribe = (0..60).map(|number| json!({ "channel": format!("other:{number}"), "token": "a.b.c" }));
    let replies = client.requests("subscribe", subscribe).await;
    let rejected = replies.iter().filter(|reply| reply["error"]["code"] == 111).count();
    assert_eq!(rejected, 44, "{replies:?}");
}

#[tokio::test]
async fn publications_of_a_client_and_of_a_user_are_limited() {
    let gateway = start("publishes_per_second = 5\npublishes_per_second_per_user = 8").await;
    let mut first = connect(&gateway, &token("42")).await;
    let mut second = connect(&gateway, &token("42")).await;
    let publish = || (0..20).map(|number| json!({ "channel": "open", "data": number }));
    let accepted = |replies: Vec<Value>| {
        for reply in replies.iter().filter(|reply| !reply["publish"].is_object()) {
            assert_eq!(reply["error"]["code"], 111, "{reply}");
        }
        replies.iter().filter(|reply| reply["publish"].is_object()).count()
    };
    // A slow machine refills buckets meanwhile; without a limit all 20 were accepted.
    let of_first = accepted(first.requests("publish", publish()).await);
    let of_second = accepted(second.requests("publish", publish()).await);
    assert!((5..15).contains(&of_first) && (1..15).contains(&of_second), "{of_first} and {of_second}");
    let mut other = connect(&gateway, &token("43")).await;
    assert!(accepted(other.requests("publish", publish()).await) >= 5, "another user");
}
