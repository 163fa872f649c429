//! Event streams: heartbeats prevent proxy timeouts, and no cursor value makes a request fail.

use crate::harness::http::Raw;
use crate::harness::{Gateway, SseClient, within_timeout};

/// Reads the body as text until `enough` returns true.
async fn body(raw: &mut Raw, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    // The timeout covers the whole wait, because heartbeats keep bytes coming.
    within_timeout("the expected part of the body", async {
        while !enough(&text) {
            let chunk = raw.chunk().await.unwrap();
            assert!(!chunk.is_empty(), "the stream ended: {text}");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    })
    .await;
    text
}

#[tokio::test]
async fn idle_stream_sends_heartbeats_that_are_not_events() {
    let gateway = Gateway::settings().config("[sse]\nheartbeat = \"1s\"\n").start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /sse/quiet HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    let text = body(&mut raw, |text| text.ends_with(":\n:\n")).await;
    let (first, heartbeats) = text.split_once("\n\n").unwrap();
    // Several parsers emit an event for every empty line: exactly one must follow each event.
    assert_eq!(heartbeats, ":\n:\n", "{text}");
    assert!(first.starts_with("retry: ") && first.contains("\nevent: subscribed\ndata: {"), "{text}");
    let mut stream = SseClient::open(gateway.address(), "/sse/quiet").await;
    gateway.publish("quiet", "1").await;
    assert_eq!(stream.data("message").await, "1");
}

#[tokio::test]
async fn sends_ping_events_on_request_after_the_recovered_publications() {
    let gateway = Gateway::settings().config("[sse]\nheartbeat = \"1s\"\n").start().await;
    let cursor = {
        let mut stream = SseClient::open(gateway.address(), "/sse/quiet").await;
        gateway.publish("quiet", "1").await;
        stream.event().await.id
    };
    gateway.publish("quiet", "2").await;
    for path in ["/sse/quiet?", "/sse?channel=quiet&channel=other&"] {
        let mut raw = Raw::connect(gateway.address()).await;
        let head = format!("GET {path}ping=true&last_event_id={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        raw.send(head).await;
        assert_eq!(raw.head().await.unwrap().status, 200);
        let ping = "event: ping\ndata: {\"interval_ms\":1200}";
        let text = body(&mut raw, |text| text.matches(ping).count() == 3 && text.ends_with("\n\n")).await;
        let blocks: Vec<&str> = text.trim_end().split("\n\n").collect();
        assert!(blocks[0].contains("event: subscribed"), "{text}");
        assert!(blocks[1].contains("data: 2\nid: "), "{text}");
        // No comment, no id, and no other event between two of them.
        assert_eq!(blocks[2..], [ping; 3], "{text}");
    }
}

/// On a dedicated connection, on a connection served by hyper, and with an event in two chunks.
#[tokio::test]
async fn events_contain_no_comment_and_no_empty_block() {
    let config =
        "[sse]\nheartbeat = \"1s\"\n[drain]\nshutdown_timeout = \"5s\"\ndisconnect_window = \"100ms\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let large = format!("\"{}\"", "x".repeat(20_000));
    let mut streams = Vec::new();
    for path in ["/sse/a", "/sse?channel=a&channel=b"] {
        for used in [false, true] {
            let mut raw = Raw::connect(gateway.address()).await;
            if used {
                raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                raw.response().await.unwrap();
            }
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            assert_eq!(raw.head().await.unwrap().status, 200);
            let begun = body(&mut raw, |text| text.contains("\n\n")).await;
            streams.push((format!("{path} {used}"), raw, begun));
        }
    }
    let heartbeats = |text: &str| text.lines().filter(|line| *line == ":").count();
    for round in 1..=3 {
        for (_, raw, text) in &mut streams {
            let more = body(raw, |more| heartbeats(more) > 0 || heartbeats(text) >= round).await;
            text.push_str(&more);
        }
        gateway.publish("a", &large).await;
        gateway.publish("a", "1").await;
    }
    gateway.process.signal("TERM");
    for (what, raw, mut text) in streams {
        text.push_str(&body(&mut { raw }, |more| more.contains("event: error")).await);
        let mut events = 0;
        for block in text.split_terminator("\n\n") {
            let fields: Vec<&str> = block.lines().skip_while(|line| *line == ":").collect();
            assert!(
                !fields.is_empty() && !fields.contains(&"") && !fields.contains(&":"),
                "{what}: {block:.200}"
            );
            assert!(fields.iter().any(|line| line.starts_with("data: ")), "{what}: {block:.200}");
            events += 1;
        }
        assert_eq!(events, 8, "{what}");
        let [first, .., last] = &text.split_terminator("\n\n").collect::<Vec<_>>()[..] else { panic!() };
        assert!(first.starts_with("retry: ") && last.starts_with("retry: "), "{what}: {first} … {last}");
        assert!(!text.contains("\n\n\n"), "{what}");
    }
}

#[tokio::test]
async fn invalid_cursor_is_accepted() {
    let gateway = Gateway::start().await;
    let long = "A".repeat(5000);
    for cursor in ["", "0", "garbage", "AQ", "%00", "----", long.as_str()] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(format!("GET /sse/a HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {cursor}\r\n\r\n")).await;
        assert_eq!(raw.head().await.unwrap().status, 200, "Last-Event-ID: {cursor}");
        for name in ["last_event_id", "lastEventId"] {
            let mut raw = Raw::connect(gateway.address()).await;
            raw.send(format!("GET /sse/a?{name}={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            assert_eq!(raw.head().await.unwrap().status, 200, "{name}={cursor}");
        }
    }
}

#[tokio::test]
async fn duplicate_channel_in_a_request_is_delivered_once() {
    let gateway = Gateway::start().await;
    let mut stream = SseClient::open(gateway.address(), "/sse?channel=a&channel=b&channel=a").await;
    for (channel, data) in [("a", "1"), ("b", "2"), ("a", "3")] {
        gateway.publish(channel, data).await;
        assert_eq!(stream.data(channel).await, data);
    }
}
