//! Memory per client is bounded in bytes, whatever a client sends and however slowly it reads, and nothing is lost.

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

/// Commands that wait longer for Redis than the test suspends it, and a queue large enough for all publications.
const LONG_TIMEOUT: &str = r#"
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
subscribe = "anyone"
publish = "anyone"
when_redis_down = "reject"
history = { size = 0 }
[[namespace]]
name = "closed"
channels = ["closed:*"]
subscribe = "anyone"
when_redis_down = "reject"
"#;

const CLIENTS: usize = 4;
const PUBLISHES: usize = 400;
const PAYLOAD: usize = 60_000;

/// Memory growth allowed per client: 1 MiB of commands, one read from the socket, and the same again for the allocator.
const GROWTH_PER_CLIENT: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_waiting_for_a_hanging_redis_are_bounded_and_not_lost() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(LONG_TIMEOUT).redis(&redis).start().await;
    let before = gateway.memory();
    redis.signal("STOP");
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| Flooder::start(&gateway, format!("open:{client}"))).collect();
    until("the gateway stops reading from the clients", async || {
        let sent = clients.iter().map(Flooder::sent).sum::<usize>();
        let paused = gateway.metric("earshot_reads_paused_total", &[]).await;
        (paused >= CLIENTS as f64 || sent == CLIENTS * PUBLISHES).then_some(())
    })
    .await;
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_PER_CLIENT * CLIENTS as u64, "the process grew by {growth} bytes");
    // The pongs of the clients are not read either. Two silent clients are closed one after the other, so a ping and
    // its pong timeout have passed.
    for _ in 0..2 {
        wait_for_pong_timeout(&gateway).await;
    }
    redis.signal("CONT");
    for client in clients {
        let replies = within_timeout("every command is answered", client.replies).await.unwrap();
        let failed = replies.iter().find(|reply| reply.get("error").is_some());
        assert!(failed.is_none(), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_without_permission_is_rejected_without_waiting() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(LONG_TIMEOUT).redis(&redis).start().await;
    let before = gateway.memory();
    redis.signal("STOP");
    let client = Flooder::start(&gateway, "closed:1".to_owned());
    until("every command has arrived", async || {
        (gateway.metric("earshot_commands_total", &[]).await >= (PUBLISHES + 2) as f64).then_some(())
    })
    .await;
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_PER_CLIENT, "the process grew by {growth} bytes");
    assert_eq!(gateway.metric("earshot_reads_paused_total", &[]).await, 0.0);
    redis.signal("CONT");
    let replies = within_timeout("every command is answered", client.replies).await.unwrap();
    assert!(replies[1]["subscribe"].is_object(), "{}", replies[1]);
    assert!(replies[2..].iter().all(|reply| reply["error"]["code"] == 103), "{}", replies[2]);
}

#[tokio::test]
async fn disconnect_is_detected_while_reads_are_paused() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(LONG_TIMEOUT).redis(&redis).start().await;
    redis.signal("STOP");
    let client = Flooder::start(&gateway, "open:1".to_owned());
    until("reads are paused", async || {
        (gateway.metric("earshot_reads_paused_total", &[]).await >= 1.0).then_some(())
    })
    .await;
    client.replies.abort();
    until("the connection is closed", async || {
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
subscribe = "anyone"
source = "stream"
history = { size = 300 }
"#;

/// Streams, channels per stream, and missed publications per channel.
const READERS: usize = 4;
const CHANNELS: usize = 120;
const MISSED: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_of_many_channels_reads_the_log_as_the_client_reads() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(LOGS).redis(&redis).start().await;
    let names: Vec<String> = (0..CHANNELS).map(|channel| format!("log:{channel}")).collect();
    let path = format!("/sse?channel={}", names.join("&channel="));
    let (stream, first) = SseClient::connect(gateway.address(), &path).await;
    drop(stream);
    for number in 1..=MISSED {
        let answer = gateway.api("broadcast", &json!({"channels": names, "data": number}).to_string()).await;
        assert!(!answer.text().contains("error"), "{}", answer.text());
    }
    let before = gateway.memory();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let raw = Raw::over(gateway.small_buffer_connection());
        let (reader, subscribed) = SseClient::resume_over(raw, &path, &first.id).await;
        assert!(!subscribed.data.contains("false"), "{}", subscribed.data);
        readers.push((reader, Progress::default()));
    }
    let waiting = gateway.metric("earshot_client_queue_bytes", &[]).await;
    assert!(waiting <= (READERS << 20) as f64, "{waiting} bytes are queued for {READERS} clients");
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < (READERS as u64) * (5 << 20), "the process grew by {growth} bytes");

    // Publications during the recovery arrive after the missed ones.
    for (reader, progress) in &mut readers {
        progress.events(reader, CHANNELS * MISSED / 2).await;
    }
    gateway.api("broadcast", &json!({"channels": names, "data": MISSED + 1}).to_string()).await;
    // One client reconnects during its recovery.
    let (mut last, mut progress) = readers.pop().unwrap();
    progress.events(&mut last, 7).await;
    drop(last);
    let (last, subscribed) = SseClient::resume(gateway.address(), &path, &progress.id).await;
    assert!(!subscribed.data.contains("false"), "{}", subscribed.data);
    readers.push((last, progress));
    for (reader, progress) in &mut readers {
        let rest = CHANNELS * (MISSED + 1) - progress.count;
        progress.events(reader, rest).await;
    }
}

/// What a stream received: consecutive numbers of each channel.
#[derive(Default)]
struct Progress {
    last: HashMap<String, usize>,
    count: usize,
    id: String,
}

impl Progress {
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

/// A client that responds to no ping until it is closed.
async fn wait_for_pong_timeout(gateway: &Gateway) {
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

/// A client that connects, subscribes, and publishes large payloads to the same channel as fast as it can.
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
            // A reset on close, as after a kill with unread data.
            stream.set_zero_linger().unwrap();
            let url = format!("ws://{address}/connection/websocket");
            let (mut commands, mut incoming) = client_async(url, stream).await.unwrap().0.split();
            let (pings, mut ping_received) = mpsc::unbounded_channel();
            let write = async move {
                let first = json!({"id": 1, "connect": {}});
                let second = json!({"id": 2, "subscribe": {"channel": channel}});
                commands.send(Message::text(format!("{first}\n{second}"))).await.unwrap();
                let data = "x".repeat(PAYLOAD);
                for id in 3..PUBLISHES + 3 {
                    while ping_received.try_recv().is_ok() {
                        commands.send(Message::text("{}")).await.unwrap();
                    }
                    let publish = json!({"id": id, "publish": {"channel": channel, "data": data}});
                    commands.send(Message::text(publish.to_string())).await.unwrap();
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                while ping_received.recv().await.is_some() {
                    commands.send(Message::text("{}")).await.unwrap();
                }
            };
            let progress = async move {
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
            tokio::join!(write, progress).1
        });
        Self { sent, replies }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}
