//! Sharded pub/sub of a Redis Cluster: subscriptions follow their slots.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::cluster_publisher::ClusterPublisher;
use crate::harness::encoding::Encoding;
use crate::harness::subscriber::{Ledger, NUMBERS, Received, Subscriber, Transport};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, SseClient, WsClient, until};

async fn gateway(cluster: &Cluster) -> Gateway {
    let config = format!(
        "[redis.default]\n{}\n\
         [[namespace]]\nname = \"plain\"\nchannels = [\"plain\", \"other\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
         [[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\nsharded_pubsub = true\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\nsharded_pubsub = true\n",
        cluster.settings()
    );
    Gateway::settings().config(&config).start().await
}

/// Publishes with SPUBLISH at the node that owns the slot.
async fn spublish(cluster: &Cluster, channel: &str, payload: &str) -> usize {
    let owner = cluster.owner(channel).await;
    cluster.command(owner, &["SPUBLISH", channel, payload]).await
}

/// Channel names with different slots of this node.
async fn names_at(cluster: &Cluster, node: usize, count: usize) -> Vec<String> {
    let (mut names, mut slots) = (Vec::new(), BTreeSet::new());
    for number in 0.. {
        let name = format!("at{node}:{number}");
        if names.len() == count {
            break;
        }
        if cluster.owner(&name).await == node && slots.insert(cluster.slot(&name).await) {
            names.push(name);
        }
    }
    names
}

fn as_strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn sharded_channels_receive_only_spublish() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let names = ["a", "b", "c", "d", "plain"];
    let mut socket = WsClient::open(gateway.address(), &names).await;
    for name in &names[..4] {
        cluster.run(0, &["PUBLISH", name, "0"]).await;
        assert_eq!(spublish(&cluster, name, "1").await, 1, "{name}");
        assert_eq!(socket.publication().await.data, "1");
        let reply = socket.request("publish", json!({"channel": name, "data": 2})).await;
        assert!(reply["publish"].is_object(), "{reply}");
        assert_eq!(socket.publication().await.data, "2");
    }
    cluster.run(1, &["PUBLISH", "plain", "3"]).await;
    assert_eq!(socket.publication().await.data, "3");
}

#[tokio::test]
async fn each_node_with_subscriptions_has_its_own_probe() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let names = [names_at(&cluster, 0, 1).await, names_at(&cluster, 2, 1).await].concat();
    let _socket = WsClient::open(gateway.address(), &as_strs(&names)).await;
    for node in 0..3 {
        until("probes run on the nodes with channels", async || {
            let channels: Vec<String> = cluster.command(node, &["PUBSUB", "SHARDCHANNELS"]).await;
            let probes = channels.iter().filter(|channel| !names.contains(channel)).count();
            let stats: String = cluster.command(node, &["INFO", "commandstats"]).await;
            let published = stats.contains("cmdstat_spublish:calls=");
            ((probes, published) == if node == 1 { (0, false) } else { (1, true) }).then_some(())
        })
        .await;
    }
    gateway.wait_for_metric("earshot_redis_up", &[r#"link="sharded""#], |links| links >= 1.0).await;
}

#[tokio::test]
async fn reconnect_to_a_node_reports_gaps_only_for_its_channels() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let cut = names_at(&cluster, 1, 5).await;
    let others =
        [names_at(&cluster, 0, 2).await, names_at(&cluster, 2, 2).await, vec!["plain".to_owned()]].concat();
    let mut on_cut = WsClient::open(gateway.address(), &as_strs(&cut)).await;
    let mut elsewhere = WsClient::open(gateway.address(), &as_strs(&others)).await;
    let mut killed = 0;
    for line in cluster.command::<String>(1, &["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines() {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap();
        if field("name=").ends_with(":sharded") {
            let id = field("id=").to_owned();
            cluster.run(1, &["CLIENT", "KILL", "ID", &id]).await;
            killed += 1;
        }
    }
    assert_eq!(killed, 1, "one connection per node");
    on_cut.resubscribe_after_gaps(cut.len()).await;
    for name in cut.iter().chain(&others[..4]) {
        assert_eq!(spublish(&cluster, name, "1").await, 1, "{name}");
    }
    cluster.run(1, &["PUBLISH", "plain", "1"]).await;
    for (socket, names) in [(&mut on_cut, &cut), (&mut elsewhere, &others)] {
        let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            match socket.next().await {
                Incoming::Publication(publication) => assert!(missing.remove(&*publication.channel)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn subscriptions_follow_a_moved_slot() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let home = cluster.owner(NUMBERS).await;
    let neighbours = names_at(&cluster, home, 3).await;
    let mut unaffected = WsClient::open(gateway.address(), &as_strs(&neighbours)).await;
    let mut subscribers = Vec::new();
    for transport in [Transport::Sse, Transport::WebSocket(Encoding::Json)] {
        subscribers.push((Subscriber::connect(gateway.address(), transport).await, Ledger::from_start()));
    }
    let publisher = ClusterPublisher::sharded(&cluster, NUMBERS);
    for step in 1..=6 {
        cluster.resharding().move_slot(NUMBERS, (home + step) % 3).await;
        let sent = publisher.sent();
        for (subscriber, ledger) in &mut subscribers {
            ledger.read(subscriber, sent + 5).await;
        }
    }
    for (_, ledger) in &subscribers {
        assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{ledger:?}");
        assert!((1..=12).contains(&ledger.gaps), "{ledger:?}");
    }
    eprintln!("{:?}", subscribers.iter().map(|(_, ledger)| ledger).collect::<Vec<_>>());
    // Other channels on the same connections are unaffected.
    for name in &neighbours {
        spublish(&cluster, name, "1").await;
        assert_eq!(unaffected.publication().await.channel, *name);
    }
}

#[tokio::test]
async fn all_channels_are_subscribed_after_resharding() {
    const NAMES: usize = 60;
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let names: Vec<String> = (0..NAMES).map(|number| format!("r{number}")).collect();
    let mut socket = WsClient::open(gateway.address(), &as_strs(&names)).await;
    let mut moving = Vec::new();
    for name in names.iter().step_by(2) {
        if cluster.owner(name).await != 0 {
            moving.push(name.as_str());
        }
    }
    cluster.resharding().reshard(&moving, 0).await;
    socket.resubscribe_after_gaps(moving.len()).await;
    until("every subscription is active", async || {
        let confirmed = gateway.metric("earshot_redis_subscriptions", &[r#"state="active""#]).await as usize;
        (confirmed == NAMES).then_some(())
    })
    .await;
    for name in &names {
        assert_eq!(spublish(&cluster, name, "1").await, 1, "{name}");
    }
    let mut missing: BTreeSet<String> = names.into_iter().collect();
    while !missing.is_empty() {
        match socket.next().await {
            Incoming::Publication(publication) => assert!(missing.remove(&publication.channel)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn subscribing_during_slot_moves_succeeds() {
    const MOVING: usize = 60;
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    // Redis unsubscribes these while other subscriptions are pending on the same connections.
    let moving: Vec<String> = (0..MOVING).map(|number| format!("m{number}")).collect();
    let _first = WsClient::open(gateway.address(), &as_strs(&moving)).await;
    let done = AtomicBool::new(false);
    let subscribe = async {
        let (mut sockets, mut names) = (Vec::new(), Vec::new());
        while !done.load(Ordering::Relaxed) {
            let more: Vec<String> = (0..100).map(|number| format!("w{}:{number}", sockets.len())).collect();
            sockets.push(WsClient::open(gateway.address(), &as_strs(&more)).await);
            names.extend(more);
        }
        (sockets, names)
    };
    let reshard = async {
        for to in [0, 1, 2] {
            cluster.resharding().reshard(&as_strs(&moving), to).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let ((_sockets, names), ()) = tokio::join!(subscribe, reshard);
    until("every subscription is active", async || {
        let confirmed = gateway.metric("earshot_redis_subscriptions", &[r#"state="active""#]).await as usize;
        (confirmed == MOVING + names.len()).then_some(())
    })
    .await;
    let names = [moving, names].concat();
    let mut holders = vec![0; names.len()];
    for node in 0..3 {
        let words = [&["PUBSUB", "SHARDNUMSUB"][..], &as_strs(&names)].concat();
        let held: Vec<(String, u64)> = cluster.command(node, &words).await;
        held.iter().zip(&mut holders).for_each(|((_, held), holders)| *holders += held);
    }
    let missing: Vec<_> = names.iter().zip(holders).filter(|(_, holders)| *holders != 1).collect();
    assert!(missing.is_empty(), "of {} active subscriptions: {missing:?}", names.len());
}

#[tokio::test]
async fn replica_takes_over_from_a_crashed_primary() {
    let mut cluster = Cluster::start(3, true).await;
    let gateway = gateway(&cluster).await;
    let home = cluster.owner(NUMBERS).await;
    let others = names_at(&cluster, (home + 1) % 3, 3).await;
    let mut elsewhere = WsClient::open(gateway.address(), &as_strs(&others)).await;
    let mut subscriber = Subscriber::connect(gateway.address(), Transport::Sse).await;
    let publisher = ClusterPublisher::sharded(&cluster, NUMBERS);
    let mut ledger = Ledger::from_start();
    ledger.read(&mut subscriber, 50).await;
    cluster.kill(home);
    assert_eq!(cluster.wait_for_owner_other_than(NUMBERS, home).await, home + 3);
    let sent = publisher.sent();
    ledger.read(&mut subscriber, sent + 100).await;
    assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{ledger:?}");
    assert!(ledger.gaps >= 1, "{ledger:?}");
    gateway.wait_for_ready_status(200).await;
    // The old primary returns as a replica; the gateway must not subscribe there.
    cluster.restart(home).await;
    cluster.wait_until_stable().await;
    let sent = publisher.sent();
    let gaps = ledger.gaps;
    ledger.read(&mut subscriber, sent + 50).await;
    assert_eq!(ledger.gaps, gaps, "{ledger:?}");
    for name in &others {
        spublish(&cluster, name, "1").await;
        assert_eq!(elsewhere.publication().await.channel, *name);
    }
}

#[tokio::test]
async fn channel_of_a_crashed_node_is_delivered_locally() {
    let mut cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let subscribed_node = cluster.node_with_connection("subscriptions").await;
    let command_node = cluster.node_with_connection("commands").await;
    let crashed = (0..3).find(|node| *node != subscribed_node && *node != command_node).unwrap();
    let lost = names_at(&cluster, crashed, 1).await.remove(0);
    let mut socket = WsClient::open(gateway.address(), &[&*lost]).await;
    cluster.kill(crashed);
    let channel = lost.as_str();
    let publish = async |socket: &mut WsClient, channel: &str| {
        socket.request("publish", json!({"channel": channel, "data": 1})).await
    };
    let reply = publish(&mut socket, channel).await;
    assert_eq!(reply["publish"], json!({ "local": true }), "{reply}");
    assert_eq!(socket.publication().await.channel, lost);
    // A new subscriber is accepted and receives local publications.
    let mut newcomer = WsClient::open(gateway.address(), &[channel]).await;
    let reply = publish(&mut newcomer, channel).await;
    assert_eq!(reply["publish"], json!({ "local": true }), "{reply}");
    for client in [&mut newcomer, &mut socket] {
        assert_eq!(client.publication().await.channel, lost);
    }
    // Plain publications are unaffected and use the remaining nodes.
    for _ in 0..20 {
        let many = (0..500).map(|number| json!({"channel": "other", "data": number}));
        for reply in newcomer.requests("publish", many).await {
            assert_eq!(reply["publish"], json!({}), "{reply}");
        }
    }
    cluster.restart(crashed).await;
    socket.resubscribe_after_gaps(1).await;
    newcomer.resubscribe_after_gaps(1).await;
    gateway.wait_for_ready_status(200).await;
    let reply = publish(&mut newcomer, channel).await;
    assert_eq!(reply["publish"], json!({}), "{reply}");
    assert_eq!(socket.publication().await.channel, lost);
}

#[tokio::test]
async fn replica_takes_over_from_a_hanging_primary() {
    let cluster = Cluster::start(3, true).await;
    let gateway = gateway(&cluster).await;
    let home = cluster.owner(NUMBERS).await;
    let mut subscriber = Subscriber::connect(gateway.address(), Transport::Sse).await;
    let publisher = ClusterPublisher::sharded(&cluster, NUMBERS);
    let mut ledger = Ledger::from_start();
    ledger.read(&mut subscriber, 50).await;
    cluster.signal(home, "STOP");
    assert_eq!(cluster.wait_for_owner_seen_by((home + 1) % 3, NUMBERS, home).await, home + 3);
    let sent = publisher.sent();
    ledger.read(&mut subscriber, sent + 50).await;
    cluster.signal(home, "CONT");
    cluster.wait_until_stable().await;
    let (until, mut late) = (publisher.sent() + 50, 0);
    while !ledger.has(until) {
        match subscriber.next().await {
            // Published by the hanging node when it resumes.
            Received::Number(number) if ledger.has(number) => late += 1,
            received => ledger.record(received),
        }
    }
    assert!(late <= 1, "{late} duplicate or out-of-order numbers");
    assert_eq!(ledger.delivered + ledger.missed, ledger.last.unwrap(), "{ledger:?}");
    assert!(ledger.gaps >= 1, "{ledger:?}");
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn log_with_sharded_pubsub_moves_without_a_gap() {
    let cluster = Cluster::start(3, false).await;
    let gateway = gateway(&cluster).await;
    let mut events = SseClient::open(gateway.address(), "/sse/log:a").await;
    let home = cluster.owner("log:a").await;
    for number in 1..=20_u64 {
        if number % 5 == 0 {
            cluster.resharding().move_slot("log:a", (home + usize::try_from(number).unwrap()) % 3).await;
        }
        gateway.publish("log:a", &number.to_string()).await;
    }
    for number in 1..=20 {
        assert_eq!(events.data("message").await, number.to_string());
    }
}
