//! A log outlives gateways: a client that reconnects, to the same gateway or another, continues from its position.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::encoding::Encoding;
use crate::harness::logs::{append, append_numbers, gateway, restart_empty, scripts_run};
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive};

#[tokio::test]
async fn clients_of_a_killed_gateway_recover_there_and_elsewhere() {
    let redis = Redis::start().await;
    let mut killed = gateway(&redis).await;
    let other = gateway(&redis).await;
    append_numbers(&other, NUMBERS, 1..=3).await;
    let mut subscribers = Vec::new();
    for transport in Transport::ALL {
        for _ in 0..2 {
            subscribers.push((
                Subscriber::connect(killed.address(), transport).await,
                Ledger::default(),
                transport,
            ));
        }
    }
    let mut last = 3;
    for round in 0..3 {
        append_numbers(&killed, NUMBERS, last + 1..=last + 5).await;
        for (subscriber, ledger, _) in &mut subscribers {
            ledger.read(subscriber, last + 5).await;
        }
        killed.process.kill();
        // Half of them reconnect to the other gateway, the rest wait for their own.
        for (place, (subscriber, ..)) in subscribers.iter_mut().enumerate() {
            assert!(subscriber.next_or_end().await.is_err());
            if place % 2 == round % 2 {
                assert!(subscriber.reconnect_to(other.address()).await);
            }
        }
        append_numbers(&other, NUMBERS, last + 6..=last + 400).await;
        restart_empty(&mut killed, &redis).await;
        for (place, (subscriber, ledger, transport)) in subscribers.iter_mut().enumerate() {
            if place % 2 == round % 2 {
                ledger.read(subscriber, last + 400).await;
            }
            assert!(subscriber.reconnect_to(killed.address()).await, "{transport:?}");
        }
        append_numbers(&killed, NUMBERS, last + 401..=last + 403).await;
        last += 403;
        for (subscriber, ledger, _) in &mut subscribers {
            ledger.read(subscriber, last).await;
        }
    }
    for (subscriber, ledger, transport) in subscribers {
        assert_eq!((ledger.gaps, ledger.delivered, ledger.last), (0, last - 3, Some(last)), "{transport:?}");
        assert!(
            subscriber.recoveries.iter().all(|recovered| *recovered),
            "{transport:?}: {:?}",
            subscriber.recoveries
        );
    }
}

#[tokio::test]
async fn last_value_outlives_its_gateway() {
    let redis = Redis::start().await;
    let mut first = gateway(&redis).await;
    for state in ["queued", "running", "done"] {
        append(&first, "status:7", json!({"data": state, "tags": {"by": "worker"}})).await;
    }
    restart_empty(&mut first, &redis).await;
    let second = gateway(&redis).await;
    for gateway in [&first, &second] {
        for encoding in Encoding::BOTH {
            let mut client = WsClient::connect(gateway.address(), encoding).await;
            let reply = client.request("subscribe", json!({"channel": "status:7"})).await;
            let last_publication: Vec<_> =
                reply["subscribe"]["publications"].as_array().into_iter().flatten().collect();
            assert_eq!(last_publication.len(), 1, "{reply}");
            let last_publication = Publication::read(String::new(), last_publication[0]);
            assert_eq!((last_publication.offset, last_publication.data.as_str()), (3, "\"done\""), "{reply}");
            assert_eq!(last_publication.tags, json!({"by": "worker"}), "{reply}");
        }
        for (path, name) in
            [("/sse/status:7", "message"), ("/sse?channel=status:8&channel=status:7", "status:7")]
        {
            let mut client = SseClient::open(gateway.address(), path).await;
            assert_eq!(client.data(name).await, "\"done\"");
        }
    }
    let mut client = SseClient::open(second.address(), "/sse/status:7").await;
    append(&first, "status:7", json!({"data": "again"})).await;
    assert_eq!(
        [client.data("message").await, client.data("message").await],
        ["\"done\"", "\"again\""],
        "duplicate or missing"
    );
}

const CLIENTS: usize = 1000;
const CHANNELS: usize = 10;
const BEFORE: u64 = 20;
const MISSED: u64 = 50;

/// The position of a client.
enum LastPosition {
    Socket { epoch: Value, offset: u64 },
    Stream { id: String },
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mass_reconnect_reads_each_log_once() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let mut first = gateway(&redis).await;
    let other = gateway(&redis).await;
    for channel in 0..CHANNELS {
        append_numbers(&other, &name(channel), 1..=BEFORE).await;
    }
    let mut subscribing = JoinSet::new();
    for client in 0..CLIENTS {
        subscribing.spawn(subscribe(first.address(), client));
    }
    let clients = subscribing.join_all().await;
    first.process.kill();
    for channel in 0..CHANNELS {
        append_numbers(&other, &name(channel), BEFORE + 1..=BEFORE + MISSED).await;
    }
    restart_empty(&mut first, &redis).await;

