//! A laptop that slept, over a slow link: it recovers more than its outbox may hold, and is not taken for a slow client.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::ws::{Incoming, WsClient};
use crate::harness::{Gateway, Redis, SseClient, exclusive};

/// As much as one recovery may hold, and what comes live while its client still reads.
const ASLEEP: u64 = 300;
const LIVE: u64 = 20;

/// What one publication takes on the slow link: 4 KiB a millisecond.
const PACE: Duration = Duration::from_millis(1);

/// The first part of a recovery is in the reply, as far as it fits.
const IN_REPLY: usize = 64 << 10;

/// More than the outbox may hold, which stays in the history until it is read; and a history that drops what was missed
/// while it is read, of which the outbox may hold everything.
const CONFIGS: [(&str, u64); 2] = [("128KiB", ASLEEP + LIVE), ("2MiB", ASLEEP)];

fn config((client_queue_bytes, size): (&str, u64)) -> String {
    format!(
        "[limits]\nclient_queue_bytes = \"{client_queue_bytes}\"\npublication_bytes = \"64KiB\"\n[[namespace]]\n\
         name = \"all\"\nchannels = [\"*\"]\nhistory = {{ size = {size}, bytes = \"8MiB\" }}\n"
    )
}

/// A gateway that has heard what the sleeper missed.
struct Night {
    redis: Redis,
    gateway: Gateway,
    witness: SseClient,
    /// The cursor from before the first publication.
    evening: String,
}

impl Night {
    async fn pass(limits: (&str, u64)) -> Self {
        let redis = Redis::start().await;
        let gateway = Gateway::settings().config(&config(limits)).redis(&redis).start().await;
        let (witness, subscribed) = SseClient::connect(gateway.address(), "/sse/large").await;
        let mut night = Self { redis, gateway, witness, evening: subscribed.id };
        for first in (1..=ASLEEP).step_by(10) {
            night.publish(first..=first + 9).await;
        }
        night
    }

    async fn publish(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        self.redis.publish_all(numbers.clone().map(|number| ("large", large(number)))).await;
        for number in numbers {
            assert_eq!(self.witness.data("message").await, large(number));
        }
    }

    /// Live ones come while the sleeper has read next to nothing of its recovery.
    async fn dawn(&mut self) {
        self.publish(ASLEEP + 1..=ASLEEP + LIVE).await;
    }
}

/// A payload of 4 KiB that tells its number.
fn large(number: u64) -> String {
    format!(r#"{{"fill":"{}","number":{number}}}"#, "x".repeat(4070))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_large_publications_reach_a_socket_that_reads_slowly() {
    let _exclusive = exclusive().await;
    for (encoding, limits) in Encoding::BOTH.into_iter().zip(CONFIGS) {
        let mut night = Night::pass(limits).await;
        let mut client = WsClient::over(night.gateway.small_buffer_connection(), encoding).await;
        client.request("connect", json!({})).await;
        let reply = client.request("subscribe", json!({"channel": "large", "recover": true})).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recovered"], &result["offset"]), (&json!(true), &Value::Null), "{encoding:?}");
        let inside = result["publications"].as_array().unwrap();
        let payloads: Vec<String> =
            inside.iter().map(|publication| publication["data"].to_string()).collect();
        let bytes: usize = payloads.iter().map(String::len).sum();
        assert!(!inside.is_empty() && bytes <= IN_REPLY, "{} publications, {bytes} bytes", inside.len());
        let mut last = inside.len() as u64;
        assert_eq!(payloads, (1..=last).map(large).collect::<Vec<_>>());

        night.dawn().await;
        while last < ASLEEP + LIVE {
            last += 1;
            match client.next().await {
                Incoming::Publication(publication) => {
                    assert_eq!((publication.offset, publication.data), (last, large(last)));
                }
                other => panic!("{encoding:?}, in the place of {last}: {other:?}"),
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_large_publications_reach_a_stream_that_reads_slowly() {
    let _exclusive = exclusive().await;
    let paths = [("/sse/large", "message"), ("/sse?channel=other&channel=large", "large")];
    for (limits, (path, name)) in CONFIGS.into_iter().flat_map(|limits| paths.map(|path| (limits, path))) {
        let mut night = Night::pass(limits).await;
        let raw = Raw::over(night.gateway.small_buffer_connection());
        let (mut stream, subscribed) = SseClient::resume_over(raw, path, &night.evening).await;
        assert!(subscribed.data.contains(r#""large":{"recovered":true}"#), "{subscribed:?}");
        night.dawn().await;
        for number in 1..=ASLEEP + LIVE {
            assert_eq!(stream.data(name).await, large(number), "in the place of {number}");
            tokio::time::sleep(PACE).await;
        }
    }
}
