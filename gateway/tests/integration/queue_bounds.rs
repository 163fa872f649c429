//! Whatever a client sends or does not read: what waits for it in the gateway is bounded in bytes, and nothing of it is
//! lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::http::Raw;
use crate::harness::{Gateway, Redis, SseClient, exclusive, until, within_timeout};

/// Publishers that wait for Redis as long as the test lets it hang, and may fall behind with what they are sent back.
const PATIENT: &str = r#"
[gateway]
shards = 1
[limits]
client_queue_bytes = "256MiB"
[websocket]
ping_interval = "1s"
pong_timeout = "500ms"
[redis.default]
command_timeout = "30s"
[[namespace]]
name = "open"
channels = ["open:*"]
publish = "anyone"
when_redis_down = "reject"
history = { size = 0 }
[[namespace]]
name = "closed"
channels = ["closed:*"]
when_redis_down = "reject"
"#;

const CLIENTS: usize = 4;
const PUBLISHES: usize = 400;
const PAYLOAD: usize = 60_000;

/// What one client may make the gateway hold: 1 MiB of commands, what it reads from the socket at once, and as much again
/// for what the allocator keeps.
const GROWTH_OF_EACH: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_for_a_hanging_redis_are_bounded_in_bytes_and_none_is_lost() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(PATIENT).redis(&redis).start().await;
    let before = gateway.memory();
    redis.signal("STOP");
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| Flooder::start(&gateway, format!("open:{client}"))).collect();
    until("nothing more is taken from the clients", async || {
        let sent = clients.iter().map(Flooder::sent).sum::<usize>();
        let paused = gateway.metric("earshot_reads_paused_total", &[]).await;
        (paused >= CLIENTS as f64 || sent == CLIENTS * PUBLISHES).then_some(())
    })
    .await;
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_OF_EACH * CLIENTS as u64, "the process grew by {growth} bytes");
    // The pongs of the clients stand behind what is not read. Two who come now and answer nothing are closed one after
    // the other, so a ping and the time for its pong have passed.
    for _ in 0..2 {
        is_closed_without_a_pong(&gateway).await;
    }
    redis.signal("CONT");
    for client in clients {
        let replies = within_timeout("every command is answered", client.replies).await.unwrap();
        let failed = replies.iter().find(|reply| reply.get("error").is_some());
        assert!(failed.is_none(), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_permission_is_refused_before_it_waits() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(PATIENT).redis(&redis).start().await;
    let before = gateway.memory();
    redis.signal("STOP");
    let client = Flooder::start(&gateway, "closed:1".to_owned());
    until("every command has arrived", async || {
        (gateway.metric("earshot_commands_total", &[]).await >= (PUBLISHES + 2) as f64).then_some(())
    })
    .await;
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_OF_EACH, "the process grew by {growth} bytes");
    assert_eq!(gateway.metric("earshot_reads_paused_total", &[]).await, 0.0);
    redis.signal("CONT");
    let replies = within_timeout("every command is answered", client.replies).await.unwrap();
    assert!(replies[1]["subscribe"].is_object(), "{}", replies[1]);
    assert!(replies[2..].iter().all(|reply| reply["error"]["code"] == 103), "{}", replies[2]);
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_although_nothing_is_read_from_it() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(PATIENT).redis(&redis).start().await;
    redis.signal("STOP");
    let client = Flooder::start(&gateway, "open:1".to_owned());
    until("nothing more is read", async || {
        (gateway.metric("earshot_reads_paused_total", &[]).await >= 1.0).then_some(())
    })
    .await;
    client.replies.abort();
    until("the connection is gone", async || {
        let connections = gateway.metric("earshot_connections", &[r#"transport="websocket""#]).await;
        (connections == 0.0).then_some(())
    })
    .await;
    redis.signal("CONT");
}

const LOGS: &str = r#"
[gateway]
shards = 1
[[namespace]]
name = "logs"
channels = ["log:*"]
source = "stream"
history = { size = 300 }
"#;

/// Streams of so many channels, each of which has missed so many publications of each.
const READERS: usize = 4;
const CHANNELS: usize = 120;
const MISSED: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_of_many_channels_waits_in_the_log_until_its_client_reads() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(LOGS).redis(&redis).start().await;
    let names: Vec<String> = (0..CHANNELS).map(|channel| format!("log:{channel}")).collect();
    let path = format!("/sse?channel={}", names.join("&channel="));
    let (stream, begun) = SseClient::connect(gateway.address(), &path).await;
    drop(stream);
    for number in 1..=MISSED {
        let answer = gateway.api("broadcast", &json!({"channels": names, "data": number}).to_string()).await;
        assert!(!answer.text().contains("error"), "{}", answer.text());
    }
    let before = gateway.memory();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let raw = Raw::over(gateway.small_buffer_connection());
        let (reader, subscribed) = SseClient::resume_over(raw, &path, &begun.id).await;
        assert!(!subscribed.data.contains("false"), "{}", subscribed.data);
        readers.push((reader, Read::default()));
    }
    let waiting = gateway.metric("earshot_client_queue_bytes", &[]).await;
    assert!(waiting <= (READERS << 20) as f64, "{waiting} bytes wait for {READERS} clients");
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < (READERS as u64) * (5 << 20), "the process grew by {growth} bytes");

    // What is published meanwhile comes after what was missed.
    for (reader, read) in &mut readers {
        read.events(reader, CHANNELS * MISSED / 2).await;
    }
    gateway.api("broadcast", &json!({"channels": names, "data": MISSED + 1}).to_string()).await;
    // One of them goes and comes back in the middle.
    let (mut last, mut read) = readers.pop().unwrap();
    read.events(&mut last, 7).await;
    drop(last);
    let (last, subscribed) = SseClient::resume(gateway.address(), &path, &read.id).await;
    assert!(!subscribed.data.contains("false"), "{}", subscribed.data);
    readers.push((last, read));
    for (reader, read) in &mut readers {
        let rest = CHANNELS * (MISSED + 1) - read.count;
        read.events(reader, rest).await;
    }
}

