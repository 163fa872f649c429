//! Redis Cluster: plain publications reach every node, logs follow their slots, and nodes fail and return.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::api_publisher::ApiPublisher;
use crate::harness::certificates::Authority;
use crate::harness::cluster::Cluster;
use crate::harness::cluster_publisher::ClusterPublisher;
use crate::harness::encoding::Encoding;
use crate::harness::logs::{append, append_numbers, offsets_and_data, read_log};
use crate::harness::subscriber::{Ledger, NUMBERS, Received, Subscriber, Transport};
use crate::harness::{Gateway, SseClient, WAIT_TIMEOUT, WsClient, until};

async fn gateway(cluster: &Cluster) -> Gateway {
    let config = format!(
        "[redis.default]\n{}ping_interval = \"200ms\"\n\
         [[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\npublish = \"anyone\"\n\
         history = {{ size = 10000 }}\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n",
        cluster.settings()
    );
    Gateway::settings().config(&config).start().await
}

/// A gateway on which every channel is a log.
async fn gateway_of_logs(cluster: &Cluster) -> Gateway {
    let config = format!(
        "[redis.default]\n{}\n[[namespace]]\nname = \"logs\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\n\
         history = {{ size = 10000 }}\n",
        cluster.settings()
    );
    Gateway::settings().config(&config).start().await
}

#[tokio::test]
async fn plain_publish_at_any_node_is_received() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut events = SseClient::open(gateway.address(), "/sse/web-signals").await;
    for node in 0..3 {
        cluster.run(node, &["PUBLISH", "web-signals", &node.to_string()]).await;
        assert_eq!(events.data("message").await, node.to_string());
    }
    let mut socket = WsClient::open(gateway.address(), &["web-signals"]).await;
    let reply = socket.request("publish", json!({"channel": "web-signals", "data": 7})).await;
    assert!(reply["publish"].is_object(), "{reply}");
    assert_eq!(socket.publication().await.data, "7");
}

#[tokio::test]
async fn logs_are_stored_on_the_node_of_their_slot() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut owners = BTreeSet::new();
    for log in 0..12 {
        let channel = format!("log:{log}");
        owners.insert(cluster.owner(&channel).await);
        append_numbers(&gateway, &channel, 1..=5).await;
        let request = json!({"data": 6, "idempotency_key": "six", "tags": {"a": "b"}});
        let position = append(&gateway, &channel, request.clone()).await;
        assert_eq!(append(&gateway, &channel, request).await, position);
        let (_, publications) = read_log(&gateway, &channel).await;
        let expected: Vec<_> = (1..=6).map(|number| (number, json!(number))).collect();
        assert_eq!(offsets_and_data(&publications), expected);
    }
    assert_eq!(owners.len(), 3, "logs on every node");
    for unusual in ["log:}x", "log:a}b{", "log:{}", "log:{a", "log:{tag}:x"] {
        append_numbers(&gateway, unusual, 1..=2).await;
        assert_eq!(
            offsets_and_data(&read_log(&gateway, unusual).await.1),
            [(1, json!(1)), (2, json!(2))],
            "{unusual}"
        );
    }
}

#[tokio::test]
async fn subscriptions_move_to_another_node_after_a_crash() {
    let mut cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut subscribers = Vec::new();
    for transport in [Transport::Sse, Transport::WebSocket(Encoding::Json)] {
        subscribers.push((Subscriber::connect(gateway.address(), transport).await, Ledger::from_start()));
    }
    let subscribed_node = cluster.node_with_connection("subscriptions").await;
    let publisher = ClusterPublisher::plain(&cluster, &[(subscribed_node + 1) % 3], NUMBERS);
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, 50).await;
    }
    cluster.kill(subscribed_node);
    let sent = publisher.sent();
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, sent + 100).await;
        assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{ledger:?}");
        // The new node may lose its own connection to the crashed one a moment later, which is reported too.
        assert!((1..=2).contains(&ledger.gaps), "{ledger:?}");
    }
}

