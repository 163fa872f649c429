//! `POST /api/why` and `earshot why`: which permission a client has, and why.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::gateway::binary;
use crate::harness::{Gateway, Redis, http};

const CONFIG: &str = r#"
[[login]]
kind = "express"
secret = ["keyboard cat"]
fields = { roles = "/roles" }

[[login]]
kind = "jwt"
hmac_secret = "a secret of at least thirty-two bytes"

[[namespace]]
name = "user"
channels = ["user:{user}"]
subscribe = ["owner", "token"]

[[namespace]]
name = "editors"
channels = ["editors"]
subscribe = "authenticated"
require = { roles = "editor" }
"#;

const KEY: &str = "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN";
const COOKIE: &str =
    "connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0";

async fn log_in(redis: &Redis) {
    let session = r#"{"cookie":{"originalMaxAge":null},"passport":{"user":42},"roles":["editor"]}"#;
    redis.run(&["SET", KEY, session, "EX", "600"]).await;
}

#[tokio::test]
async fn the_api_explains_what_clients_experience() {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    log_in(&redis).await;
    for (question, allowed, login, rules) in [
        (json!({ "channel": "user:42", "cookie": COOKIE }), true, "session", 2),
        (json!({ "channel": "user:43", "cookie": COOKIE }), false, "session", 2),
        (json!({ "channel": "editors", "cookie": COOKIE }), true, "session", 2),
        (json!({ "channel": "editors", "user": "42" }), false, "user", 2),
        (json!({ "channel": "editors", "user": "42", "fields": { "roles": "editor" } }), true, "user", 2),
        (json!({ "channel": "editors", "operation": "publish", "user": "42" }), false, "user", 2),
        (json!({ "channel": "user:42", "cookie": "connect.sid=s%3Aguessed.x" }), false, "none", 2),
        (json!({ "channel": "elsewhere", "user": "42" }), false, "user", 0),
    ] {
        let answer = ask(&gateway, &question).await;
        let result = &answer["result"];
        assert_eq!(result["allowed"], allowed, "{question}: {answer}");
        assert_eq!(result["client"]["login"], login, "{question}: {answer}");
        assert_eq!(result["rules"].as_array().unwrap().len(), rules, "{question}: {answer}");
        assert!(!result["reason"].as_str().unwrap().is_empty(), "{question}: {answer}");
    }
    let invalid = ask(&gateway, &json!({ "channel": "user:42", "token": "no.token.here" })).await;
    assert_eq!(invalid["result"]["allowed"], false, "{invalid}");
    assert!(invalid["result"]["reason"].as_str().unwrap().contains("token"), "{invalid}");
    let unknown = ask(&gateway, &json!({ "channel": "user:42", "as": "42" })).await;
    assert_eq!(unknown["error"]["code"], 107, "{unknown}");
    let log = gateway.process.log();
    assert!(!log.contains("j3CIuqX"), "{log}");
}

async fn ask(gateway: &Gateway, question: &Value) -> Value {
    let response = http::post(gateway.address(), "/api/why", &[], &question.to_string()).await;
    serde_json::from_slice(&response.body).unwrap()
}

#[tokio::test]
async fn the_command_explains_without_a_gateway() {
    let redis = Redis::start().await;
    log_in(&redis).await;
    let config = format!("[redis.default]\nurl = \"{}\"\n{CONFIG}", redis.url());
    let permitted = why(&config, &["--as", "user:42", "subscribe", "user:42"], "").await;
    assert_eq!(permitted.status.code(), Some(0), "{permitted:?}");
    assert!(text(&permitted).contains("the name contains the values of the client"), "{permitted:?}");
    let denied = why(&config, &["--as", "user:42", "subscribe", "editors"], "").await;
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    assert!(text(&denied).contains("does not apply  require.roles = [\"editor\"]"), "{denied:?}");
    let field = ["--as", "user:42", "--field", "roles=editor", "subscribe", "editors"];
    assert_eq!(why(&config, &field, "").await.status.code(), Some(0));
    let session = why(&config, &["--as", "cookie:-", "--json", "subscribe", "editors"], COOKIE).await;
    assert_eq!(session.status.code(), Some(0), "{session:?}");
    let report: Value = serde_json::from_slice(&session.stdout).unwrap();
    assert_eq!(report["client"]["user"], "42", "{report}");
    assert_eq!(report["client"]["fields"]["roles"], json!(["editor"]), "{report}");
    for invalid in [
        &["--as", "somebody", "subscribe", "a"][..],
        &["--field", "roles=a", "subscribe", "a"],
        &["read", "a"],
        &["subscribe", ""],
    ] {
        assert_eq!(why(&config, invalid, "").await.status.code(), Some(2), "{invalid:?}");
    }
}

async fn why(config: &str, arguments: &[&str], input: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(binary());
    command.env_clear().arg("why").args(arguments).arg("--config").arg(&path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    drop(directory);
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
