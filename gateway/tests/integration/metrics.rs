//! `/metrics`: both text formats, and metrics that no alert and no panel uses.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::http::Raw;
use crate::harness::{Gateway, Redis, SseClient, until, within_timeout};

/// Fetches `/metrics` with an `Accept` header.
async fn fetch_accepting(gateway: &Gateway, accept: &str) -> (String, String) {
    let mut connection = Raw::connect(gateway.address()).await;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n");
    connection.send(request).await;
    let response = within_timeout("the response", connection.response()).await.unwrap();
    assert_eq!(response.status, 200);
    (response.header("content-type").unwrap().to_owned(), response.text())
}

#[tokio::test]
async fn the_default_format_passes_promtool() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    gateway.wait_for_metric("earshot_redis_probe_rtt_seconds", &[], |rtt| rtt > 0.0).await;
    gateway.publish("demo", "1").await;
    let response = gateway.fetch("/metrics").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    assert!(!text.contains("# EOF") && text.contains("# TYPE earshot_deliveries_total counter\n"), "{text}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && messages.is_empty(), "{messages}");
}

#[tokio::test]
async fn open_metrics_is_sent_if_preferred() {
    let gateway = Gateway::start().await;
    let (kind, text) =
        fetch_accepting(&gateway, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE earshot_deliveries counter\n"), "{text}");
    let (kind, _) = fetch_accepting(&gateway, "application/openmetrics-text;q=0.2,*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn version_and_process_are_exported() {
    let gateway = Gateway::start().await;
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(gateway.metric("earshot_build_info", &[&version]).await, 1.0);
    for (name, min, max) in [
        ("process_resident_memory_bytes", 1e6, 1e10),
        ("process_open_fds", 5.0, 1e4),
        ("process_max_fds", 100.0, 1e10),
        ("process_start_time_seconds", 1.7e9, 1e11),
        ("process_cpu_seconds_total", 1e-6, 1e4),
    ] {
        let value = gateway.metric(name, &[]).await;
        assert!((min..=max).contains(&value), "{name} {value}");
    }
}

#[tokio::test]
async fn api_requests_are_counted_by_method_status_and_error() {
    let gateway = Gateway::start().await;
    gateway.publish("demo", "1").await;
    let body = json!({ "channel": "", "data": 1 }).to_string();
    assert_eq!(gateway.api("publish", &body).await.status, 200);
    assert_eq!(gateway.api("no-such-method", "{}").await.status, 404);
    let requests = async |labels: &[&str]| gateway.metric("earshot_api_requests_total", labels).await;
    assert_eq!(requests(&[r#"method="publish""#, r#"status="200""#, r#"error="0""#]).await, 1.0);
    assert_eq!(requests(&[r#"method="publish""#, r#"error="107""#]).await, 1.0);
    assert_eq!(requests(&[r#"method="unknown""#, r#"status="404""#]).await, 1.0);
    let count = "earshot_api_request_duration_seconds_count";
    assert_eq!(gateway.metric(count, &[r#"method="publish""#]).await, 2.0);
}

#[tokio::test]
async fn publications_are_counted_by_namespace() {
    let config = "[[namespace]]\nname = \"jobs\"\nchannels = [\"job:*\"]\nsubscribe = \"anyone\"\n[[namespace]]\nname = \"web\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let mut client = SseClient::open(gateway.address(), "/sse/job:1").await;
    gateway.publish("job:1", "1").await;
    gateway.publish("job:2", "2").await;
    gateway.publish("demo", "3").await;
    assert_eq!(client.event().await.data, "1");
    let counted = async |name: &str, namespace: &str| {
        let label = format!("namespace=\"{namespace}\"");
        gateway.metric(&format!("earshot_namespace_{name}_total"), &[&label]).await
    };
    assert_eq!(counted("published", "jobs").await, 2.0);
    assert_eq!(counted("published", "web").await, 1.0);
    // The other two channels have no subscriber.
    assert_eq!(counted("messages", "jobs").await, 1.0);
    assert_eq!(counted("messages", "web").await, 0.0);
}

#[tokio::test]
async fn the_latency_of_deliveries_is_sampled() {
    let gateway = Gateway::start().await;
    let count = "earshot_delivery_latency_seconds_count";
    assert_eq!(gateway.metric(count, &[]).await, 0.0);
    let mut client = SseClient::open(gateway.address(), "/sse/demo").await;
    gateway.publish("demo", "1").await;
    assert_eq!(client.event().await.data, "1");
    until("a batch is measured", async || (gateway.metric(count, &[]).await >= 1.0).then_some(())).await;
    let bucket = "earshot_delivery_latency_seconds_bucket";
    assert!(gateway.metric(bucket, &[r#"le="+Inf""#]).await >= 1.0);
    assert!(gateway.metric("earshot_delivery_latency_seconds_sum", &[]).await > 0.0);
}
