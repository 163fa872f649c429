//! Slow consumer policies of a namespace: the last publication per key, or the oldest dropped with a gap notice;
//! nothing else is lost, and other clients are unaffected.

use std::collections::HashMap;

use serde_json::Value;

use crate::harness::http::Raw;
use crate::harness::sse::{Event, Next};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

const CONFIG: &str = r#"
[limits]
client_queue_bytes = "256KiB"
publication_bytes = "64KiB"

[[namespace]]
name = "progress"
channels = ["progress"]
subscribe = "anyone"
slow_consumer.policy = "latest"
slow_consumer.conflation_key = "/job/id"
slow_consumer.terminal = { key = "/state", values = ["done"] }

[[namespace]]
name = "ticks"
channels = ["ticks"]
subscribe = "anyone"
history = { size = 100, ttl = "60s" }
slow_consumer.policy = "drop-oldest"
"#;

/// Twenty times what fits in the queue of a client.
const MESSAGES: u64 = 5000;
const BATCH: usize = 100;
const JOBS: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_policy_delivers_the_last_publication_per_key() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/progress").await;

    publish_all(&redis, &gateway, "progress").await;

    let (mut last, mut count, mut last_numbers, mut done) = (0, 0, HashMap::new(), 0);
    while last < MESSAGES {
        let Next::Event(event) = slow.next().await else { panic!("it ended after {last}") };
        assert_eq!(event.name, "message", "unexpected event: {event:?}");
        let (number, job, is_done) = read(&event.data);
        assert!(number > last, "{number} after {last}");
        (last, count, done) = (number, count + 1, done + u64::from(is_done));
        last_numbers.insert(job, number);
    }
    assert!(count < MESSAGES, "it received everything: the test is void");
    for job in 0..JOBS {
        assert_eq!(last_numbers[&job], MESSAGES - (JOBS - job) % JOBS, "the last number of job {job}");
    }
    assert_eq!(done, (1..=MESSAGES).filter(|number| is_terminal(*number)).count() as u64);
    let missing = (MESSAGES - count) as f64;
    gateway.wait_for_metric("earshot_conflated_total", &[], |conflated| conflated >= missing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_policy_reports_a_gap_to_a_slow_stream() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/ticks").await;

    publish_all(&redis, &gateway, "ticks").await;

    let (mut last, mut dropped) = (0, 0);
    while last < MESSAGES {
        let Next::Event(event) = slow.next().await else { panic!("it ended after {last}") };
        if event.name == "gap" {
            assert!(event.data.contains(r#""slow-consumer""#), "{event:?}");
            // The first message has offset 1, so offsets equal numbers.
            let offset = offset(&event);
            assert!(offset > last, "gap up to {offset} after {last}");
            (last, dropped) = (offset, dropped + offset - last);
            continue;
        }
        let (number, ..) = read(&event.data);
        assert_eq!(number, last + 1, "the gap event precedes the next message");
        last = number;
    }
    assert!(dropped > 0, "it received everything: the test is void");
    let is_dropped = |count| count == dropped as f64;
    gateway.wait_for_metric("earshot_slow_consumer_dropped_total", &[], is_dropped).await;
    gateway.wait_for_metric("earshot_gaps_total", &[r#"reason="slow-consumer""#], |gaps| gaps > 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_policy_resubscribes_a_slow_websocket() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["ticks"]).await;

    publish_all(&redis, &gateway, "ticks").await;

    let mut last = 0;
    let notice = loop {
        match slow.next().await {
            Incoming::Publication(publication) => {
                let (number, ..) = read(&publication.data);
                assert_eq!(number, last + 1, "nothing is missing before the notice");
                last = number;
            }
            Incoming::Ping => {}
            Incoming::Push(push) => break push,
            other => panic!("unexpected message: {other:?}"),
        }
    };
    assert_eq!(notice["push"]["unsubscribe"]["code"], 2500, "{notice}");
    assert!(last < MESSAGES);
    let again = slow.request("subscribe", serde_json::json!({ "channel": "ticks" })).await;
    assert_eq!(again["subscribe"]["offset"], MESSAGES, "{again}");
    redis.publish("ticks", message(MESSAGES + 1).as_bytes()).await;
    assert_eq!(read(&slow.publication().await.data).0, MESSAGES + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_client_is_disconnected_after_the_queue_age() {
    let redis = Redis::start().await;
    let config = "[limits]\nclient_queue_age = \"1s\"\nclient_queue_bytes = \"1GiB\"\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["slowly"]).await;
    let mut number = 0;
    until("the client is disconnected", async || {
        for _ in 0..20 {
            number += 1;
            redis.publish("slowly", message(number).as_bytes()).await;
        }
        let closed = gateway.metric("earshot_server_disconnects_total", &[r#"code="3008""#]).await;
        (closed > 0.0).then_some(())
    })
    .await;
    let why = loop {
        match slow.next().await {
            Incoming::Publication(_) | Incoming::Ping => {}
            Incoming::Closed(why) => break why,
            other => panic!("unexpected message: {other:?}"),
        }
    };
    assert_eq!(why.map(|(code, _)| code), Some(3008));
}

async fn start() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

/// Publishes everything, as fast as a control client receives it.
async fn publish_all(redis: &Redis, gateway: &Gateway, channel: &str) {
    let mut control = WsClient::open(gateway.address(), &[channel]).await;
    let numbers: Vec<u64> = (1..=MESSAGES).collect();
    for batch in numbers.chunks(BATCH) {
        redis.publish_all(batch.iter().map(|number| (channel, message(*number)))).await;
        for number in batch {
            assert_eq!(
                read(&control.publication().await.data).0,
                *number,
                "the control client receives everything"
            );
        }
    }
}

fn is_terminal(number: u64) -> bool {
    number % 250 == 7
}

fn message(number: u64) -> String {
    let (job, state) = (number % JOBS, if is_terminal(number) { "done" } else { "active" });
    let fill = "x".repeat(950);
    format!(r#"{{"number":{number},"job":{{"id":{job}}},"state":"{state}","fill":"{fill}"}}"#)
}

fn read(data: &str) -> (u64, u64, bool) {
    let value: Value = serde_json::from_str(data).unwrap();
    (value["number"].as_u64().unwrap(), value["job"]["id"].as_u64().unwrap(), value["state"] == "done")
}

/// The offset in the id of an event.
fn offset(event: &Event) -> u64 {
    let cursor = earshot_protocol::Cursor::parse(&event.id).unwrap();
    let channel = earshot_protocol::ChannelName::parse("ticks").unwrap();
    let [position] = cursor.positions(&[earshot_protocol::ChannelTag::of(&channel)])[..] else {
        unreachable!()
    };
    let earshot_protocol::CursorPosition::At(position) = position else { panic!("{position:?}") };
    position.offset
}
