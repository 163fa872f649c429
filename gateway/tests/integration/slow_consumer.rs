//! A client that stops reading costs only itself: the others get everything, and it is told why it is cut off.

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

/// A bound that is soon reached, and a time-out that leaves the slow client time to read its close frame.
const CONFIG: &str = "[limits]\nclient_queue_bytes = \"256KiB\"\npublication_bytes = \"64KiB\"\n\n[websocket]\nclose_timeout = \"30s\"\n";

const ROUNDS: usize = 160;
const PER_ROUND: usize = 100;
const MESSAGES: usize = ROUNDS * PER_ROUND;
const NEIGHBOURS: usize = 8;

/// How much the process may grow while 16 MiB are published to a client that takes none of them.
const GROWTH: u64 = 12 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_that_stops_reading_is_closed_with_3008_and_the_others_get_everything() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let mut slow = WsClient::open_over(gateway.small_buffer_connection(), &["flood"]).await;

    flood(&redis, &gateway).await;

    let mut got = 0;
    let why = loop {
        match slow.next().await {
            Incoming::Publication(publication) => {
                assert_eq!(publication.data, message(got), "what came before the end has no hole");
                got += 1;
            }
            Incoming::Closed(why) => break why,
            other => panic!("neither a publication nor the end: {other:?}"),
        }
    };
    assert!(got < MESSAGES, "the slow client got everything: it was never slow");
    assert_eq!(why.map(|(code, _)| code), Some(3008), "after {got} messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_that_stops_reading_is_told_so_and_the_others_get_everything() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let mut slow = SseClient::open_over(Raw::over(gateway.small_buffer_connection()), "/sse/flood").await;

    flood(&redis, &gateway).await;

    let mut got = 0;
    let notice = loop {
        match slow.next().await {
            Next::Event(event) if event.name == "message" => {
                assert_eq!(event.data, message(got), "what came before the end has no hole");
                got += 1;
            }
            Next::Event(event) => break event,
            end => panic!("the stream ended without a word after {got} messages: {end:?}"),
        }
    };
    assert!(got < MESSAGES, "the slow client got everything: it was never slow");
    assert_eq!(notice.name, "error", "{notice:?}");
    assert!(notice.data.contains("3008"), "{notice:?}");
    assert!(matches!(slow.next().await, Next::End), "the stream ends in good order");
}

/// How often a client asks for the same again, and how much it is each time: what fits into one reply, since a client
/// that unsubscribes gives up the rest.
const RETURNS: u32 = 100;
const KEPT: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recoveries_that_nobody_reads_do_not_pile_up() {
    let redis = Redis::start().await;
    let config =
        format!("{CONFIG}\n[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nhistory = {{ size = 64 }}\n");
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut control = WsClient::open(gateway.address(), &["kept"]).await;
    for number in 0..KEPT {
        redis.publish("kept", message(number).as_bytes()).await;
        control.publication().await;
    }
    let url = format!("ws://{}/connection/websocket", gateway.address());
    let (mut idle, _) = client_async(url, gateway.small_buffer_connection()).await.unwrap();
    idle.send(Message::text(json!({"id": 1, "connect": {}}).to_string())).await.unwrap();
    for number in 1..=RETURNS {
        let subscribe = json!({"id": 2 * number, "subscribe": {"channel": "kept", "recover": true}});
        let unsubscribe = json!({"id": 2 * number + 1, "unsubscribe": {"channel": "kept"}});
        idle.send(Message::text(format!("{subscribe}\n{unsubscribe}"))).await.unwrap();
    }
    let mut most: f64 = 0.0;
    until("every command has arrived", async || {
        most = most.max(gateway.metric("earshot_client_queue_bytes", &[]).await);
        (gateway.metric("earshot_commands_total", &[]).await >= f64::from(2 * RETURNS + 1)).then_some(())
    })
    .await;
    // And all of it comes as soon as it is read.
    let (mut replied, mut recovered) = (1, 0);
    while replied <= 2 * RETURNS {
        let Some(Ok(Message::Text(text))) = idle.next().await else { panic!("it ended after {replied}") };
        most = most.max(if replied % 20 == 0 {
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
    assert_eq!(recovered, KEPT * RETURNS as usize);
    assert!(most < f64::from(512 << 10), "{most} bytes waited for one client");
}

/// Publications just below `publication_bytes`, one right after the other.
const LARGE: usize = 3;

#[tokio::test]
async fn a_client_that_reads_is_not_slow_when_large_publications_come_together() {
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

/// Publishes everything, round by round: each round must have reached every neighbour before the next one.
async fn flood(redis: &Redis, gateway: &Gateway) {
    let mut neighbours = Neighbours::open(gateway).await;
    let before = gateway.memory();
    for round in 0..ROUNDS {
        let numbers = round * PER_ROUND..(round + 1) * PER_ROUND;
        redis.publish_all(numbers.clone().map(|number| ("flood", message(number)))).await;
        neighbours = neighbours.hear(numbers).await;
    }
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH, "the process grew by {growth} bytes");
}

/// Clients of both kinds that read all the time.
struct Neighbours {
    sockets: Vec<WsClient>,
    streams: Vec<SseClient>,
}

impl Neighbours {
    async fn open(gateway: &Gateway) -> Self {
        let mut neighbours = Self { sockets: Vec::new(), streams: Vec::new() };
        for _ in 0..NEIGHBOURS / 2 {
            neighbours.sockets.push(WsClient::open(gateway.address(), &["flood"]).await);
            neighbours.streams.push(SseClient::open(gateway.address(), "/sse/flood").await);
        }
        neighbours
    }

    /// Every neighbour gets exactly these messages, in order.
    async fn hear(self, numbers: std::ops::Range<usize>) -> Self {
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
        let hearing = async { Self { sockets: sockets.join_all().await, streams: streams.join_all().await } };
        let in_time = tokio::time::timeout(Duration::from_secs(10), hearing).await;
        in_time.expect("the neighbours of a slow client are not held up")
    }
}

/// A payload of 1 KiB that tells its number.
fn message(number: usize) -> String {
    format!(r#"{{"number":"{number:08}","fill":"{}"}}"#, "x".repeat(990))
}