#[tokio::test]
async fn crash_of_a_publishing_node_is_reported_as_a_gap() {
    let mut cluster = Cluster::start(3, true).await;
    let gateway = gateway(&cluster).await;
    let mut subscriber = Subscriber::connect(gateway.address(), Transport::Sse).await;
    let subscribed_node = cluster.node_with_connection("subscriptions").await;
    let victim = (0..3).find(|node| *node != subscribed_node).unwrap();
    let publisher = ClusterPublisher::plain(&cluster, &[victim, subscribed_node], NUMBERS);
    while subscriber.next().await != Received::Number(50) {}
    cluster.kill(victim);
    // Messages in flight are unknown, so a gap is reported even if none is lost.
    let until = publisher.sent() + 20;
    let (mut gaps, mut last) = (0, 0);
    while gaps == 0 || last < until {
        match subscriber.next().await {
            Received::Gap => gaps += 1,
            Received::Number(number) => last = number,
        }
        assert!(last < until + 5000, "no gap notice");
    }
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn tls_and_password_apply_to_every_node() {
    let authority = Authority::new();
    let cluster = Cluster::start_secured(&authority).await;
    let config = format!(
        "[redis.default]\n{}\n[[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\n\
         [[namespace]]\nname = \"sharded\"\nchannels = [\"s:*\"]\nsubscribe = \"anyone\"\nsharded_pubsub = true\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\n",
        cluster.settings()
    );
    let gateway = Gateway::settings().config(&config).start().await;
    let names = ["s:1", "s:2", "s:3", "s:4", "s:5", "s:6", "plain"];
    let mut socket = WsClient::open(gateway.address(), &names).await;
    let mut owners = BTreeSet::new();
    for name in names {
        owners.insert(cluster.owner(name).await);
        gateway.publish(name, "1").await;
        assert_eq!(socket.publication().await.channel, name);
    }
    for log in 0..6 {
        append_numbers(&gateway, &format!("log:{log}"), 1..=2).await;
    }
    assert_eq!(owners.len(), 3, "every node owns a channel");
    let plain = cluster.clients(0).await;
    assert!(!plain.contains("name=earshot"), "only over TLS: {plain}");
}

#[tokio::test]
async fn subscriptions_leave_a_node_without_a_cluster() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut events = SseClient::open(gateway.address(), "/sse/web-signals").await;
    let left = cluster.node_with_connection("subscriptions").await;
    // The node still responds and accepts subscriptions, but receives no messages from other nodes.
    cluster.run(left, &["CLUSTER", "RESET", "SOFT"]).await;
    assert!(events.data("gap").await.contains("link-down"));
    until("subscriptions are on another node", async || {
        (cluster.node_with_connection("subscriptions").await != left).then_some(())
    })
    .await;
    cluster.run((left + 1) % 3, &["PUBLISH", "web-signals", "1"]).await;
    assert_eq!(events.data("message").await, "1");
}

#[tokio::test]
async fn node_without_a_majority_makes_the_gateway_unready() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let isolated = cluster.node_with_connection("subscriptions").await;
    let others: Vec<usize> = (0..3).filter(|node| *node != isolated).collect();
    others.iter().for_each(|node| cluster.signal(*node, "STOP"));
    gateway.wait_for_ready_status(503).await;
    until("/health reports the cause", async || {
        gateway.fetch("/health").await.text().contains("cut off from its cluster").then_some(())
    })
    .await;
    others.iter().for_each(|node| cluster.signal(*node, "CONT"));
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn hanging_node_delays_only_its_own_slots() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut logs: Vec<(usize, String)> = Vec::new();
    for number in 0.. {
        let name = format!("log:{number}");
        let owner = cluster.owner(&name).await;
        if logs.iter().all(|(known, _)| *known != owner) {
            append_numbers(&gateway, &name, 1..=1).await;
            logs.push((owner, name));
        }
        if logs.len() == 3 {
            break;
        }
    }
    let hung = cluster.node_with_connection("commands").await;
    cluster.signal(hung, "STOP");
    let on = |node: usize| logs.iter().find(|(owner, _)| *owner == node).unwrap().1.clone();
    let body = json!({"channel": on(hung), "data": 2}).to_string();
    let stuck = gateway.api("publish", &body);
    let others = async {
        let begun = Instant::now();
        for number in 2..=50 {
            for node in (0..3).filter(|node| *node != hung) {
                append(&gateway, &on(node), json!({ "data": number })).await;
            }
        }
        Instant::now() - begun
    };
    let (stuck, others) = tokio::join!(stuck, others);
    assert!(stuck.text().contains("error"), "{stuck:?}");
    // No request waited for the hanging node, which takes the whole command timeout.
    assert!(others < std::time::Duration::from_secs(4), "{others:?}");
    until("plain publications use another node", async || {
        let answer = gateway.api("publish", r#"{"channel":"x","data":1}"#).await.text();
        answer.contains("result").then_some(())
    })
    .await;
    cluster.signal(hung, "CONT");
    gateway.wait_for_ready_status(200).await;
    append(&gateway, &on(hung), json!({ "data": 3 })).await;
}

