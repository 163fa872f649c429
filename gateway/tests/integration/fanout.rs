//! Every message reaches exactly the subscribers of its channel, once, in the order of its publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::harness::sse::Next;
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive};

const CLIENTS: usize = 100;
const CHANNELS: usize = 200;
const MESSAGES: usize = 10_000;
const PUBLISHERS: usize = 3;

/// Published to each channel after all publishers are done: a duplicate would arrive before it.
const END: &str = r#""end""#;

/// Payloads that one client received, by channel, in the order of arrival.
type Received = BTreeMap<String, Vec<String>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_reaches_exactly_its_subscribers() {
    let _exclusive = exclusive().await;
    let redis = Arc::new(Redis::start().await);
    let gateways = [Gateway::on(&redis).await, Gateway::on(&redis).await];

    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let gateway = &gateways[client % 2];
        let channels = subscriptions(client);
        if client / 2 % 2 == 0 {
            let mut events = SseClient::open(gateway.address(), &path(&channels)).await;
            clients.spawn(async move { (client, receive_events(&mut events, channels.len()).await) });
        } else {
            let mut socket = WsClient::open(gateway.address(), &channels).await;
            clients.spawn(async move { (client, receive_socket(&mut socket, channels.len()).await) });
        }
    }

    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let redis = Arc::clone(&redis);
        publishers.spawn(async move { redis.publish_all(borrowed(&published(publisher))).await });
    }
    publishers.join_all().await;
    redis
        .publish_all((0..CHANNELS).map(|channel| name(channel).leak() as &str).map(|name| (name, END)))
        .await;

    let received = clients.join_all().await;
    assert_eq!(received.len(), CLIENTS);
    for (client, received) in received {
        assert_complete(client, &received);
    }
}

/// Asserts that the client received exactly what was published to its channels, in the order of each publisher.
fn assert_complete(client: usize, received: &Received) {
    let channels: BTreeSet<String> = received.keys().cloned().collect();
    assert_eq!(channels, subscriptions(client).into_iter().collect(), "client {client}");
    for publisher in 0..PUBLISHERS {
        let sent = published(publisher);
        let prefix = format!(r#"{{"publisher":{publisher},"#);
        for (channel, payloads) in received {
            let actual: Vec<&String> =
                payloads.iter().filter(|payload| payload.starts_with(&prefix)).collect();
            let expected: Vec<&String> =
                sent.iter().filter(|(name, _)| name == channel).map(|(_, payload)| payload).collect();
            assert_eq!(actual, expected, "client {client}, {channel}, publisher {publisher}");
        }
    }
    let total: usize = received.values().map(Vec::len).sum();
    let expected: usize =
        (0..PUBLISHERS).flat_map(published).filter(|(channel, _)| received.contains_key(channel)).count();
    assert_eq!(total, expected, "client {client} received messages that were not published");
}

fn name(channel: usize) -> String {
    format!("room:{channel}")
}

/// The channels of one client, about eight: each channel gets clients of both transports on both gateways.
fn subscriptions(client: usize) -> Vec<String> {
    (0..CHANNELS).filter(|channel| (channel * 31 + client * 17).is_multiple_of(25)).map(name).collect()
}

/// Messages of one publisher in order: channel and payload.
fn published(publisher: usize) -> Vec<(String, String)> {
    (publisher..MESSAGES)
        .step_by(PUBLISHERS)
        .map(|number| {
            let channel = name((number * 13 + publisher * 71) % CHANNELS);
            let payload = format!(r#"{{"publisher":{publisher},"number":{number},"channel":"{channel}"}}"#);
            (channel, payload)
        })
        .collect()
}

fn borrowed(messages: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    messages.iter().map(|(channel, payload)| (channel.as_str(), payload.as_str()))
}

fn path(channels: &[String]) -> String {
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    format!("/sse?{}", query.join("&"))
}

async fn receive_events(events: &mut SseClient, mut open: usize) -> Received {
    let mut received = Received::new();
    while open > 0 {
        match events.next().await {
            Next::Event(event) if event.data == END => open -= 1,
            Next::Event(event) => received.entry(event.name).or_default().push(event.data),
            end => panic!("the stream ended: {end:?}"),
        }
    }
    received
}

async fn receive_socket(socket: &mut WsClient, mut open: usize) -> Received {
    let mut received = Received::new();
    while open > 0 {
        match socket.next().await {
            Incoming::Publication(publication) if publication.data == END => open -= 1,
            Incoming::Publication(publication) => {
                received.entry(publication.channel).or_default().push(publication.data);
            }
            other => panic!("not a publication: {other:?}"),
        }
    }
    received
}
