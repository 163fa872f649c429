//! Nothing is lost in silence: wherever a client's messages have a hole, it was told so just before.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::harness::http::Raw;
use crate::harness::sse::Next;
use crate::harness::ws_frames::{RawWebSocket, TEXT, frame};
use crate::harness::{Gateway, Redis, SseClient, exclusive, until, within_timeout};

/// Between two messages of a steady publisher.
const PAUSE: Duration = Duration::from_millis(1);

/// Every number up to this is published, and this one again and again until it was heard.
const LAST: u64 = 3000;

/// The same where all are published at once, to more clients than the gateway can serve at that rate.
const FLOOD: u64 = 30_000;
const CROWD: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_an_event_stream_comes_after_a_gap_event() {
    let _exclusive = exclusive().await;
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut events = SseClient::open(gateway.address(), "/sse/numbers").await;
    let following = tokio::spawn(async move { follow(&mut events, LAST).await });
    let publishing = publish_through_it_all(&redis.url(), 0, LAST);
    for _ in 0..3 {
        let received = gateway.metric("earshot_messages_total", &[]).await;
        until("the load flows", async || {
            (gateway.metric("earshot_messages_total", &[]).await > received + 100.0).then_some(())
        })
        .await;
        redis.kill();
        gateway.wait_for_ready_status(503).await;
        redis.restart().await;
        gateway.wait_for_ready_status(200).await;
    }
    let gaps = within_timeout("the last number is received", following).await.unwrap();
    assert!(gaps >= 3, "three outages, {gaps} gaps told");
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflow_between_redis_and_the_clients_is_a_gap_event() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let config = "[limits]\nshard_queue_items = 16\n\n[gateway]\nshards = 1\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut events = SseClient::open(gateway.address(), "/sse/numbers").await;
    let following = tokio::spawn(async move { follow(&mut events, FLOOD).await });
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        crowd.spawn(read_on(gateway.address()));
    }
    until("the crowd is there", async || {
        let there = gateway.metric("earshot_connections", &[r#"transport="sse""#]).await;
        (there > CROWD as f64).then_some(())
    })
    .await;
    let numbers: Vec<String> = (0..FLOOD).map(|number| number.to_string()).collect();
    redis.publish_all(numbers.iter().map(|number| ("numbers", number))).await;
    let publishing = publish_through_it_all(&redis.url(), FLOOD, FLOOD);
    let gaps = within_timeout("the last number is received", following).await.unwrap();
    publishing.abort();
    let overflowed = gateway.metric("earshot_gaps_total", &[r#"reason="queue-full""#]).await;
    assert!(overflowed > 0.0, "the queue was never full: this test shows nothing");
    assert!(gaps > 0);
}

/// Reads a stream and throws it away.
async fn read_on(address: SocketAddr) {
    let mut raw = Raw::connect(address).await;
    raw.send("GET /sse/numbers HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    while raw.fill().await.is_ok_and(|more| more) {
        raw.take(raw.buffered().len());
    }
}

#[tokio::test]
async fn a_positioned_subscription_is_ended_with_2500_when_redis_was_away() {
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
        assert_eq!(
            next["push"]["pub"]["data"], 1,
            "who was promised no position is simply received again: {next}"
        );
    }
}

/// Publishes from `number` to `last`, and keeps on with that; goes on through outages. What fails is lost.
fn publish_through_it_all(url: &str, mut number: u64, last: u64) -> AbortHandle {
    let client = redis::Client::open(url).unwrap();
    tokio::spawn(async move {
        loop {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                sleep(PAUSE).await;
                continue;
            };
            loop {
                let publish = redis::cmd("PUBLISH").arg("numbers").arg(number).clone();
                number = last.min(number + 1);
                if publish.exec_async(&mut connection).await.is_err() {
                    break;
                }
                sleep(PAUSE).await;
            }
        }
    })
    .abort_handle()
}

/// Reads until the last number; tells how many gaps there were. A hole without a gap is a failure.
async fn follow(events: &mut SseClient, end: u64) -> usize {
    let (mut last, mut gaps, mut told) = (None::<u64>, 0, false);
    loop {
        match events.next().await {
            Next::Event(event) if event.name == "gap" => (gaps, told) = (gaps + 1, true),
            Next::Event(event) => {
                let number: u64 = event.data.parse().unwrap();
                if let Some(last) = last {
                    assert!(number == last + 1 || told, "{number} after {last}, and no gap was told");
                }
                if number == end {
                    return gaps;
                }
                (last, told) = (Some(number), false);
            }
            ended => panic!("the stream ended: {ended:?}"),
        }
    }
}
