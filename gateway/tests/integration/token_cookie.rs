//! Login by a token in a cookie.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::http::Raw;
use crate::harness::{Gateway, Redis, SseClient, until};

const SECRET: &str = "a secret of at least thirty-two bytes";

const CONFIG: &str = r#"
allowed_origins = ["https://app.example"]

[[login]]
kind = "jwt"
hmac_secret = "a secret of at least thirty-two bytes"
cookie = "token"

[[login]]
kind = "express"
secret = "keyboard cat"

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"
"#;

const KEY: &str = "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN";
const SESSION_COOKIE: &str =
    "connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0";

fn token(claims: &Value, secret: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

async fn status(gateway: &Gateway, channel: &str, lines: &str) -> u16 {
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send(format!("GET /sse/{channel} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
    raw.head().await.unwrap().status
}

#[tokio::test]
async fn a_token_in_a_cookie_logs_in_and_a_stale_one_counts_as_absent() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let session = r#"{"cookie":{"originalMaxAge":null},"passport":{"user":7}}"#;
    redis.run(&["SET", KEY, session, "EX", "600"]).await;
    let valid = token(&json!({ "sub": "42" }), SECRET);
    let expired = token(&json!({ "sub": "42", "exp": 1_500_000_000 }), SECRET);
    let forged = token(&json!({ "sub": "42" }), "another secret of thirty-two bytes");
    let unsigned = format!("{}.{}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), "eyJzdWIiOiI0MiJ9");

    let lines = format!("Cookie: theme=dark; token={valid}\r\n");
    // Until the revocations have been read, a login cannot be checked.
    until("logins are possible", async || {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(format!("GET /sse/user:42 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
        raw.head().await.unwrap();
        raw.chunk().await.unwrap().windows(10).any(|part| part == b"subscribed").then_some(())
    })
    .await;
    let mut stream =
        SseClient::open_with(Raw::connect(gateway.address()).await, "/sse/user:42", &lines).await;
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1");

    for (what, lines, channel, expected) in [
        ("another user", lines.clone(), "user:43", 403),
        ("expired", format!("Cookie: token={expired}\r\n"), "user:42", 401),
        ("forged", format!("Cookie: token={forged}\r\n"), "user:42", 401),
        ("without a signature", format!("Cookie: token={unsigned}\r\n"), "user:42", 401),
        ("another cookie", format!("Cookie: jeton={valid}\r\n"), "user:42", 401),
        ("the second of two", format!("Cookie: token={expired}; token={valid}\r\n"), "user:42", 200),
        ("a trusted page", format!("Origin: https://app.example\r\n{lines}"), "user:42", 200),
        ("a foreign page", format!("Sec-Fetch-Site: cross-site\r\n{lines}"), "user:42", 403),
        (
            "the session beside a stale token",
            format!("Cookie: token={expired}; {SESSION_COOKIE}\r\n"),
            "user:7",
            200,
        ),
        ("the first method decides", format!("Cookie: {SESSION_COOKIE}; token={valid}\r\n"), "user:7", 403),
        ("an explicit token decides", format!("Authorization: Bearer {forged}\r\n{lines}"), "user:42", 401),
    ] {
        assert_eq!(status(&gateway, channel, &lines).await, expected, "{what}");
    }
    let log = gateway.process.log();
    assert!(!log.contains(&valid[..40]), "{log}");
}
