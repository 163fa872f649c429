//! SSE over HTTP/2, where a browser can open more than six streams, and SSE on a keep-alive connection.

use crate::harness::http::Raw;
use crate::harness::http2::Connection;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

const STREAMS: usize = 20;

#[tokio::test]
async fn many_streams_share_one_http2_connection() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let connection = Connection::open(&gateway).await;
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let mut stream = connection.stream(&format!("/sse?channel=all&channel=own-{number}")).await;
        assert_eq!(stream.event().await.name, "subscribed");
        streams.push(stream);
    }
    let mut sent: Vec<(String, String)> = (0..STREAMS).map(|n| (format!("own-{n}"), n.to_string())).collect();
    sent.extend((0..50).map(|n| ("all".to_owned(), format!(r#"{{"n": {n}}}"#))));
    redis.publish_all(sent.iter().map(|(channel, data)| (channel.as_str(), data))).await;
    for (number, stream) in streams.iter_mut().enumerate() {
        let own = stream.event().await;
        assert_eq!((own.name, own.data), (format!("own-{number}"), number.to_string()));
        for n in 0..50 {
            assert_eq!(stream.event().await.data, format!(r#"{{"n": {n}}}"#));
        }
    }
    drop(streams);
}

#[tokio::test]
async fn http2_serves_status_and_rejects_invalid_channels() {
    let gateway = Gateway::start().await;
    let connection = Connection::open(&gateway).await;
    for (path, status) in [("/health", 200), ("/sse/a%07b", 400), ("/sse", 400), ("/nowhere", 404)] {
        assert_eq!(connection.get(path).await.status(), status, "{path}");
    }
}

/// HTTP/2 has no Upgrade (RFC 9113, section 8.6), so a response must not name it.
#[tokio::test]
async fn websocket_path_over_http2_is_426_without_connection_headers() {
    let gateway = Gateway::start().await;
    let connection = Connection::open(&gateway).await;
    let response = connection.get("/ws").await;
    assert_eq!(response.status(), 426);
    assert_eq!(response.headers()["sec-websocket-version"], "13");
    assert!(!response.headers().contains_key("upgrade") && !response.headers().contains_key("connection"));
}

#[tokio::test]
async fn stream_with_the_maximum_of_channels_recovers_over_http2() {
    let gateway = Gateway::start().await;
    let names: Vec<String> = (0..128).map(|number| format!("channel={number:0>40}")).collect();
    let path = format!("/sse?{}", names.join("&"));
    let connection = Connection::open(&gateway).await;
    let id = connection.stream(&path).await.event().await.id;
    let mut again = connection.stream(&format!("{path}&last_event_id={id}")).await;
    let subscribed = again.event().await;
    assert_eq!(subscribed.data.matches("true").count(), 128, "{subscribed:?}");
}

#[tokio::test]
async fn http2_delivers_every_kind_of_payload() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let connection = Connection::open(&gateway).await;
    let mut stream = connection.stream("/sse/lines").await;
    assert_eq!(stream.event().await.name, "subscribed");
    let large = "x".repeat(200_000);
    for (payload, data) in [("a\r\nb\nc", "a\nb\nc"), ("", "\"\""), (&large, &large), ("{ }", "{ }")] {
        redis.publish("lines", payload.as_bytes()).await;
        assert_eq!(stream.event().await.data, data);
    }
}

#[tokio::test]
async fn keep_alive_connection_can_open_a_stream() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut raw = Raw::connect(gateway.address()).await;
    for path in ["/health", "/nowhere", "/ready"] {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        raw.response().await.unwrap();
    }
    let mut stream = SseClient::open_over(raw, "/sse/late").await;
    assert!(stream.head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    redis.publish("late", b"1").await;
    assert_eq!(stream.data("message").await, "1");
}

#[tokio::test]
async fn http2_disconnect_ends_the_stream() {
    let gateway = Gateway::start().await;
    let connection = Connection::open(&gateway).await;
    let mut stream = connection.stream("/sse/brief").await;
    assert_eq!(stream.event().await.name, "subscribed");
    until("the channel has a subscriber", async || {
        gateway.api("channels", "{}").await.text().contains("brief").then_some(())
    })
    .await;
    drop((stream, connection));
    until("the channel has no subscriber", async || {
        (!gateway.api("channels", "{}").await.text().contains("brief")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_http2_stream_is_bounded_and_does_not_delay_others() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let config = "[limits]\nclient_queue_bytes = \"256KiB\"\npublication_bytes = \"64KiB\"\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let connection = Connection::open(&gateway).await;
    let mut slow = connection.stream("/sse/burst").await;
    assert_eq!(slow.event().await.name, "subscribed");
    let mut control = connection.stream("/sse/burst").await;
    assert_eq!(control.event().await.name, "subscribed");
    let before = gateway.memory();
    let fill = "x".repeat(1000);
    for round in 0..160 {
        let round: Vec<String> = (0..100).map(|number| format!(r#""{round}-{number} {fill}""#)).collect();
        redis.publish_all(round.iter().map(|message| ("burst", message))).await;
        for message in &round {
            assert_eq!(&control.event().await.data, message);
        }
    }
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < 12 << 20, "the process grew by {growth} bytes");
    until("the slow stream is closed", async || {
        (gateway.metric("earshot_connections", &[r#"transport="sse""#]).await <= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_reads_the_history_as_the_client_reads() {
    const CHANNELS: usize = 4;
    const MISSED: usize = 60;
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let connection = Connection::open(&gateway).await;
    let names: Vec<String> = (0..CHANNELS).map(|channel| format!("missed-{channel}")).collect();
    let path = format!("/sse?channel={}", names.join("&channel="));
    let mut stream = connection.stream(&path).await;
    let id = stream.event().await.id;
    drop(stream);
    let payload = |number: usize| format!("\"{number} {}\"", "x".repeat(10_000));
    let mut control = WsClient::open(gateway.address(), &names).await;
    for name in &names {
        redis.publish_all((1..=MISSED).map(|number| (name.as_str(), payload(number)))).await;
    }
    for _ in 0..CHANNELS * MISSED {
        control.publication().await;
    }
    let mut stream = connection.stream(&format!("{path}&last_event_id={id}")).await;
    let subscribed = stream.event().await;
    assert!(!subscribed.data.contains("false"), "{}", subscribed.data);
    let waiting = gateway.metric("earshot_client_queue_bytes", &[]).await;
    assert!(waiting <= f64::from(256 << 10), "{waiting} bytes are queued");
    let mut last = std::collections::HashMap::new();
    for _ in 0..CHANNELS * MISSED {
        let event = stream.event().await;
        let number: usize = *last.entry(event.name).and_modify(|last| *last += 1).or_insert(1);
        assert!(event.data == payload(number), "expected number {number}");
    }
}