/// What a stream was given: of each channel, each number after the one before it.
#[derive(Default)]
struct Read {
    last: HashMap<String, usize>,
    count: usize,
    id: String,
}

impl Read {
    async fn events(&mut self, stream: &mut SseClient, count: usize) {
        for _ in 0..count {
            let event = stream.event().await;
            let number: usize = event.data.parse().unwrap_or_else(|_| panic!("{event:?}"));
            let last = self.last.entry(event.name).or_default();
            assert_eq!(number, *last + 1);
            *last = number;
            self.id = event.id;
            self.count += 1;
        }
    }
}

/// A client that answers no ping, until it is closed for that.
async fn is_closed_without_a_pong(gateway: &Gateway) {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let url = format!("ws://{}/connection/websocket", gateway.address());
    let (mut silent, _) = client_async(url, stream).await.unwrap();
    silent.send(Message::text(r#"{"id":1,"connect":{}}"#)).await.unwrap();
    loop {
        match within_timeout("the close", silent.next()).await {
            Some(Ok(Message::Close(Some(close)))) => return assert_eq!(u16::from(close.code), 3012),
            Some(Ok(_)) => {}
            end => panic!("no close: {end:?}"),
        }
    }
}

/// A client that connects, subscribes, and publishes large payloads on the same channel, as fast as it can.
struct Flooder {
    sent: Arc<AtomicUsize>,
    /// The replies, in the order of the commands.
    replies: JoinHandle<Vec<Value>>,
}

impl Flooder {
    fn start(gateway: &Gateway, channel: String) -> Self {
        let (address, sent) = (gateway.address(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&sent);
        let replies = tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            // When the client goes, it goes with a reset, as one does that was killed with data unread.
            stream.set_zero_linger().unwrap();
            let url = format!("ws://{address}/connection/websocket");
            let (mut commands, mut incoming) = client_async(url, stream).await.unwrap().0.split();
            let (pings, mut pinged) = mpsc::unbounded_channel();
            let write = async move {
                let first = json!({"id": 1, "connect": {}});
                let second = json!({"id": 2, "subscribe": {"channel": channel}});
                commands.send(Message::text(format!("{first}\n{second}"))).await.unwrap();
                let data = "x".repeat(PAYLOAD);
                for id in 3..PUBLISHES + 3 {
                    while pinged.try_recv().is_ok() {
                        commands.send(Message::text("{}")).await.unwrap();
                    }
                    let publish = json!({"id": id, "publish": {"channel": channel, "data": data}});
                    commands.send(Message::text(publish.to_string())).await.unwrap();
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                while pinged.recv().await.is_some() {
                    commands.send(Message::text("{}")).await.unwrap();
                }
            };
            let read = async move {
                let mut replies = Vec::new();
                while replies.len() < PUBLISHES + 2 {
                    let message = incoming.next().await.unwrap().unwrap();
                    let Message::Text(text) = message else { panic!("{message:?}") };
                    for line in text.split('\n') {
                        let reply: Value = serde_json::from_str(line).unwrap();
                        if reply == json!({}) {
                            pings.send(()).unwrap();
                        } else if let Some(id) = reply["id"].as_u64() {
                            replies.push(reply);
                            assert_eq!(id, replies.len() as u64, "replies come in the order of the commands");
                        }
                    }
                }
                replies
            };
            tokio::join!(write, read).1
        });
        Self { sent, replies }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}
