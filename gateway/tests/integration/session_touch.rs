//! `touch = "ttl"`: a session stays alive while its user is connected.

use redis::Value;

use crate::harness::http::Raw;
use crate::harness::{Gateway, Redis, SseClient, until};

const CONFIG: &str = r#"
[[login]]
kind = "express"
secret = "keyboard cat"
touch = "ttl"

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = "owner"
"#;

const KEY: &str = "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN";
const COOKIE: &str = "Cookie: connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.\
                      j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0\r\n";
const SESSION: &str = r#"{"cookie":{"originalMaxAge":null},"passport":{"user":42}}"#;

async fn connect(gateway: &Gateway) -> SseClient {
    SseClient::open_with(Raw::connect(gateway.address()).await, "/sse/user:42", COOKIE).await
}

async fn remaining(redis: &Redis) -> i64 {
    match redis.run(&["PTTL", KEY]).await {
        Value::Int(milliseconds) => milliseconds,
        other => panic!("{other:?}"),
    }
}

/// Waits until the TTL of the session grows.
async fn wait_for_extension(redis: &Redis) {
    let mut last = remaining(redis).await;
    until("the TTL is extended", async || {
        let now = remaining(redis).await;
        assert!(now > 0, "the session has expired");
        let is_extended = now > last;
        last = now;
        is_extended.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_lives_as_long_as_a_connection_of_its_user() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    redis.run(&["SET", KEY, SESSION, "PX", "5000"]).await;
    let first = connect(&gateway).await;
    let mut second = connect(&gateway).await;
    // Each extension follows after about half a second.
    for _ in 0..3 {
        wait_for_extension(&redis).await;
    }
    assert!(remaining(&redis).await <= 5000, "not beyond the TTL that it had");
    drop(first);
    wait_for_extension(&redis).await;
    redis.publish("user:42", b"1").await;
    assert_eq!(second.data("message").await, "1", "an extension is no change of the session");
    drop(second);
    until("the session expires", async || (remaining(&redis).await == -2).then_some(())).await;
}

#[tokio::test]
async fn a_session_without_a_ttl_gets_none() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    redis.run(&["SET", KEY, SESSION]).await;
    let mut stream = connect(&gateway).await;
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1");
    assert_eq!(remaining(&redis).await, -1);
    let stats = format!("{:?}", redis.run(&["INFO", "commandstats"]).await);
    assert!(!stats.contains("cmdstat_pexpire"), "{stats}");
}

#[tokio::test]
async fn a_refused_extension_is_logged_once_and_ends_nothing() {
    let redis = Redis::start().await;
    redis.run(&["ACL", "SETUSER", "default", "-pexpire"]).await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    redis.run(&["SET", KEY, SESSION, "PX", "3000"]).await;
    let mut stream = connect(&gateway).await;
    gateway.wait_for_log(&["sessions cannot be extended"]).await;
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1");
    until("the session expires", async || (remaining(&redis).await == -2).then_some(())).await;
    assert_eq!(gateway.process.log().matches("sessions cannot be extended").count(), 1);
}
