//! The connection limit: it is exact, every permit is returned, and idle clients never block requests to `/health`,
//! `/ready` and `/metrics`.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::http2::Connection;
use crate::harness::ws_frames::{self, RawWebSocket};
use crate::harness::{Gateway, WsClient, exclusive, http, until};

/// More connections than any `connections` setting of these tests plus the reserve.
const IDLE_CONNECTIONS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_is_exact_under_concurrent_connects() {
    const LIMIT: usize = 40;
    const CLIENTS: usize = 160;
    let _exclusive = exclusive().await;
    let gateway = Gateway::settings().config(&format!("[limits]\nconnections = {LIMIT}\n")).start().await;
    for _ in 0..3 {
        let (ready, mut clients) = (Arc::new(Barrier::new(CLIENTS)), JoinSet::new());
        for _ in 0..CLIENTS {
            clients.spawn(connect_at_once(gateway.address(), Arc::clone(&ready)));
        }
        let clients = clients.join_all().await;
        assert_eq!(clients.iter().flatten().count(), LIMIT);
        drop(clients);
        assert_permits_return(&gateway).await;
    }
}

/// Requests a stream at the same moment as the other clients; returns `None` if it is rejected.
async fn connect_at_once(address: std::net::SocketAddr, ready: Arc<Barrier>) -> Option<Raw> {
    let mut raw = Raw::connect(address).await;
    raw.send("GET /sse/a HTTP/1.1\r\nHost: ").await;
    ready.wait().await;
    raw.send("localhost\r\n\r\n").await;
    into_admitted(raw).await
}

/// Returns the connection if its stream begins.
async fn into_admitted(mut raw: Raw) -> Option<Raw> {
    raw.head().await.ok()?;
    loop {
        let text = String::from_utf8_lossy(&raw.chunk().await.ok()?).into_owned();
        match text {
            text if text.contains("event: subscribed") => return Some(raw),
            text if text.contains("event: error") => return None,
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_kind_of_disconnect_returns_its_permit() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 4\n").start().await;
    let address = gateway.address();
    let foreign =
        ws_frames::handshake("/ws", &[ws_frames::KEY, ws_frames::VERSION, "Origin: https://evil.example"]);
    let ends = [
        String::new(),
        "GET /sse/a HTTP/1.1\r\nHost".to_owned(),
        "GET /sse/a\r\n\r\n".to_owned(),
        "GET /sse/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        foreign,
    ];
    for bytes in &ends {
        for finishes in [false, true] {
            let mut raw = Raw::connect(address).await;
            raw.send(bytes).await;
            if finishes {
                raw.finish().await;
                while raw.fill().await.is_ok_and(|more| more) {}
            }
        }
        assert_permits_return(&gateway).await;
    }

    let admitted = [open_stream(&gateway).await, open_stream(&gateway).await, open_stream(&gateway).await];
    let mut keep_alive = until("a connection within the limit", async || {
        let mut raw = Raw::connect(address).await;
        raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let response = raw.response().await.unwrap();
        assert_eq!(response.status, 200);
        // Beyond the limit, the gateway closes the connection after the response.
        response.header("connection").is_none_or(|option| option != "close").then_some(raw)
    })
    .await;
    let mut rejected = RawWebSocket::open(address).await;
    assert_eq!(rejected.close().await.map(|(code, _)| code), Some(3013));
    // The kept-alive connection already holds a permit, which the WebSocket keeps.
    keep_alive.send(ws_frames::handshake("/ws", &[ws_frames::KEY, ws_frames::VERSION])).await;
    assert_eq!(keep_alive.head().await.unwrap().status, 101);
    drop((admitted, rejected, keep_alive));
    assert_permits_return(&gateway).await;

    let connection = Connection::open(&gateway).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = until("a stream within the limit", async || {
            let mut stream = connection.stream("/sse/a").await;
            (stream.event().await.name == "subscribed").then_some(stream)
        });
        streams.push(stream.await);
    }
    assert_eq!(connection.stream("/sse/a").await.event().await.name, "error", "the limit is reached");
    assert_eq!(connection.get("/health").await.status(), 200);
    drop((streams, connection));
    assert_permits_return(&gateway).await;
}

#[tokio::test]
async fn idle_http2_connections_do_not_block_status_requests() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 8\n").start().await;
    let _idle = idle_connections(&gateway).await;
    for _ in 0..20 {
        assert_status_is_served(&gateway).await;
    }
}

#[tokio::test]
async fn idle_http2_connections_are_closed() {
    let config = "[limits]\nconnections = 8\n[http]\nidle_timeout = \"1s\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let _idle = idle_connections(&gateway).await;
    open_stream(&gateway).await;
}

