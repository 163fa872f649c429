//! A Redis Cluster: plain publications reach every node, logs are where their slots are, and nodes come and go.

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
         [[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsource = \"stream\"\npublish = \"anyone\"\n\
         history = {{ size = 10000 }}\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\npublish = \"anyone\"\n",
        cluster.settings()
    );
    Gateway::settings().config(&config).start().await
}

/// The same, but the followers' channel is a log.
async fn gateway_of_logs(cluster: &Cluster) -> Gateway {
    let config = format!(
        "[redis.default]\n{}\n[[namespace]]\nname = \"logs\"\nchannels = [\"*\"]\nsource = \"stream\"\n\
         history = {{ size = 10000 }}\n",
        cluster.settings()
    );
    Gateway::settings().config(&config).start().await
}

#[tokio::test]
async fn a_plain_publish_at_any_node_is_heard() {
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
async fn logs_are_kept_where_their_slots_are() {
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
    for odd in ["log:}x", "log:a}b{", "log:{}", "log:{a", "log:{tag}:x"] {
        append_numbers(&gateway, odd, 1..=2).await;
        assert_eq!(
            offsets_and_data(&read_log(&gateway, odd).await.1),
            [(1, json!(1)), (2, json!(2))],
            "{odd}"
        );
    }
}

#[tokio::test]
async fn another_node_takes_over_when_the_one_that_we_listen_to_dies() {
    let mut cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut subscribers = Vec::new();
    for transport in [Transport::Sse, Transport::WebSocket(Encoding::Json)] {
        subscribers.push((Subscriber::connect(gateway.address(), transport).await, Ledger::from_start()));
    }
    let carrier = cluster.node_with_connection("subscriptions").await;
    let publisher = ClusterPublisher::plain(&cluster, &[(carrier + 1) % 3], NUMBERS);
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, 50).await;
    }
    cluster.kill(carrier);
    let sent = publisher.sent();
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, sent + 100).await;
        assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{ledger:?}");
        // The node that took over may itself lose its connection to the dead one a moment later, and says so.
        assert!((1..=2).contains(&ledger.gaps), "{ledger:?}");
    }
}

