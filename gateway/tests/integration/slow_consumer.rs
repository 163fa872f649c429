//! A slow consumer affects only itself: other clients receive everything, and it receives the reason for its
//! disconnect.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::http::Raw;
use crate::harness::sse::Next;
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

/// A queue that fills quickly, and a timeout that leaves the slow client time to read its close frame.
const CONFIG: &str = "[limits]\nclient_queue_bytes = \"256KiB\"\npublication_bytes = \"64KiB\"\n\n[websocket]\nclose_timeout = \"30s\"\n";

const ROUNDS: usize = 160;
const PER_ROUND: usize = 100;
const MESSAGES: usize = ROUNDS * PER_ROUND;
const OTHERS: usize = 8;

/// Maximum memory growth while 16 MiB are published to a client that reads nothing.
const GROWTH_MAX: u64 = 12 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_websocket_is_closed_with_3008() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["burst"]).await;

    publish_rounds(&redis, &gateway).await;

    let mut count = 0;
    let why = loop {
        match slow.next().await {
            Incoming::Publication(publication) => {
                assert_eq!(publication.data, message(count), "messages before the end are complete");
                count += 1;
            }
            Incoming::Closed(why) => break why,
            other => panic!("unexpected message: {other:?}"),
        }
    };
    assert!(count < MESSAGES, "the slow client received everything: the test is void");
    assert_eq!(why.map(|(code, _)| code), Some(3008), "after {count} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_event_stream_ends_with_an_error_event() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/burst").await;

    publish_rounds(&redis, &gateway).await;

    let mut count = 0;
    let notice = loop {
        match slow.next().await {
            Next::Event(event) if event.name == "message" => {
                assert_eq!(event.data, message(count), "messages before the end are complete");
                count += 1;
            }
            Next::Event(event) => break event,
            end => panic!("the stream ended without an error event after {count} messages: {end:?}"),
        }
    };
    assert!(count < MESSAGES, "the slow client received everything: the test is void");
    assert_eq!(notice.name, "error", "{notice:?}");
    assert!(notice.data.contains("3008"), "{notice:?}");
    assert!(matches!(slow.next().await, Next::End), "the stream is completed");
}

/// Number of repeated recoveries, and publications in each: what fits in one reply, because an unsubscribe discards the
/// rest.
const RECOVERIES: u32 = 100;
const KEPT: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_recoveries_do_not_accumulate() {
    let redis = Redis::start().await;
    let config = format!(
        "{CONFIG}\n[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nhistory = {{ size = 64 }}\n"
    );
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut control = WsClient::open(gateway.address(), &["kept"]).await;
    for number in 0..KEPT {
        redis.publish("kept", message(number).as_bytes()).await;
        control.publication().await;
    }
    let url = format!("ws://{}/connection/websocket", gateway.address());
    let (mut idle, _) = client_async(url, gateway.small_buffer_connection()).await.unwrap();
    idle.send(Message::text(json!({"id": 1, "connect": {}}).to_string())).await.unwrap();
    for number in 1..=RECOVERIES {
        let subscribe = json!({"id": 2 * number, "subscribe": {"channel": "kept", "recover": true}});
        let unsubscribe = json!({"id": 2 * number + 1, "unsubscribe": {"channel": "kept"}});
        idle.send(Message::text(format!("{subscribe}\n{unsubscribe}"))).await.unwrap();
    }
    let mut peak: f64 = 0.0;
    until("every command has arrived", async || {
        peak = peak.max(gateway.metric("earshot_client_queue_bytes", &[]).await);
        (gateway.metric("earshot_commands_total", &[]).await >= f64::from(2 * RECOVERIES + 1)).then_some(())
    })
    .await;
    // All of it is delivered once the client reads.
    let (mut replied, mut recovered) = (1, 0);
    while replied <= 2 * RECOVERIES {
        let Some(Ok(Message::Text(text))) = idle.next().await else { panic!("it ended after {replied}") };
        peak = peak.max(if replied % 20 == 0 {
            gateway.metric("earshot_client_queue_bytes", &[]).await
        } else {
            0.0
        });
        for line in text.split('\n') {
            let reply: Value = serde_json::from_str(line).unwrap();
            let publications = reply["subscribe"]["publications"].as_array().map_or(0, Vec::len);
            recovered += publications + usize::from(reply["push"]["pub"].is_object());
            if let Some(id) = reply["id"].as_u64() {
                assert_eq!(id, u64::from(replied), "{reply}");
                replied += 1;
            }
        }
    }
    assert_eq!(recovered, KEPT * RECOVERIES as usize);
    assert!(peak < f64::from(512 << 10), "{peak} bytes were queued for one client");
}

/// Publications just below `publication_bytes`, back to back.
const LARGE: usize = 3;

#[tokio::test]
async fn reading_client_is_not_slow_after_large_publications() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let mut socket = WsClient::open_over(gateway.small_buffer_connection(), &["large"]).await;
    let mut stream = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/large").await;
    let large = |number: usize| format!("\"{number}{}\"", "x".repeat(1_000_000));
    redis.publish_all((0..LARGE).map(|number| ("large", large(number)))).await;
    for number in 0..LARGE {
        assert!(socket.publication().await.data == large(number), "publication {number}");
        assert!(stream.data("message").await == large(number), "publication {number}");
    }
}

/// Publishes everything in rounds: each round must have reached every other client before the next one.
async fn publish_rounds(redis: &Redis, gateway: &Gateway) {
    let mut others = OtherClients::open(gateway).await;
    let before = gateway.memory();
    for round in 0..ROUNDS {
        let numbers = round * PER_ROUND..(round + 1) * PER_ROUND;
        redis.publish_all(numbers.clone().map(|number| ("burst", message(number)))).await;
        others = others.receive(numbers).await;
    }
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "the process grew by {growth} bytes");
}

/// Clients of both transports that read all the time.
struct OtherClients {
    sockets: Vec<WsClient>,
    streams: Vec<SseClient>,
}

impl OtherClients {
    async fn open(gateway: &Gateway) -> Self {
        let mut others = Self { sockets: Vec::new(), streams: Vec::new() };
        for _ in 0..OTHERS / 2 {
            others.sockets.push(WsClient::open(gateway.address(), &["burst"]).await);
            others.streams.push(SseClient::open(gateway.address(), "/sse/burst").await);
        }
        others
    }

    /// Asserts that every client receives exactly these messages, in order.
    async fn receive(self, numbers: std::ops::Range<usize>) -> Self {
        let mut sockets = JoinSet::new();
        for mut socket in self.sockets {
            let numbers = numbers.clone();
            sockets.spawn(async move {
                for number in numbers {
                    assert_eq!(socket.publication().await.data, message(number));
                }
                socket
            });
        }
        let mut streams = JoinSet::new();
        for mut stream in self.streams {
            let numbers = numbers.clone();
            streams.spawn(async move {
                for number in numbers {
                    assert_eq!(stream.data("message").await, message(number));
                }
                stream
            });
        }
        let receiving =
            async { Self { sockets: sockets.join_all().await, streams: streams.join_all().await } };
        let in_time = tokio::time::timeout(Duration::from_secs(10), receiving).await;
        in_time.expect("other clients are not delayed")
    }
}

/// A payload of 1 KiB with this number.
fn message(number: usize) -> String {
    format!(r#"{{"number":"{number:08}","fill":"{}"}}"#, "x".repeat(990))
}
