//! Who comes back to many channels at once, while a publisher runs flat out on all of them, gets each of them whole:
//! also what comes for one while the others are still being looked up.

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
const TIMES: usize = 25;

/// Numbers that each channel hears before its client leaves again.
const STAY: u64 = 4;

/// Few requests at a time: looking up all channels of a client takes a while, in which more is published.
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
history = { size = 10000, bytes = "64MiB", ttl = "10m" }
"#;

/// What a client was given of each channel.
type Ledgers = BTreeMap<String, Ledger>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_to_many_channels_gets_each_of_them_whole() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let channels: &'static [&'static str] =
        (0..CHANNELS).map(|n| &*format!("room-{n}").leak()).collect::<Vec<_>>().leak();
    // They never read: all they are for is that every channel is heard all the time.
    let mut _listeners = Vec::new();
    for channels in channels.chunks(8) {
        _listeners.push(WsClient::open(gateway.address(), channels).await);
    }
    let marks: Arc<[AtomicU64]> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, marks) = (gateway.address(), Arc::clone(&marks));
        if client % 2 == 0 {
            let path = format!("/sse?channel={}", channels.join("&channel="));
            let first = SseClient::connect(address, &path).await;
            clients.spawn(async move { streams(address, &path, first, channels, &marks[client]).await });
        } else {
            let encoding = Encoding::BOTH[client / 2 % 2];
            let mut socket = Socket { address, encoding, positions: positions(channels) };
            let first = socket.connect(false, &mut ledgers(channels)).await;
            clients.spawn(async move { sockets(socket, first, channels, &marks[client]).await });
        }
    }
    let pace = Load { channels, batch: 1, padding: 0, max_lead: 200 };
    let publisher = Publisher::start(&redis, pace, marks);
    clients.join_all().await;
    drop(publisher);
}

fn ledgers(channels: &[&str]) -> Ledgers {
    channels.iter().map(|channel| ((*channel).to_owned(), Ledger::from_start())).collect()
}

/// The number that every channel has reached.
fn reached(ledgers: &Ledgers) -> u64 {
    ledgers.values().map(|ledger| ledger.last.unwrap_or_default()).min().unwrap_or_default()
}

fn record(ledgers: &mut Ledgers, channel: &str, data: &str) {
    let ledger = ledgers.get_mut(channel).unwrap_or_else(|| panic!("{channel}: {data}"));
    ledger.record(Received::Number(number(data)));
}

/// An event stream that is cut and resumed, again and again.
async fn streams(
    address: SocketAddr,
    path: &str,
    (mut stream, subscribed): (SseClient, crate::harness::sse::Event),
    channels: &[&str],
    mark: &AtomicU64,
) {
    let (mut ledgers, mut id) = (ledgers(channels), subscribed.id);
    for time in 0..=TIMES {
        let enough = reached(&ledgers) + STAY;
        while reached(&ledgers) < enough {
            let event = stream.event().await;
            record(&mut ledgers, &event.name, &event.data);
            id = event.id;
            mark.store(reached(&ledgers), Ordering::Relaxed);
        }
        if time < TIMES {
            let subscribed;
            (stream, subscribed) = SseClient::resume(address, path, &id).await;
            assert!(!subscribed.data.contains("false"), "the rings suffice: {subscribed:?}");
        }
    }
    mark.store(u64::MAX, Ordering::Relaxed);
}

/// The connect command of a socket that subscribes to everything in it.
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
        assert!(client.pending_pushes().is_empty(), "before the reply: {:?}", client.pending_pushes());
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

async fn sockets(mut socket: Socket, mut client: WsClient, channels: &[&str], mark: &AtomicU64) {
    let mut ledgers = ledgers(channels);
    for time in 0..=TIMES {
        let enough = reached(&ledgers) + STAY;
        while reached(&ledgers) < enough {
            match client.next().await {
                Incoming::Publication(Publication { channel, data, offset, .. }) => {
                    record(&mut ledgers, &channel, &data);
                    socket.positions.get_mut(&channel).unwrap().1 = offset;
                }
                other => panic!("{:?}: {other:?}", socket.encoding),
            }
            mark.store(reached(&ledgers), Ordering::Relaxed);
        }
        if time < TIMES {
            drop(client);
            client = socket.connect(true, &mut ledgers).await;
            mark.store(reached(&ledgers), Ordering::Relaxed);
        }
    }
    mark.store(u64::MAX, Ordering::Relaxed);
}
