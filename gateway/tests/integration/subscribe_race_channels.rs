//! A client that resubscribes to many channels at once under load recovers each of them completely, including what
//! arrives for one channel while the others are still being recovered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::harness::encoding::Encoding;
use crate::harness::publisher::{Load, Publisher};
use crate::harness::subscriber::{Ledger, Received, number};
use crate::harness::ws::{Incoming, Publication};
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive};

const CHANNELS: usize = 60;
const CLIENTS: usize = 6;
const RECONNECTS: usize = 25;

/// Numbers that each channel receives before its client disconnects again.
const NUMBERS_PER_ROUND: u64 = 4;

/// Few concurrent requests: recovering all channels of a client takes a while, during which more is published.
const CONFIG: &str = r#"
[gateway]
shards = 1

[websocket]
ping_interval = "1h"

[limits]
recovery_publications = 10000
client_queue_bytes = "64MiB"
shard_queue_items = 1000000
inflight_requests = 16

[[namespace]]
name = "all"
channels = ["*"]
subscribe = "anyone"
history = { size = 10000, bytes = "64MiB", ttl = "10m" }
"#;

/// What a client received, by channel.
type Ledgers = BTreeMap<String, Ledger>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_to_many_channels_recovers_each_completely() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let channels: &'static [&'static str] =
        (0..CHANNELS).map(|n| &*format!("room-{n}").leak()).collect::<Vec<_>>().leak();
    // These clients never read: they keep every channel subscribed.
    let mut _subscribers = Vec::new();
    for channels in channels.chunks(8) {
        _subscribers.push(WsClient::open(gateway.address(), channels).await);
    }
    let progress: Arc<[AtomicU64]> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, progress) = (gateway.address(), Arc::clone(&progress));
        if client % 2 == 0 {
            let path = format!("/sse?channel={}", channels.join("&channel="));
            let first = SseClient::connect(address, &path).await;
            clients.spawn(async move { streams(address, &path, first, channels, &progress[client]).await });
        } else {
            let encoding = Encoding::BOTH[client / 2 % 2];
            let mut socket = Socket { address, encoding, positions: positions(channels) };
            let first = socket.connect(false, &mut ledgers(channels)).await;
            clients.spawn(async move { sockets(socket, first, channels, &progress[client]).await });
        }
    }
    let load = Load { channels, batch: 1, padding: 0, max_lead: 200 };
    let publisher = Publisher::start(&redis, load, progress);
    clients.join_all().await;
    drop(publisher);
}

fn ledgers(channels: &[&str]) -> Ledgers {
    channels.iter().map(|channel| ((*channel).to_owned(), Ledger::from_start())).collect()
}

/// The last number that every channel has reached.
fn reached(ledgers: &Ledgers) -> u64 {
    ledgers.values().map(|ledger| ledger.last.unwrap_or_default()).min().unwrap_or_default()
}

fn record(ledgers: &mut Ledgers, channel: &str, data: &str) {
    let ledger = ledgers.get_mut(channel).unwrap_or_else(|| panic!("{channel}: {data}"));
    ledger.record(Received::Number(number(data)));
}

/// An event stream that disconnects and resumes repeatedly.
async fn streams(
    address: SocketAddr,
    path: &str,
    (mut stream, subscribed): (SseClient, crate::harness::sse::Event),
    channels: &[&str],
    progress: &AtomicU64,
) {
    let (mut ledgers, mut id) = (ledgers(channels), subscribed.id);
    for round in 0..=RECONNECTS {
        let target = reached(&ledgers) + NUMBERS_PER_ROUND;
        while reached(&ledgers) < target {
            let event = stream.event().await;
            record(&mut ledgers, &event.name, &event.data);
            id = event.id;
            progress.store(reached(&ledgers), Ordering::Relaxed);
        }
        if round < RECONNECTS {
            let subscribed;
            (stream, subscribed) = SseClient::resume(address, path, &id).await;
            assert!(!subscribed.data.contains("false"), "the history is too short: {subscribed:?}");
        }
    }
    progress.store(u64::MAX, Ordering::Relaxed);
}

/// A WebSocket client that subscribes to all channels in its connect command.
struct Socket {
    address: SocketAddr,
    encoding: Encoding,
    /// Epoch and offset of each channel.
    positions: BTreeMap<String, (String, u64)>,
}

fn positions(channels: &[&str]) -> BTreeMap<String, (String, u64)> {
    channels.iter().map(|channel| ((*channel).to_owned(), Default::default())).collect()
}

impl Socket {
    async fn connect(&mut self, recover: bool, ledgers: &mut Ledgers) -> WsClient {
        let subs: Map<String, Value> = self
            .positions
            .iter()
            .map(|(channel, (epoch, offset))| {
                let from = json!({"recover": recover, "epoch": epoch, "offset": offset});
                (channel.clone(), from)
            })
            .collect();
        let mut client = WsClient::handshake_only(self.address, self.encoding).await;
        let reply = client.request("connect", json!({ "subs": subs })).await;
        assert!(
            client.pending_pushes().is_empty(),
            "received before the reply: {:?}",
            client.pending_pushes()
        );
        for (channel, (epoch, last)) in &mut self.positions {
            let result = &reply["connect"]["subs"][channel];
            assert_eq!(result["recovered"] == true, recover, "{channel}: {result}");
            *epoch = result["epoch"].as_str().unwrap().to_owned();
            for publication in result["publications"].as_array().into_iter().flatten() {
                let publication = Publication::read(channel.clone(), publication);
                *last = publication.offset;
                record(ledgers, channel, &publication.data);
            }
        }
        client
    }
}

async fn sockets(mut socket: Socket, mut client: WsClient, channels: &[&str], progress: &AtomicU64) {
    let mut ledgers = ledgers(channels);
    for round in 0..=RECONNECTS {
        let target = reached(&ledgers) + NUMBERS_PER_ROUND;
        while reached(&ledgers) < target {
            match client.next().await {
                Incoming::Publication(Publication { channel, data, offset, .. }) => {
                    record(&mut ledgers, &channel, &data);
                    socket.positions.get_mut(&channel).unwrap().1 = offset;
                }
                other => panic!("{:?}: {other:?}", socket.encoding),
            }
            progress.store(reached(&ledgers), Ordering::Relaxed);
        }
        if round < RECONNECTS {
            drop(client);
            client = socket.connect(true, &mut ledgers).await;
            progress.store(reached(&ledgers), Ordering::Relaxed);
        }
    }
    progress.store(u64::MAX, Ordering::Relaxed);
}
