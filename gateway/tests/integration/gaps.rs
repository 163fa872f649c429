//! No silent message loss: every hole in the messages of a client follows a gap notice.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::harness::http::Raw;
use crate::harness::sse::Next;
use crate::harness::ws_frames::{RawWebSocket, TEXT, frame};
use crate::harness::{Gateway, Redis, SseClient, exclusive, until, within_timeout};

/// Interval of a steady publisher.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(1);

/// The last number; it is published repeatedly until it is received.
const LAST: u64 = 3000;

/// The same for a burst to more clients than the gateway can serve at that rate.
const BURST: u64 = 30_000;
const BURST_CLIENTS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gap_event_precedes_missing_messages_after_an_outage() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut events = SseClient::open(gateway.address(), "/sse/numbers").await;
    let following = tokio::spawn(async move { follow(&mut events, LAST).await });
    let publishing = publish_through_outages(&redis.url(), 0, LAST);
    for _ in 0..3 {
        let received = gateway.metric("earshot_messages_total", &[]).await;
        until("messages are flowing", async || {
            (gateway.metric("earshot_messages_total", &[]).await > received + 100.0).then_some(())
        })
        .await;
        redis.kill();
        gateway.wait_for_ready_status(503).await;
        redis.restart().await;
        gateway.wait_for_ready_status(200).await;
    }
    let gaps = within_timeout("the last number is received", following).await.unwrap();
    assert!(gaps >= 3, "three outages, {gaps} gap events");
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_shard_queue_causes_a_gap_event() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let config = "[limits]\nshard_queue_items = 16\n\n[gateway]\nshards = 1\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut events = SseClient::open(gateway.address(), "/sse/numbers").await;
    let following = tokio::spawn(async move { follow(&mut events, BURST).await });
    let mut clients = JoinSet::new();
    for _ in 0..BURST_CLIENTS {
        clients.spawn(read_and_discard(gateway.address()));
    }
    until("all clients are connected", async || {
        let there = gateway.metric("earshot_connections", &[r#"transport="sse""#]).await;
        (there > BURST_CLIENTS as f64).then_some(())
    })
    .await;
    let numbers: Vec<String> = (0..BURST).map(|number| number.to_string()).collect();
    redis.publish_all(numbers.iter().map(|number| ("numbers", number))).await;
    let publishing = publish_through_outages(&redis.url(), BURST, BURST);
    let gaps = within_timeout("the last number is received", following).await.unwrap();
    publishing.abort();
    // Without an overflow the test is void.
    gateway.wait_for_metric("earshot_gaps_total", &[r#"reason="queue-full""#], |gaps| gaps > 0.0).await;
    assert!(gaps > 0);
}

/// Reads a stream and discards its data.
async fn read_and_discard(address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send("GET /sse/numbers HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    while raw.fill().await.is_ok_and(|more| more) {
        raw.take(raw.buffered().len());
    }
}

#[tokio::test]
async fn positioned_subscription_ends_with_2500_after_a_redis_outage() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = RawWebSocket::connected(gateway.address()).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "a", "positioned": true, "recoverable": true}});
    socket.send(frame(TEXT, subscribe.to_string().as_bytes())).await;
    let reply: serde_json::Value = serde_json::from_slice(&socket.frame().await.unwrap().payload).unwrap();
    assert_eq!(reply["id"], 2, "{reply}");
    let positioned = reply["subscribe"]["positioned"] == true || reply["subscribe"]["recoverable"] == true;
    redis.kill();
    gateway.wait_for_ready_status(503).await;
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    redis.publish("a", b"1").await;
    let next: serde_json::Value = serde_json::from_slice(&socket.frame().await.unwrap().payload).unwrap();
    if positioned {
        assert_eq!(next["push"]["unsubscribe"]["code"], 2500, "{next}");
    } else {
        assert_eq!(next["push"]["pub"]["data"], 1, "a subscription without a position continues: {next}");
    }
}

/// Publishes the numbers up to `last`, and then `last` repeatedly, through outages. A failed publication is lost.
fn publish_through_outages(url: &str, mut number: u64, last: u64) -> AbortHandle {
    let client = redis::Client::open(url).unwrap();
    tokio::spawn(async move {
        loop {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                sleep(PUBLISH_INTERVAL).await;
                continue;
            };
            loop {
                let publish = redis::cmd("PUBLISH").arg("numbers").arg(number).clone();
                number = last.min(number + 1);
                if publish.exec_async(&mut connection).await.is_err() {
                    break;
                }
                sleep(PUBLISH_INTERVAL).await;
            }
        }
    })
    .abort_handle()
}

/// Reads until the last number; returns the number of gap events. Panics on missing numbers without a gap event.
async fn follow(events: &mut SseClient, end: u64) -> usize {
    let (mut last, mut gaps, mut gap_reported) = (None::<u64>, 0, false);
    loop {
        match events.next().await {
            Next::Event(event) if event.name == "gap" => (gaps, gap_reported) = (gaps + 1, true),
            Next::Event(event) => {
                let number: u64 = event.data.parse().unwrap();
                if let Some(last) = last {
                    assert!(number == last + 1 || gap_reported, "{number} after {last} without a gap event");
                }
                if number == end {
                    return gaps;
                }
                (last, gap_reported) = (Some(number), false);
            }
            ended => panic!("the stream ended: {ended:?}"),
        }
    }
}
