//! A client that was suspended recovers over a slow link more than its queue may hold, without being treated as a slow
//! consumer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::ws::{Incoming, WsClient};
use crate::harness::{Gateway, Redis, SseClient, exclusive};

/// Missed publications (the maximum of one recovery), and publications that arrive while the client still reads.
const MISSED: u64 = 300;
const LIVE: u64 = 20;

/// Time per publication on the slow link: 4 KiB per millisecond.
const READ_INTERVAL: Duration = Duration::from_millis(1);

/// The reply contains the first part of a recovery, up to this many bytes.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// A queue that is smaller than the recovery, with a history that keeps everything until it is read; and a queue that
/// holds everything, with a history that drops missed publications during the recovery.
const CONFIGS: [(&str, u64); 2] = [("128KiB", MISSED + LIVE), ("2MiB", MISSED)];

fn config((client_queue_bytes, size): (&str, u64)) -> String {
    format!(
        "[limits]\nclient_queue_bytes = \"{client_queue_bytes}\"\npublication_bytes = \"64KiB\"\n[[namespace]]\n\
         name = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nhistory = {{ size = {size}, bytes = \"8MiB\" }}\n"
    )
}

/// A gateway that has received what the suspended client misses.
struct Backlog {
    redis: Redis,
    gateway: Gateway,
    control: SseClient,
    /// The cursor before the first publication.
    cursor: String,
}

impl Backlog {
    async fn publish_missed(limits: (&str, u64)) -> Self {
        let redis = Redis::start().await;
        let gateway = Gateway::settings().config(&config(limits)).redis(&redis).start().await;
        let (control, subscribed) = SseClient::connect(gateway.address(), "/sse/large").await;
        let mut backlog = Self { redis, gateway, control, cursor: subscribed.id };
        for first in (1..=MISSED).step_by(10) {
            backlog.publish(first..=first + 9).await;
        }
        backlog
    }

    async fn publish(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        self.redis.publish_all(numbers.clone().map(|number| ("large", large(number)))).await;
        for number in numbers {
            assert_eq!(self.control.data("message").await, large(number));
        }
    }

    /// Publishes while the client has read almost nothing of its recovery.
    async fn publish_live(&mut self) {
        self.publish(MISSED + 1..=MISSED + LIVE).await;
    }
}

/// A payload of 4 KiB with this number.
fn large(number: u64) -> String {
    format!(r#"{{"fill":"{}","number":{number}}}"#, "x".repeat(4070))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_recovers_more_than_its_queue_over_a_slow_link() {
    let _exclusive = exclusive().await;
    for (encoding, limits) in Encoding::BOTH.into_iter().zip(CONFIGS) {
        let mut backlog = Backlog::publish_missed(limits).await;
        let mut client = WsClient::over(backlog.gateway.small_buffer_connection(), encoding).await;
        client.request("connect", json!({})).await;
        let reply = client.request("subscribe", json!({"channel": "large", "recover": true})).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recovered"], &result["offset"]), (&json!(true), &Value::Null), "{encoding:?}");
        let inside = result["publications"].as_array().unwrap();
        let payloads: Vec<String> =
            inside.iter().map(|publication| publication["data"].to_string()).collect();
        let bytes: usize = payloads.iter().map(String::len).sum();
        assert!(
            !inside.is_empty() && bytes <= REPLY_BYTES_MAX,
            "{} publications, {bytes} bytes",
            inside.len()
        );
        let mut last = inside.len() as u64;
        assert_eq!(payloads, (1..=last).map(large).collect::<Vec<_>>());

        backlog.publish_live().await;
        while last < MISSED + LIVE {
            last += 1;
            match client.next().await {
                Incoming::Publication(publication) => {
                    assert_eq!((publication.offset, publication.data), (last, large(last)));
                }
                other => panic!("{encoding:?}, expected {last}: {other:?}"),
            }
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_stream_recovers_more_than_its_queue_over_a_slow_link() {
    let _exclusive = exclusive().await;
    let paths = [("/sse/large", "message"), ("/sse?channel=other&channel=large", "large")];
    for (limits, (path, name)) in CONFIGS.into_iter().flat_map(|limits| paths.map(|path| (limits, path))) {
        let mut backlog = Backlog::publish_missed(limits).await;
        let raw = Raw::over(backlog.gateway.small_buffer_connection());
        let (mut stream, subscribed) = SseClient::resume_over(raw, path, &backlog.cursor).await;
        assert!(subscribed.data.contains(r#""large":{"recovered":true}"#), "{subscribed:?}");
        backlog.publish_live().await;
        for number in 1..=MISSED + LIVE {
            assert_eq!(stream.data(name).await, large(number), "expected {number}");
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }
}