#[tokio::test]
async fn what_another_node_may_have_taken_with_it_is_announced() {
    let mut cluster = Cluster::start(3, true).await;
    let gateway = gateway(&cluster).await;
    let mut subscriber = Subscriber::connect(gateway.address(), Transport::Sse).await;
    let carrier = cluster.node_with_connection("subscriptions").await;
    let victim = (0..3).find(|node| *node != carrier).unwrap();
    let publisher = ClusterPublisher::plain(&cluster, &[victim, carrier], NUMBERS);
    while subscriber.next().await != Received::Number(50) {}
    cluster.kill(victim);
    // Nobody can say what was on its way: it is told although nothing may be missing.
    let until = publisher.sent() + 20;
    let (mut gaps, mut last) = (0, 0);
    while gaps == 0 || last < until {
        match subscriber.next().await {
            Received::Gap => gaps += 1,
            Received::Number(number) => last = number,
        }
        assert!(last < until + 5000, "no word of it");
    }
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn tls_and_sign_in_hold_for_every_node() {
    let authority = Authority::new();
    let cluster = Cluster::start_secured(&authority).await;
    let config = format!(
        "[redis.default]\n{}\n[[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsource = \"stream\"\n\
         [[namespace]]\nname = \"sharded\"\nchannels = [\"s:*\"]\nsharded_pubsub = true\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\n",
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
    assert_eq!(owners.len(), 3, "every node was asked");
    let plain = cluster.clients(0).await;
    assert!(!plain.contains("name=earshot"), "only over TLS: {plain}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_left() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut events = SseClient::open(gateway.address(), "/sse/web-signals").await;
    let left = cluster.node_with_connection("subscriptions").await;
    // It answers, it takes subscriptions, and it hears nobody any more.
    cluster.run(left, &["CLUSTER", "RESET", "SOFT"]).await;
    assert!(events.data("gap").await.contains("link-down"));
    until("another node is listened to", async || {
        (cluster.node_with_connection("subscriptions").await != left).then_some(())
    })
    .await;
    cluster.run((left + 1) % 3, &["PUBLISH", "web-signals", "1"]).await;
    assert_eq!(events.data("message").await, "1");
}

#[tokio::test]
async fn a_node_without_a_majority_is_not_taken_for_hearing() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let alone = cluster.node_with_connection("subscriptions").await;
    let others: Vec<usize> = (0..3).filter(|node| *node != alone).collect();
    others.iter().for_each(|node| cluster.signal(*node, "STOP"));
    gateway.wait_for_ready_status(503).await;
    until("/health tells why", async || {
        gateway.fetch("/health").await.text().contains("cut off from its cluster").then_some(())
    })
    .await;
    others.iter().for_each(|node| cluster.signal(*node, "CONT"));
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn a_node_that_hangs_holds_up_nothing_but_its_own_slots() {
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
    // Nobody waited for the one that hangs, which takes the whole time of a command.
    assert!(others < std::time::Duration::from_secs(4), "{others:?}");
    until("plain publications go by another node", async || {
        let answer = gateway.api("publish", r#"{"channel":"x","data":1}"#).await.text();
        answer.contains("result").then_some(())
    })
    .await;
    cluster.signal(hung, "CONT");
    gateway.wait_for_ready_status(200).await;
    append(&gateway, &on(hung), json!({ "data": 3 })).await;
}

#[tokio::test]
async fn what_one_client_publishes_stays_in_order_while_its_slot_moves() {
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
            cluster.wait_for_one_epoch().await;
            cluster.begin_slot_move("log:order", from, to).await;
            tokio::task::yield_now().await;
            cluster.finish_slot_move("log:order", from, to).await;
        }
    };
    tokio::join!(publish, moves);
    let (_, publications) = read_log(&gateway, "log:order").await;
    let expected: Vec<_> = (1..=NUMBERS_ALL).map(|number| (number, json!(number))).collect();
    assert!(offsets_and_data(&publications) == expected, "not each once, in order: {publications:?}");
}

#[tokio::test]
async fn a_log_that_moves_is_whole_for_every_client() {
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
        until("the load flows", async || (publisher.confirmed() >= 80 * step).then_some(())).await;
        cluster.move_slot(NUMBERS, (home + usize::try_from(step).unwrap()) % 3).await;
    }
    let receipts = publisher.finish().await;
    for (place, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt.offset, place as u64 + 1, "each number once");
        assert_eq!(receipt.epoch, receipts[0].epoch, "one epoch");
    }
    for (subscriber, ledger) in &mut subscribers {
        ledger.read(subscriber, 400).await;
        assert_eq!((ledger.delivered, ledger.gaps), (400, 0), "{ledger:?}");
    }
}

#[tokio::test]
async fn a_log_whose_primary_dies_goes_on_at_the_replica() {
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
    // What the replica had not yet may be gone; then the log has begun anew, and that is told.
    ledger.read(&mut subscriber, 300).await;
    assert_eq!(ledger.delivered + ledger.missed, 300, "{ledger:?}");
    gateway.wait_for_ready_status(200).await;
}

/// For longer than a gateway waits before it goes on alone.
const LONG: std::time::Duration = std::time::Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_keeps_nothing_here_that_another_takes() {
    let mut cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    // Each node is needed by now, so that it is missed.
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
    let hears = cluster.node_with_connection("subscriptions").await;
    cluster.kill((0..3).find(|node| ![publishes, hears].contains(node)).unwrap());
    gateway.wait_for_cause("refused").await;
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < LONG {
        let bodies = (0..300).map(|_| json!({"channel": "room", "data": 1}));
        for reply in socket.requests("publish", bodies).await {
            sent += 1;
            assert_eq!(reply["publish"], json!({}), "publication {sent}");
        }
    }
}
