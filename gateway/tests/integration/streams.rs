//! An event stream lives: its heartbeat keeps proxies from cutting it, and whatever cursor a client comes back with,
//! it is let in.

use crate::harness::http::Raw;
use crate::harness::{Gateway, SseClient};

#[tokio::test]
async fn a_silent_stream_has_a_heartbeat_that_is_no_event() {
    let gateway = Gateway::settings().config("[sse]\nheartbeat = \"1s\"\n").start().await;
    let mut raw = Raw::connect(gateway.address()).await;
    raw.send("GET /sse/quiet HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    let mut heartbeats = 0;
    while heartbeats < 3 {
        let chunk = raw.chunk().await.unwrap();
        heartbeats += usize::from(chunk.starts_with(b":") && chunk.ends_with(b"\n"));
    }
    let mut stream = SseClient::open(gateway.address(), "/sse/quiet").await;
    gateway.publish("quiet", "1").await;
    assert_eq!(stream.data("message").await, "1");
}

#[tokio::test]
async fn no_cursor_keeps_a_client_out() {
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
async fn one_connection_may_name_a_channel_twice_and_hears_it_once() {
    let gateway = Gateway::start().await;
    let mut stream = SseClient::open(gateway.address(), "/sse?channel=a&channel=b&channel=a").await;
    for (channel, data) in [("a", "1"), ("b", "2"), ("a", "3")] {
        gateway.publish(channel, data).await;
        assert_eq!(stream.data(channel).await, data);
    }
}
