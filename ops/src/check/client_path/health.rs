//! Checks which server responds, and over which HTTP version.

use hyper::Version;
use serde_json::Value;

use super::super::network::millis;
use super::super::report::Finding;
use super::http_client::{HttpClient, body_text};
use earshot_client::http::HttpResponse;

/// Requests `/health`; returns whether a gateway responded.
pub(super) async fn inspect(client: &HttpClient) -> (Vec<Finding>, bool) {
    let answer = match client.fetch("/health", &[]).await {
        Ok(answer) => answer,
        Err(why) => {
            let finding = Finding::failed("health", format!("/health: {why}"))
                .cause("the server is not an HTTP server, or is a proxy for a gateway that is down")
                .fix("check the proxy's log and whether the gateway is running");
            return (vec![finding], false);
        }
    };
    let http = version(client, &answer);
    let before = answer.header("via").or_else(|| answer.header("server")).map(shortened);
    let (status, took) = (answer.status, answer.took);
    let text = body_text(answer, client.limit).await;
    let health: Option<Value> = serde_json::from_str(&text).ok();
    let Some(version) = health.as_ref().and_then(|health| health["version"].as_str()) else {
        return (vec![not_earshot(status, &text, before.as_deref())], false);
    };
    let through = before.map_or_else(|| "directly".to_owned(), |name| format!("through {name}"));
    let message = format!("Earshot {version}, {through}, in {}", millis(took));
    let state = health.as_ref().and_then(|health| health["status"].as_str()).unwrap_or("unknown");
    let finding = if state == "ok" {
        Finding::ok("health", message)
    } else {
        Finding::warning("health", format!("{message}; status: {state}"))
            .cause("a Redis link is down; see `links` in /health")
            .fix("run `earshot check` with the gateway's configuration")
    };
    (vec![finding.with("version", version).with("status", state), http], true)
}

fn version(client: &HttpClient, answer: &HttpResponse) -> Finding {
    const SIX: &str = "a browser opens at most six streams to one host";
    match answer.version {
        Version::HTTP_2 => Finding::ok("http", "HTTP/2: all streams of a browser share one connection"),
        _ if client.is_secure() => Finding::warning("http", format!("HTTP/1.1: {SIX}"))
            .cause("the proxy does not offer HTTP/2")
            .fix("enable it (nginx: `listen … ssl http2`), or use one stream for several channels"),
        _ => Finding::ok("http", format!("HTTP/1.1, the only version that browsers use without TLS: {SIX}")),
    }
    .with("http_version", format!("{:?}", answer.version))
}

fn not_earshot(status: u16, text: &str, before: Option<&str>) -> Finding {
    let by = before.map_or_else(String::new, |name| format!(" by {name}"));
    let finding = Finding::failed("health", format!("/health returned {status}{by}, not from Earshot"));
    match status {
        502..=504 => finding
            .cause("the proxy cannot connect to a gateway")
            .fix("check the proxy's upstream and whether the gateway is running and ready"),
        301..=308 => finding
            .cause("the proxy redirects clients, for example from http to https")
            .fix("use the address that it redirects to"),
        401 | 403 => finding
            .cause("the proxy requires authentication")
            .fix("allow /health, /sse and /connection/websocket"),
        _ if text.contains("<html") => finding
            .cause(
                "another site responds: the host or prefix is wrong, or the proxy does not forward this path",
            )
            .fix("set the prefix of the gateway's routes: http(s)://host/prefix"),
        _ => finding
            .cause("the proxy does not forward this path, or does not strip a prefix")
            .fix("set the prefix of the gateway's routes: http(s)://host/prefix"),
    }
}

/// A shortened server name.
fn shortened(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_control()).take(40).collect()
}
