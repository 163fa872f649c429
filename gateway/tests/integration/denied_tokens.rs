//! Tokens that an application denies by keys in Redis.

use serde_json::{Value, json};

use crate::harness::token_client::{SECRET, Socket, now, open_stream, stream_status, token};
use crate::harness::{Gateway, Redis, until};

fn config(denied_key: &str, redis: &str) -> String {
    format!(
        r#"
[[login]]
kind = "jwt"
hmac_secret = "{SECRET}"
denied_key = "{denied_key}"
redis = "{redis}"

[[namespace]]
name = "user"
channels = ["user:{{user}}"]
subscribe = ["owner", "token"]
"#
    )
}

fn token_of(user: &str, id: &str) -> String {
    token(&json!({ "sub": user, "jti": id, "exp": now() + 600 }))
}

/// The code of the error, or the close code, of a connect command.
async fn rejection(gateway: &Gateway, token: &str) -> Option<u64> {
    let (_, reply) = Socket::try_connect(gateway.address(), token).await;
    let code = |value: &Value| value.as_u64();
    code(&reply["error"]["code"]).or_else(|| code(&reply["close"]))
}

#[tokio::test]
async fn a_denied_token_is_refused_and_its_connections_end() {
    let redis = Redis::start().await;
    let config = config("jwt:blacklist:{jti}", "default");
    let first = Gateway::settings().config(&config).redis(&redis).start().await;
    let second = Gateway::settings().config(&config).redis(&redis).start().await;
    redis.run(&["SADD", "jwt:blacklist:old", "of any type"]).await;
    assert_eq!(rejection(&first, &token_of("42", "old")).await, Some(109));
    assert_eq!(stream_status(first.address(), "/sse/user:42", &token_of("42", "old")).await, 401);
    assert_eq!(rejection(&first, &token(&json!({ "sub": "42" }))).await, Some(3500), "without jti");
    // Characters that have a meaning in patterns and keys are literal.
    let (id, near) = ("a:*?{sub}", "a:xy{sub}");
    let mut sockets = Vec::new();
    for gateway in [&first, &second] {
        sockets.push(Socket::connect(gateway.address(), &token_of("42", id)).await);
    }
    let mut stream = open_stream(second.address(), "/sse/user:42", &token_of("42", id)).await;
    let mut other = Socket::connect(second.address(), &token_of("42", near)).await;
    let denied = token(&json!({ "sub": "42", "channel": "user:42", "jti": "old" }));
    let reply = other.request("subscribe", json!({ "channel": "user:42", "token": denied })).await;
    assert_eq!(reply["error"]["code"], 109, "{reply}");
    redis.run(&["SET", &format!("jwt:blacklist:{id}"), "1", "EX", "600"]).await;
    for mut socket in sockets {
        assert_eq!(socket.close().await.0, 3005);
    }
    assert_eq!(stream.event().await.name, "error");
    assert_eq!(rejection(&second, &token_of("42", id)).await, Some(109));
    let reply = other.request("refresh", json!({ "token": token_of("42", id) })).await;
    assert_eq!(reply["close"], 3005, "{reply}");
    assert_eq!(rejection(&second, &token_of("42", near)).await, None);
}

#[tokio::test]
async fn a_list_of_users_denies_all_their_tokens() {
    let redis = Redis::start().await;
    let config = config("banned:{sub}:now", "default");
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut socket = Socket::connect(gateway.address(), &token(&json!({ "sub": "42" }))).await;
    let mut other = Socket::connect(gateway.address(), &token(&json!({ "sub": "43" }))).await;
    redis.run(&["SET", "banned:42:now", "1"]).await;
    assert_eq!(socket.close().await.0, 3005);
    assert_eq!(rejection(&gateway, &token_of("42", "a")).await, Some(109));
    assert!(other.request("ping", json!({})).await["ping"].is_object());
    redis.run(&["DEL", "banned:42:now"]).await;
    assert_eq!(rejection(&gateway, &token_of("42", "a")).await, None);
}

#[tokio::test]
async fn no_token_is_accepted_while_the_list_cannot_be_read() {
    let redis = Redis::start().await;
    let lists = Redis::start().await;
    let instance = format!(
        "[redis.lists]\nurl = {:?}\ncommand_timeout = \"1s\"\naffects_readiness = false\n",
        lists.url()
    );
    let config = format!("{instance}{}", config("jwt:blacklist:{jti}", "lists"));
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut before = Socket::connect(gateway.address(), &token_of("42", "a")).await;
    lists.signal("STOP");
    assert_eq!(rejection(&gateway, &token_of("42", "b")).await, Some(100));
    assert!(
        before.request("ping", json!({})).await["ping"].is_object(),
        "connected clients are not affected"
    );
    lists.signal("CONT");
    until("the list is read again", async || {
        rejection(&gateway, &token_of("42", "b")).await.is_none().then_some(())
    })
    .await;
}
