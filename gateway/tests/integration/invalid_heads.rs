//! Invalid request heads: each has its exact response, and other clients are unaffected.

use crate::harness::control_clients::ControlClients;
use crate::harness::http::Raw;
use crate::harness::ws_frames::{KEY, VERSION, handshake};
use crate::harness::{Gateway, http};

const CONFIG: &str = "[limits]\nrequest_header_bytes = \"8KiB\"\nrequest_header_timeout = \"1s\"\n";

/// Bytes sent, and the expected status.
type Row = (&'static str, Vec<u8>, u16);

#[tokio::test]
async fn each_invalid_head_has_its_status() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for (what, bytes, status) in invalid_heads() {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(bytes).await;
        let response = raw.response().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(response.status, status, "{what}: {response:?}");
        if status == 426 {
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(response.header("upgrade"), Some("websocket"), "{what}");
            let connection = response.header("connection").unwrap_or_default().to_ascii_lowercase();
            assert!(connection.split(", ").any(|option| option == "upgrade"), "{what}: {connection}");
        }
        control.assert_unaffected(&mut gateway, what).await;
    }
}

fn invalid_heads() -> Vec<Row> {
    let long = "x".repeat(9000);
    let short_key = "Sec-WebSocket-Key: c2hvcnQ=";
    let invalid_base64 = "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!";
    let mut rows: Vec<Row> = vec![
        ("a header that is too long", get("/sse/a", &format!("X-Long: {long}\r\n")), 431),
        ("a path that is too long", get(&format!("/sse/{long}"), ""), 431),
        (
            "a head that never ends",
            format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(2000)).into_bytes(),
            431,
        ),
        ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n".to_vec(), 505),
        ("HTTP/0.9", b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n".to_vec(), 505),
        ("no version", b"GET /\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("an invalid request line", b"\x01\x02\x03\r\n\r\n".to_vec(), 400),
        ("a TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("no host", b"GET /sse/a HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("two hosts", get("/sse/a", "Host: elsewhere\r\n"), 400),
        ("a header without a colon", get("/", "nothing\r\n"), 400),
        ("a header with a NUL", get("/", "X: a\0b\r\n"), 400),
        ("version 12", handshake("/ws", &[KEY, "Sec-WebSocket-Version: 12"]).into(), 426),
        ("no upgrade", get("/ws", &format!("{KEY}\r\n{VERSION}\r\n")), 426),
        ("no upgrade, the official path", get("/connection/websocket", ""), 426),
        (
            "a proxy that drops the connection option",
            get("/ws", &format!("Connection: keep-alive\r\nUpgrade: websocket\r\n{KEY}\r\n{VERSION}\r\n")),
            426,
        ),
        ("another protocol", get("/ws", &format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{KEY}\r\n")), 426),
        ("no WebSocket version", handshake("/ws", &[KEY]).into(), 426),
        ("no key", handshake("/ws", &[VERSION]).into(), 400),
        ("a short key", handshake("/ws", &[short_key, VERSION]).into(), 400),
        ("a key that is not base64", handshake("/ws", &[invalid_base64, VERSION]).into(), 400),
    ];
    rows.extend(invalid_channels());
    rows
}

/// Invalid channels of a stream.
fn invalid_channels() -> Vec<Row> {
    let long = "x".repeat(256);
    vec![
        ("a stream without a channel", get("/sse", ""), 400),
        ("a stream with an empty path", get("/sse/", ""), 400),
        ("an empty channel", get("/sse?channel=", ""), 400),
        ("an empty channel among others", get("/sse?channel=a&channel=", ""), 400),
        ("a control character", get("/sse/a%07b", ""), 400),
        ("a NUL", get("/sse?channel=%00", ""), 400),
        ("a line break", get("/sse/a%0Ab", ""), 400),
        ("a channel that is too long", get(&format!("/sse/{long}"), ""), 400),
        ("a channel that is not UTF-8", get("/sse/%FF%FE", ""), 400),
    ]
}

fn get(path: &str, lines: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn incomplete_head_times_out() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for begun in ["", "G", "GET /sse/a HTTP/1.1\r\nHost: loc"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(begun).await;
        let response = raw.response().await;
        assert!(
            response.as_ref().is_err() || response.as_ref().is_ok_and(|response| response.status == 408),
            "{response:?}"
        );
        assert!(raw.is_closed().await);
        control.assert_unaffected(&mut gateway, "an incomplete head").await;
    }
}

#[tokio::test]
async fn head_that_arrives_too_slowly_times_out() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /sse/a HTTP/1.1\r\n").await;
    let mut lines = tokio::time::interval(std::time::Duration::from_millis(100));
    let begun = tokio::time::Instant::now();
    // Each line arrives within the timeout, the head as a whole does not.
    let ended = loop {
        tokio::select! {
            _ = lines.tick() => raw.send("X-More: 1\r\n").await,
            read = raw.fill() => break read,
        }
        assert!(begun.elapsed().as_secs() < 10, "the head has no deadline");
    };
    assert!(!matches!(ended, Ok(true)) || raw.buffered().starts_with(b"HTTP/1.1 408 "));
    control.assert_unaffected(&mut gateway, "a slow head").await;
}

#[tokio::test]
async fn truncated_head_is_closed() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for begun in ["", "GET", "GET /sse/a HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(begun).await;
        raw.finish().await;
        let response = raw.response().await;
        assert!(
            response.as_ref().is_err() || response.as_ref().is_ok_and(|response| response.status == 400),
            "{response:?}"
        );
        control.assert_unaffected(&mut gateway, "a truncated head").await;
    }
}

#[tokio::test]
async fn head_in_single_bytes_is_accepted() {
    let gateway = Gateway::start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    for byte in get("/health", "") {
        raw.send([byte]).await;
    }
    assert_eq!(raw.response().await.unwrap().status, 200);
}

/// As `nc -N` does: the client shuts down its write side together with the request or before the response.
#[tokio::test]
async fn half_closed_connection_receives_its_response() {
    let gateway = Gateway::start().await;
    for round in 0..50 {
        let mut raw = Raw::connect(gateway.address()).await;
        // After this response the gateway is idle again, so that request and shutdown wake it together.
        assert_eq!(http::fetch(gateway.address(), "/health").await.status, 200);
        raw.send(get("/health", "")).await;
        raw.finish().await;
        let response = raw.response().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(response.status, 200, "round {round}");
    }
}

#[tokio::test]
async fn unknown_channel_is_404_and_forbidden_channel_403() {
    let config = r#"
        [[namespace]]
        name = "closed"
        channels = ["closed-*"]
        subscribe = "nobody"

        [[namespace]]
        name = "web"
        channels = ["web-*"]
        subscribe = "anyone"
    "#;
    let gateway = Gateway::settings().config(config).start().await;
    assert_eq!(http::fetch(gateway.address(), "/sse/elsewhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/sse?channel=web-1&channel=elsewhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/sse/closed-1").await.status, 403);
}

#[tokio::test]
async fn unknown_methods_and_paths_are_rejected() {
    let gateway = Gateway::start().await;
    assert_eq!(http::fetch(gateway.address(), "/nowhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/ssewhere").await.status, 404);
    assert_eq!(http::post(gateway.address(), "/sse/demo", &[], "").await.status, 405);
    assert_eq!(http::post(gateway.address(), "/health", &[], "").await.status, 405);
    assert_eq!(http::fetch(gateway.address(), "/ws").await.status, 426);
}