/// Opens a stream. Waits while earlier connections, whose end the gateway has not noticed yet, exhaust the limit.
async fn open_stream(gateway: &Gateway) -> Raw {
    until("a stream is admitted", async || {
        let mut stream = Raw::connect(gateway.address()).await;
        stream.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        into_admitted(stream).await
    })
    .await
}

/// HTTP/2 connections without requests: preface and settings only.
async fn idle_connections(gateway: &Gateway) -> Vec<Raw> {
    let mut idle = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        idle.push(raw);
    }
    idle
}

#[tokio::test]
async fn incomplete_request_heads_do_not_block_status_requests() {
    let gateway = Gateway::settings().config("[limits]\nconnections = 8\n").start().await;
    let mut begun = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send("GET /sse/a HTTP/1.1\r\nHost").await;
        begun.push(raw);
    }
    assert_status_is_served(&gateway).await;
}

#[tokio::test]
async fn connection_with_streams_is_not_idle() {
    let config = "[http]\nidle_timeout = \"1s\"\n[sse]\nheartbeat = \"600s\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let idle = Connection::open(&gateway).await;
    let busy = Connection::open(&gateway).await;
    let mut stream = busy.stream("/sse/a").await;
    assert_eq!(stream.event().await.name, "subscribed");
    idle.wait_until_closed().await;
    // This connection begins its idle time after the stream was last active, so the stream has been silent for longer.
    let second = Connection::open(&gateway).await;
    second.wait_until_closed().await;
    gateway.publish("a", "1").await;
    assert_eq!(stream.event().await.data, "1");
    until("the timeouts are counted", async || {
        let ended = gateway.metric("earshot_http_timeouts_total", &[r#"reason="idle""#]).await;
        (ended >= 2.0).then_some(())
    })
    .await;
    drop(stream);
    busy.wait_until_closed().await;
}

#[tokio::test]
async fn idle_keep_alive_connection_is_closed() {
    let config = "[http]\nidle_timeout = \"1s\"\n[websocket]\nclose_timeout = \"100ms\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    for begun in ["", "GET /health HTTP/1.1\r\nHost"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.response().await.unwrap().status, 200);
        raw.send(begun).await;
        assert!(raw.is_closed().await, "{begun}");
    }
    gateway.wait_for_metric("earshot_http_timeouts_total", &[r#"reason="idle""#], |ended| ended >= 2.0).await;
}

#[tokio::test]
async fn unread_response_closes_its_connection() {
    let gateway = Gateway::settings().config("[http]\nidle_timeout = \"1s\"\n").start().await;
    let mut unread = Raw::over(gateway.small_buffer_connection());
    unread.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000)).await;
    let stalled = Connection::with_zero_window(&gateway).await;
    let _answer = stalled.get("/metrics").await;
    until("both connections timed out", async || {
        let ended = gateway.metric("earshot_http_timeouts_total", &[r#"reason="idle""#]).await;
        (ended >= 2.0).then_some(())
    })
    .await;
    stalled.wait_until_closed().await;
    assert_permits_return(&gateway).await;
}

#[tokio::test]
async fn stream_on_a_keep_alive_connection_holds_one_permit() {
    // hyper detects a closed connection at the second write after it: with the default heartbeat, after up to 36 s.
    let gateway = Gateway::settings().config("[sse]\nheartbeat = \"1s\"\n").start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status, 200);
    raw.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let stream = into_admitted(raw).await.expect("the stream begins");
    // The permit of an earlier request returns once the gateway has noticed that its connection is closed.
    until("one permit for the stream, one for the request that reads the metric", async || {
        (gateway.metric("earshot_connection_permits", &[]).await == 2.0).then_some(())
    })
    .await;
    drop(stream);
    assert_permits_return(&gateway).await;
}

async fn assert_status_is_served(gateway: &Gateway) {
    for path in ["/health", "/ready", "/metrics"] {
        let answer = http::try_fetch(gateway.address(), path).await;
        assert_eq!(answer.map(|answer| answer.status).ok(), Some(200), "{path}");
    }
}

/// Waits until only the metrics request itself holds a permit, and checks that a new client gets one.
async fn assert_permits_return(gateway: &Gateway) {
    gateway.wait_for_metric("earshot_connection_permits", &[], |held| held == 1.0).await;
    let mut client = WsClient::connect(gateway.address(), Encoding::Json).await;
    assert!(client.request("ping", serde_json::json!({})).await.get("error").is_none());
}