    let mut connection = redis.connection().await;
    let before = scripts_run(&mut connection).await;
    let began = Instant::now();
    let mut returning = JoinSet::new();
    for (client, place) in clients {
        returning.spawn(assert_recovers(first.address(), client, place));
    }
    let mut took = Vec::new();
    while let Some(done) = returning.join_next().await {
        done.unwrap();
        took.push(began.elapsed());
    }
    let reads = scripts_run(&mut connection).await - before;
    eprintln!(
        "{CLIENTS} clients of {CHANNELS} channels reconnected at once and missed {MISSED} each: half recovered within \
         {:?}, the last after {:?}; Redis ran {reads} scripts",
        took[CLIENTS / 2],
        took[CLIENTS - 1]
    );
    // A check and a read per channel, or per shard that asks at the same moment; not per client.
    assert!(reads <= 8 * CHANNELS as u64, "{reads} reads for {CHANNELS} channels");
}

fn name(channel: usize) -> String {
    format!("job:{channel}")
}

async fn subscribe(address: SocketAddr, client: usize) -> (usize, LastPosition) {
    let channel = name(client % CHANNELS);
    let place = if client.is_multiple_of(2) {
        let mut socket = WsClient::connect(address, Encoding::BOTH[client / 2 % 2]).await;
        let reply = socket.request("subscribe", json!({ "channel": channel })).await;
        let (epoch, offset) = (reply["subscribe"]["epoch"].clone(), &reply["subscribe"]["offset"]);
        LastPosition::Socket { epoch, offset: offset.as_u64().unwrap() }
    } else {
        let (_, subscribed) = SseClient::connect(address, &format!("/sse/{channel}")).await;
        LastPosition::Stream { id: subscribed.id }
    };
    (client, place)
}

/// Reconnects and asserts that the client receives exactly what it missed.
async fn assert_recovers(address: SocketAddr, client: usize, place: LastPosition) {
    let channel = name(client % CHANNELS);
    let expected: Vec<String> = (BEFORE + 1..=BEFORE + MISSED).map(|number| number.to_string()).collect();
    let mut received = Vec::new();
    match place {
        LastPosition::Socket { epoch, offset } => {
            let mut socket = WsClient::connect(address, Encoding::BOTH[client / 2 % 2]).await;
            let request = json!({"channel": channel, "recover": true, "epoch": epoch, "offset": offset});
            let reply = socket.request("subscribe", request).await;
            assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
            for publication in reply["subscribe"]["publications"].as_array().into_iter().flatten() {
                received.push(Publication::read(String::new(), publication).data);
            }
            while received.len() < expected.len() {
                received.push(socket.publication().await.data);
            }
        }
        LastPosition::Stream { id } => {
            let (mut stream, subscribed) = SseClient::resume(address, &format!("/sse/{channel}"), &id).await;
            assert!(subscribed.data.contains(r#""recovered":true"#), "{subscribed:?}");
            while received.len() < expected.len() {
                received.push(stream.data("message").await);
            }
        }
    }
    assert_eq!(received, expected, "{channel}");
}

/// Recovers all of a channel on a gateway that has never subscribed to it.
#[tokio::test]
async fn gateway_recovers_a_channel_it_never_subscribed_to() {
    let redis = Redis::start().await;
    let first = gateway(&redis).await;
    // The log exists first: a WebSocket with a position from before it could not recover after a publication.
    append_numbers(&first, NUMBERS, 0..=0).await;
    let mut subscribers = Vec::new();
    for transport in Transport::ALL {
        subscribers.push((
            Subscriber::connect(first.address(), transport).await,
            Ledger::from_start(),
            transport,
        ));
    }
    append_numbers(&first, NUMBERS, 1..=10).await;
    for (subscriber, ledger, _) in &mut subscribers {
        ledger.read(subscriber, 10).await;
    }
    append_numbers(&first, NUMBERS, 11..=20).await;
    let second: Gateway = gateway(&redis).await;
    for (mut subscriber, mut ledger, transport) in subscribers {
        while ledger.last < Some(13) {
            ledger.record(subscriber.next().await);
        }
        assert!(subscriber.reconnect_to(second.address()).await);
        ledger.read(&mut subscriber, 20).await;
        assert_eq!((ledger.gaps, subscriber.recoveries), (0, vec![true]), "{transport:?}");
    }
}