#[tokio::test]
async fn publications_of_a_client_stay_in_order_during_a_slot_move() {
    const NUMBERS_ALL: u64 = 300;
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut socket = WsClient::open::<&str>(gateway.address(), &[]).await;
    let home = cluster.owner("log:order").await;
    let publish = async {
        for batch in 0..NUMBERS_ALL / 20 {
            let numbers = batch * 20 + 1..=batch * 20 + 20;
            let requests = numbers.map(|number| json!({"channel": "log:order", "data": number}));
            for reply in socket.requests("publish", requests).await {
                assert!(reply["publish"].is_object(), "{reply}");
            }
        }
    };
    let moves = async {
        for step in 1..=6 {
            let (from, to) = ((home + step - 1) % 3, (home + step) % 3);
            cluster.resharding().wait_for_one_epoch().await;
            cluster.resharding().begin_slot_move("log:order", from, to).await;
            tokio::task::yield_now().await;
            cluster.resharding().finish_slot_move("log:order", from, to).await;
        }
    };
    tokio::join!(publish, moves);
    let (_, publications) = read_log(&gateway, "log:order").await;
    let expected: Vec<_> = (1..=NUMBERS_ALL).map(|number| (number, json!(number))).collect();
    assert!(
        offsets_and_data(&publications) == expected,
        "duplicate, missing or out of order: {publications:?}"
    );
}

#[tokio::test]
async fn log_is_complete_after_slot_moves() {
    let cluster = Cluster::start(3, false).await;
    let gateways = [gateway_of_logs(&cluster).await, gateway_of_logs(&cluster).await];
    let addresses = [gateways[0].address(), gateways[1].address()];
    let mut subscribers = Vec::new();
    for (address, transport) in
        addresses.into_iter().zip([Transport::Sse, Transport::WebSocket(Encoding::Json)])
    {
        subscribers.push((Subscriber::connect(address, transport).await, Ledger::from_start()));
    }
    let publisher = ApiPublisher::start(addresses.to_vec(), NUMBERS, 0);
    publisher.allow(400);
    let home = cluster.owner(NUMBERS).await;
    for step in 1..=4 {
        until("messages are flowing", async || (publisher.confirmed() >= 80 * step).then_some(())).await;
        cluster.resharding().move_slot(NUMBERS, (home + usize::try_from(step).unwrap()) % 3).await;
    }
    let receipts = publisher.finish().await;
    for (index, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt.offset, index as u64 + 1, "duplicate or missing offset");
        assert_eq!(receipt.epoch, receipts[0].epoch, "more than one epoch");
    }
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, 400).await;
        assert_eq!((ledger.delivered, ledger.gaps), (400, 0), "{ledger:?}");
    }
}

#[tokio::test]
async fn log_continues_at_the_replica_after_a_crash() {
    let mut cluster = Cluster::start(3, true).await;
    let gateway = gateway_of_logs(&cluster).await;
    let mut subscriber = Subscriber::connect(gateway.address(), Transport::Sse).await;
    let mut ledger = Ledger::from_start();
    let publisher = ApiPublisher::start(vec![gateway.address()], NUMBERS, 0);
    publisher.allow(300);
    ledger.read(&mut subscriber, 100).await;
    let home = cluster.owner(NUMBERS).await;
    cluster.kill(home);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let receipts = publisher.finish().await;
    assert!(Instant::now() < deadline);
    assert_eq!(receipts.len(), 300);
    // Entries that were not replicated may be lost; then a new log begins, which is reported as a gap.
    ledger.read(&mut subscriber, 300).await;
    assert_eq!(ledger.delivered + ledger.missed, 300, "{ledger:?}");
    gateway.wait_for_ready_status(200).await;
}

/// Longer than a gateway waits before it switches to local delivery.
const OBSERVATION_TIME: std::time::Duration = std::time::Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_use_another_node_when_one_is_down() {
    let mut cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    // The gateway needs every node by now, so it detects that one is down.
    for log in 0..12 {
        append_numbers(&gateway, &format!("log:{log}"), 1..=1).await;
    }
    let mut socket = WsClient::connect(gateway.address(), Encoding::Json).await;
    socket.requests("publish", (0..50).map(|number| json!({"channel": "room", "data": number}))).await;
    let mut published = Vec::new();
    for node in 0..3 {
        let stats: String = cluster.command(node, &["INFO", "commandstats"]).await;
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
        let calls = calls.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap());
        published.push((calls, node));
    }
    let (_, publishes): (u64, usize) = *published.iter().max().unwrap();
    let subscribed = cluster.node_with_connection("subscriptions").await;
    cluster.kill((0..3).find(|node| ![publishes, subscribed].contains(node)).unwrap());
    gateway.wait_for_cause("refused").await;
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < OBSERVATION_TIME {
        let bodies = (0..300).map(|_| json!({"channel": "room", "data": 1}));
        for reply in socket.requests("publish", bodies).await {
            sent += 1;
            assert_eq!(reply["publish"], json!({}), "publication {sent}");
        }
    }
}
