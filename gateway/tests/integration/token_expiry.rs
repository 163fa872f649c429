//! Expiry of tokens: of connections and of subscriptions. The gateway accepts expired tokens for `leeway`, and ends what
//! depends on them 25 seconds after `exp`, so that these tests need not wait for long.

use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::harness::token_client::{SECRET, Socket, now, token};

/// Without pings that could end an expired connection in passing.
fn config() -> String {
    format!(
        r#"
[websocket]
ping_interval = "1h"

[[login]]
kind = "jwt"
hmac_secret = "{SECRET}"
leeway = "5m"
fields = {{ tenant = "/tenant" }}

[[namespace]]
name = "private"
channels = ["private:*"]
subscribe = "token"
"#
    )
}

/// A moment after which about 5 seconds of the grace are left.
fn nearly_over() -> u64 {
    now() - 20
}

fn login(exp: u64) -> String {
    token(&json!({ "sub": "42", "exp": exp }))
}

fn subscription(channel: &str, exp: u64) -> Value {
    json!({ "channel": channel, "token": token(&json!({ "sub": "42", "channel": channel, "exp": exp })) })
}

#[tokio::test]
async fn a_subscription_ends_alone_unless_it_is_refreshed() {
    let gateway = Gateway::settings().config(&config()).start().await;
    let mut socket = Socket::connect(gateway.address(), &login(now() + 600)).await;
    for channel in ["private:a", "private:b"] {
        let reply = socket.request("subscribe", subscription(channel, nearly_over())).await;
        assert_eq!(
            (&reply["subscribe"]["expires"], &reply["subscribe"]["ttl"]),
            (&json!(true), &json!(1)),
            "{reply}"
        );
    }
    let reply = socket.request("sub_refresh", subscription("private:b", now() + 600)).await;
    assert_eq!(reply["sub_refresh"]["expires"], true, "{reply}");
    assert!(reply["sub_refresh"]["ttl"].as_u64().is_some_and(|ttl| (500..=600).contains(&ttl)), "{reply}");
    let push = socket.push().await;
    assert_eq!(
        (&push["channel"], &push["unsubscribe"]["code"]),
        (&json!("private:a"), &json!(2501)),
        "{push}"
    );
    // The client subscribes again with a new token; the other subscription continues.
    let reply = socket.request("subscribe", subscription("private:a", now() + 600)).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    for channel in ["private:a", "private:b"] {
        gateway.publish(channel, "7").await;
        assert_eq!(socket.push().await["channel"], channel);
    }
}

#[tokio::test]
async fn a_refresh_of_a_subscription_needs_a_valid_token_and_a_subscription() {
    let gateway = Gateway::settings().config(&config()).start().await;
    let mut socket = Socket::connect(gateway.address(), &login(now() + 600)).await;
    let reply = socket.request("subscribe", subscription("private:a", now() + 600)).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    let foreign = token(&json!({ "sub": "43", "channel": "private:a", "exp": now() + 600 }));
    let other = token(&json!({ "sub": "42", "channel": "private:b", "exp": now() + 600 }));
    let expired = token(&json!({ "sub": "42", "channel": "private:a", "exp": now() - 600 }));
    for (channel, token, code) in [
        ("private:a", foreign, 103),
        ("private:a", other.clone(), 103),
        ("private:a", expired, 109),
        ("private:b", other, 103),
        ("private:a", String::new(), 107),
    ] {
        let reply = socket.request("sub_refresh", json!({ "channel": channel, "token": token })).await;
        assert_eq!(reply["error"]["code"], code, "{channel} {reply}");
    }
    // Without an expiry, the subscription does not end.
    let endless = token(&json!({ "sub": "42", "channel": "private:a" }));
    let reply = socket.request("sub_refresh", json!({ "channel": "private:a", "token": endless })).await;
    assert!(reply["sub_refresh"].is_object() && reply["sub_refresh"]["expires"].is_null(), "{reply}");
}

#[tokio::test]
async fn a_refresh_changes_when_a_connection_ends() {
    let gateway = Gateway::settings().config(&config()).start().await;
    // An earlier expiry applies, although no ping is due.
    let mut earlier = Socket::connect(gateway.address(), &login(now() + 6000)).await;
    let reply = earlier.request("refresh", json!({ "token": login(nearly_over()) })).await;
    assert_eq!(reply["refresh"]["ttl"], 1, "{reply}");
    // A later one replaces an earlier one.
    let mut later = Socket::connect(gateway.address(), &login(nearly_over())).await;
    let reply = later.request("refresh", json!({ "token": login(now() + 6000) })).await;
    assert_eq!(reply["refresh"]["expires"], true, "{reply}");
    assert_eq!(earlier.close().await.0, 3005);
    let mut without = Socket::connect(gateway.address(), &login(nearly_over())).await;
    assert_eq!(without.close().await.0, 3005);
    let reply = later.request("ping", json!({})).await;
    assert!(reply["ping"].is_object(), "{reply}");
}

#[tokio::test]
async fn a_refresh_does_not_change_who_the_client_is() {
    let gateway = Gateway::settings().config(&config()).start().await;
    let claims = |user: &str, tenant: &str| json!({ "sub": user, "tenant": tenant, "exp": now() + 600 });
    let first = token(&claims("42", "a"));
    for (claims, code) in [(claims("43", "a"), 3500), (claims("42", "b"), 3005)] {
        let mut socket = Socket::connect(gateway.address(), &first).await;
        let reply = socket.request("refresh", json!({ "token": token(&claims) })).await;
        assert_eq!(reply["close"], code, "{claims}: {reply}");
    }
    let mut socket = Socket::connect(gateway.address(), &first).await;
    let reply = socket.request("refresh", json!({ "token": token(&claims("42", "a")) })).await;
    assert!(reply["refresh"].is_object(), "{reply}");
}
