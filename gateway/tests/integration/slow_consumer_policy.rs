//! What a namespace says of the slow: the newest of each kind, or the oldest dropped with a notice; nothing else is
//! lost, and nobody else notices.

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
slow_consumer.policy = "latest"
slow_consumer.conflation_key = "/job/id"
slow_consumer.terminal = { key = "/state", values = ["done"] }

[[namespace]]
name = "ticks"
channels = ["ticks"]
history = { size = 100, ttl = "60s" }
slow_consumer.policy = "drop-oldest"
"#;

/// Twenty times what may wait for one client.
const MESSAGES: u64 = 5000;
const BATCH: usize = 100;
const JOBS: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_latest_a_slow_stream_gets_the_newest_of_each_and_every_last_state() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/progress").await;

    flood(&redis, &gateway, "progress").await;

    let (mut last, mut got, mut newest, mut done) = (0, 0, HashMap::new(), 0);
    while last < MESSAGES {
        let Next::Event(event) = slow.next().await else { panic!("it ended after {last}") };
        assert_eq!(event.name, "message", "nothing is to be told: {event:?}");
        let (number, job, is_done) = read(&event.data);
        assert!(number > last, "{number} came after {last}");
        (last, got, done) = (number, got + 1, done + u64::from(is_done));
        newest.insert(job, number);
    }
    assert!(got < MESSAGES, "it got everything: it was never slow");
    for job in 0..JOBS {
        assert_eq!(newest[&job], MESSAGES - (JOBS - job) % JOBS, "the newest of job {job}");
    }
    assert_eq!(done, (1..=MESSAGES).filter(|number| is_last(*number)).count() as u64);
    let superseded = gateway.metric("earshot_conflated_total", &[]).await;
    assert!(superseded >= (MESSAGES - got) as f64, "{superseded} of {}", MESSAGES - got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_drop_oldest_a_slow_stream_is_told_of_what_was_dropped_and_goes_on() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/ticks").await;

    flood(&redis, &gateway, "ticks").await;

    let (mut last, mut dropped) = (0, 0);
    while last < MESSAGES {
        let Next::Event(event) = slow.next().await else { panic!("it ended after {last}") };
        if event.name == "gap" {
            assert!(event.data.contains(r#""slow-consumer""#), "{event:?}");
            // The first offset is that of the first message, so offsets are numbers.
            let offset = offset(&event);
            assert!(offset > last, "a gap up to {offset} is told after {last}");
            (last, dropped) = (offset, dropped + offset - last);
            continue;
        }
        let (number, ..) = read(&event.data);
        assert_eq!(number, last + 1, "what was dropped is told before what follows it");
        last = number;
    }
    assert!(dropped > 0, "it got everything: it was never slow");
    assert_eq!(gateway.metric("earshot_slow_consumer_dropped_total", &[]).await as u64, dropped);
    assert!(gateway.metric("earshot_gaps_total", &[r#"reason="slow-consumer""#]).await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_drop_oldest_a_slow_websocket_is_made_to_subscribe_again_and_keeps_its_connection() {
    let _exclusive = exclusive().await;
    let (redis, gateway) = start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["ticks"]).await;

    flood(&redis, &gateway, "ticks").await;

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
            other => panic!("neither a publication nor the notice: {other:?}"),
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
async fn whoever_takes_nothing_for_too_long_is_disconnected_however_little_waits() {
    let redis = Redis::start().await;
    let config = "[limits]\nclient_queue_age = \"1s\"\nclient_queue_bytes = \"1GiB\"\n";
    let gateway = Gateway::settings().config(config).redis(&redis).start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["slowly"]).await;
    let mut number = 0;
    until("it is disconnected", async || {
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
            other => panic!("neither a publication nor the end: {other:?}"),
        }
    };
    assert_eq!(why.map(|(code, _)| code), Some(3008));
}

async fn start() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    (redis, gateway)
}

/// Publishes everything, as fast as a neighbour who keeps up hears it.
async fn flood(redis: &Redis, gateway: &Gateway, channel: &str) {
    let mut control = WsClient::open(gateway.address(), &[channel]).await;
    let numbers: Vec<u64> = (1..=MESSAGES).collect();
    for batch in numbers.chunks(BATCH) {
        redis.publish_all(batch.iter().map(|number| (channel, message(*number)))).await;
        for number in batch {
            assert_eq!(read(&control.publication().await.data).0, *number, "the control hears everything");
        }
    }
}

fn is_last(number: u64) -> bool {
    number % 250 == 7
}

fn message(number: u64) -> String {
    let (job, state) = (number % JOBS, if is_last(number) { "done" } else { "active" });
    let fill = "x".repeat(950);
    format!(r#"{{"number":{number},"job":{{"id":{job}}},"state":"{state}","fill":"{fill}"}}"#)
}

fn read(data: &str) -> (u64, u64, bool) {
    let value: Value = serde_json::from_str(data).unwrap();
    (value["number"].as_u64().unwrap(), value["job"]["id"].as_u64().unwrap(), value["state"] == "done")
}

/// Where the sequence goes on after an event.
fn offset(event: &Event) -> u64 {
    let cursor = earshot_protocol::Cursor::parse(&event.id).unwrap();
    let channel = earshot_protocol::ChannelName::parse("ticks").unwrap();
    let [position] = cursor.positions(&[earshot_protocol::ChannelTag::of(&channel)])[..] else {
        unreachable!()
    };
    let earshot_protocol::CursorPosition::At(position) = position else { panic!("{position:?}") };
    position.offset
}
