//! Who answers, and over which HTTP.

use axum::http::Version;
use serde_json::Value;

use super::super::network::millis;
use super::super::report::Finding;
use super::way::{Answer, Way};

/// What is seen of the gateway itself; whether one is there.
pub(super) async fn inspect(way: &Way) -> (Vec<Finding>, bool) {
    let answer = match way.fetch("/health", &[]).await {
        Ok(answer) => answer,
        Err(why) => {
            let finding = Finding::failed("health", format!("/health: {why}"))
                .because("what listens there is no HTTP server, or stands before a gateway that is gone")
                .advise("look at the proxy's log, and whether the gateway runs");
            return (vec![finding], false);
        }
    };
    let http = version(way, &answer);
    let before = answer.header("via").or_else(|| answer.header("server")).map(shortened);
    let (status, took) = (answer.status, answer.took);
    let text = answer.text(way.limit).await;
    let health: Option<Value> = serde_json::from_str(&text).ok();
    let Some(version) = health.as_ref().and_then(|health| health["version"].as_str()) else {
        return (vec![stranger(status, &text, before.as_deref())], false);
    };
    let through = before.map_or_else(|| "directly".to_owned(), |name| format!("through {name}"));
    let said = format!("Earshot {version}, {through}, in {}", millis(took));
    let state = health.as_ref().and_then(|health| health["status"].as_str()).unwrap_or("unknown");
    let finding = if state == "ok" {
        Finding::ok("health", said)
    } else {
        Finding::warning("health", format!("{said}; its state is {state}"))
            .because("a link to Redis is down; `links` in /health says which, and why")
            .advise("run `earshot check` with the gateway's configuration")
    };
    (vec![finding.with("version", version).with("status", state), http], true)
}

fn version(way: &Way, answer: &Answer) -> Finding {
    const SIX: &str = "a browser opens at most six streams to one host";
    match answer.version {
        Version::HTTP_2 => Finding::ok("http", "HTTP/2: all streams of a browser share one connection"),
        _ if way.is_secure() => Finding::warning("http", format!("HTTP/1.1: {SIX}"))
            .because("the proxy does not offer HTTP/2")
            .advise("let it (nginx: `listen … ssl http2`), or use one stream with several channels"),
        _ => Finding::ok("http", format!("HTTP/1.1, as always without TLS: {SIX}")),
    }
    .with("http_version", format!("{:?}", answer.version))
}

fn stranger(status: u16, text: &str, before: Option<&str>) -> Finding {
    let by = before.map_or_else(String::new, |name| format!(" by {name}"));
    let finding =
        Finding::failed("health", format!("/health is answered{by} with {status}, and not by Earshot"));
    match status {
        502..=504 => finding
            .because("the proxy reaches no gateway")
            .advise("look at the proxy's upstream, and whether the gateway runs and is ready"),
        301..=308 => finding
            .because("the proxy sends clients elsewhere, such as from http to https")
            .advise("give the address that it sends them to"),
        401 | 403 => finding
            .because("the proxy, or something before it, asks who comes")
            .advise("let /health, /sse and /connection/websocket through"),
        _ if text.contains("<html") => finding
            .because("another site answers: the prefix or the host is a wrong one, or the proxy does not pass this path on")
            .advise("give the prefix under which the gateway's routes are: http(s)://host/prefix"),
        _ => finding
            .because("the proxy does not pass this path on, or takes no prefix off")
            .advise("give the prefix under which the gateway's routes are: http(s)://host/prefix"),
    }
}

/// What a server calls itself: enough of it to be recognised.
fn shortened(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(40).collect()
}
