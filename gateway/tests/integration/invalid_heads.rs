//! Request heads that no good client sends: each has its exact answer, and nobody else notices.

use crate::harness::control_clients::ControlClients;
use crate::harness::http::Raw;
use crate::harness::ws_frames::{KEY, VERSION, handshake};
use crate::harness::{Gateway, http};

const CONFIG: &str = "[limits]\nrequest_header_bytes = \"8KiB\"\nrequest_header_timeout = \"1s\"\n";

/// What is sent, and the status that answers it.
type Row = (&'static str, Vec<u8>, u16);

#[tokio::test]
async fn each_bad_head_has_its_answer() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for (what, bytes, status) in bad_heads() {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(bytes).await;
        let answer = raw.response().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}");
            let connection = answer.header("connection").unwrap_or_default().to_ascii_lowercase();
            assert!(connection.split(", ").any(|option| option == "upgrade"), "{what}: {connection}");
        }
        control.assert_unaffected(&mut gateway, what).await;
    }
}

fn bad_heads() -> Vec<Row> {
    let long = "x".repeat(9000);
    let short_key = "Sec-WebSocket-Key: c2hvcnQ=";
    let no_base64 = "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!";
    let mut rows: Vec<Row> = vec![
        ("a header too long", get("/sse/a", &format!("X-Long: {long}\r\n")), 431),
        ("a path too long", get(&format!("/sse/{long}"), ""), 431),
        (
            "a head that never ends",
            format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(2000)).into_bytes(),
            431,
        ),
        ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n".to_vec(), 505),
        ("HTTP/0.9", b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n".to_vec(), 505),
        ("no version", b"GET /\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("no request line", b"\x01\x02\x03\r\n\r\n".to_vec(), 400),
        ("a greeting of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
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
        ("a key that is no base64", handshake("/ws", &[no_base64, VERSION]).into(), 400),
    ];
    rows.extend(bad_channels());
    rows
}

/// Channels that no stream can have.
fn bad_channels() -> Vec<Row> {
    let long = "x".repeat(256);
    vec![
        ("a stream without a channel", get("/sse", ""), 400),
        ("a stream of nothing", get("/sse/", ""), 400),
        ("an empty channel", get("/sse?channel=", ""), 400),
        ("an empty channel among others", get("/sse?channel=a&channel=", ""), 400),
        ("a control character", get("/sse/a%07b", ""), 400),
        ("a NUL", get("/sse?channel=%00", ""), 400),
        ("a line break", get("/sse/a%0Ab", ""), 400),
        ("a channel too long", get(&format!("/sse/{long}"), ""), 400),
        ("a channel that is no text", get("/sse/%FF%FE", ""), 400),
    ]
}

fn get(path: &str, lines: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_given_up() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for begun in ["", "G", "GET /sse/a HTTP/1.1\r\nHost: loc"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(begun).await;
        let answer = raw.response().await;
        assert!(
            answer.as_ref().is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 408),
            "{answer:?}"
        );
        assert!(raw.is_closed().await);
        control.assert_unaffected(&mut gateway, "a slow head").await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_given_up_as_well() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /sse/a HTTP/1.1\r\n").await;
    let mut lines = tokio::time::interval(std::time::Duration::from_millis(100));
    let begun = tokio::time::Instant::now();
    // Each line is in time by itself; the head as a whole is not.
    let ended = loop {
        tokio::select! {
            _ = lines.tick() => raw.send("X-More: 1\r\n").await,
            read = raw.fill() => break read,
        }
        assert!(begun.elapsed().as_secs() < 10, "a head may trickle in for ever");
    };
    assert!(!matches!(ended, Ok(true)) || raw.buffered().starts_with(b"HTTP/1.1 408 "));
    control.assert_unaffected(&mut gateway, "a trickling head").await;
}

#[tokio::test]
async fn a_head_that_is_cut_off_is_closed() {
    let mut gateway = Gateway::settings().config(CONFIG).start().await;
    let mut control = ControlClients::connect(&gateway).await;
    for begun in ["", "GET", "GET /sse/a HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(begun).await;
        raw.finish().await;
        let answer = raw.response().await;
        assert!(
            answer.as_ref().is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 400),
            "{answer:?}"
        );
        control.assert_unaffected(&mut gateway, "a head that was cut off").await;
    }
}

#[tokio::test]
async fn a_head_in_single_bytes_is_as_good_as_any() {
    let gateway = Gateway::start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    for byte in get("/health", "") {
        raw.send([byte]).await;
    }
    assert_eq!(raw.response().await.unwrap().status, 200);
}

/// As `nc -N` does: the end of the request's half comes with the request, or before it is answered.
#[tokio::test]
async fn whoever_says_no_more_after_asking_is_answered() {
    let gateway = Gateway::start().await;
    for turn in 0..50 {
        let mut raw = Raw::connect(gateway.address()).await;
        // The gateway sleeps again, so that both wake it together.
        assert_eq!(http::fetch(gateway.address(), "/health").await.status, 200);
        raw.send(get("/health", "")).await;
        raw.finish().await;
        let answer = raw.response().await.unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        assert_eq!(answer.status, 200, "turn {turn}");
    }
}

#[tokio::test]
async fn a_channel_without_a_namespace_is_404_and_one_that_is_closed_403() {
    let config = r#"
        [[namespace]]
        name = "closed"
        channels = ["closed-*"]
        subscribe = "nobody"

        [[namespace]]
        name = "web"
        channels = ["web-*"]
    "#;
    let gateway = Gateway::settings().config(config).start().await;
    assert_eq!(http::fetch(gateway.address(), "/sse/elsewhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/sse?channel=web-1&channel=elsewhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/sse/closed-1").await.status, 403);
}

#[tokio::test]
async fn other_methods_and_paths_are_told_so() {
    let gateway = Gateway::start().await;
    assert_eq!(http::fetch(gateway.address(), "/nowhere").await.status, 404);
    assert_eq!(http::fetch(gateway.address(), "/ssewhere").await.status, 404);
    assert_eq!(http::post(gateway.address(), "/sse/demo", &[], "").await.status, 405);
    assert_eq!(http::post(gateway.address(), "/health", &[], "").await.status, 405);
    assert_eq!(http::fetch(gateway.address(), "/ws").await.status, 426);
}
