//! Client-side sharding: each channel is on one of several servers, and an outage of one affects only its own channels.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::logs::{append_numbers, offsets_and_data, read_log};
use crate::harness::publisher::Publisher;
use crate::harness::subscriber::{Ledger, NUMBERS, Subscriber, Transport};
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

const SERVERS: usize = 3;

/// Channels and their servers: the slot (as `CLUSTER KEYSLOT` returns it) modulo three.
const SERVER_OF: [(&str, usize); 6] = [
    ("foo", 12_182 % 3),
    ("bar", 5061 % 3),
    ("x{foo}y", 12_182 % 3),
    ("web-signals", 10_871 % 3),
    ("nest-signals", 4816 % 3),
    ("numbers", 6983 % 3),
];

struct Lab {
    servers: Vec<Redis>,
    gateway: Gateway,
}

impl Lab {
    async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            servers.push(Redis::start().await);
        }
        let urls: Vec<_> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
        let config = format!(
            "[redis.all]\nurls = [{}]\ncommand_timeout = \"2s\"\n\
             [[namespace]]\nname = \"logs\"\nredis = \"all\"\nchannels = [\"log:*\"]\nsubscribe = \"anyone\"\nsource = \"stream\"\n\
             [[namespace]]\nname = \"globs\"\nredis = \"all\"\nchannels = [\"glob:*\"]\nsubscribe = \"anyone\"\nsubscribe_pattern = true\n\
             [[namespace]]\nname = \"all\"\nredis = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
             when_redis_down = \"reject\"\n",
            urls.join(", ")
        );
        Self { servers, gateway: Gateway::settings().config(&config).start().await }
    }

    /// Whether each server has received a command since its start.
    async fn calls(&self, command: &str) -> Vec<bool> {
        let mut calls = Vec::new();
        for server in &self.servers {
            let mut connection = server.connection().await;
            let stats: String =
                redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
            calls.push(stats.contains(&format!("cmdstat_{command}:")));
        }
        calls
    }

    /// The state of each server's subscriptions in `/health`.
    async fn links_up(&self) -> BTreeMap<String, bool> {
        let health = self.gateway.fetch("/health").await.json();
        let links = health["links"].as_array().unwrap().iter();
        let links = links.filter(|link| link["link"] == "subscriptions");
        links.map(|link| (link["redis"].as_str().unwrap().to_owned(), link["up"] == true)).collect()
    }
}

#[tokio::test]
async fn each_channel_is_on_the_server_of_its_slot() {
    let lab = Lab::start().await;
    let names = SERVER_OF.map(|(name, _)| name);
    let mut socket = WsClient::open(lab.gateway.address(), &names).await;
    for (name, server) in &SERVER_OF[..5] {
        for (index, redis) in lab.servers.iter().enumerate() {
            assert_eq!(
                redis.publish(name, b"1").await,
                usize::from(index == *server),
                "{name} on server {index}"
            );
        }
        assert_eq!(socket.publication().await.channel, *name);
        let reply = socket.request("publish", json!({"channel": name, "data": 2})).await;
        assert!(reply["publish"].is_object(), "{reply}");
        assert_eq!(socket.publication().await.data, "2");
    }
}

#[tokio::test]
async fn logs_and_patterns_are_sharded() {
    let lab = Lab::start().await;
    for log in 0..9 {
        let channel = format!("log:{log}");
        append_numbers(&lab.gateway, &channel, 1..=3).await;
        let (_, publications) = read_log(&lab.gateway, &channel).await;
        assert_eq!(offsets_and_data(&publications), [(1, json!(1)), (2, json!(2)), (3, json!(3))]);
    }
    assert_eq!(lab.calls("xadd").await, [true; SERVERS]);
    let names: Vec<String> = (0..9).map(|number| format!("glob:{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut socket = WsClient::open(lab.gateway.address(), &names).await;
    assert_eq!(lab.calls("psubscribe").await, [true; SERVERS]);
    for name in names {
        // Published on the server of its slot; the pattern subscriptions of the others must not deliver it again.
        let reply = lab.gateway.api("publish", &json!({"channel": name, "data": 1}).to_string()).await.json();
        assert!(reply["result"].is_object(), "{reply}");
        assert_eq!(socket.publication().await.channel, name);
    }
}

#[tokio::test]
async fn outage_of_two_servers_affects_only_their_channels() {
    let mut lab = Lab::start().await;
    let mut unaffected = Subscriber::connect(lab.gateway.address(), Transport::Sse).await;
    let mut ledger = Ledger::from_start();
    let numbers_server = SERVER_OF.iter().find(|(name, _)| *name == NUMBERS).unwrap().1;
    let publisher = Publisher::steady(&lab.servers[numbers_server], &[NUMBERS]);
    let down: Vec<usize> = (0..SERVERS).filter(|server| *server != numbers_server).collect();
    let others: Vec<&str> =
        SERVER_OF.iter().filter(|(_, server)| down.contains(server)).map(|(name, _)| *name).collect();
    assert_eq!(others, ["bar", "nest-signals"], "one channel on each of the two servers");
    let mut socket = WsClient::open(lab.gateway.address(), &others).await;
    let mut events = SseClient::open(lab.gateway.address(), &format!("/sse/{}", others[0])).await;
    for server in &down {
        lab.servers[*server].kill();
    }
    until("/health reports both as down", async || {
        let links_up = lab.links_up().await;
        let expected =
            (0..SERVERS).map(|server| (format!("all.{server}"), server == numbers_server)).collect();
        (links_up == expected).then_some(())
    })
    .await;
    lab.gateway.wait_for_ready_status(503).await;
    let reply = socket.request("publish", json!({"channel": others[0], "data": 1})).await;
    assert_eq!(reply["error"]["temporary"], true, "{reply}");
    ledger.read(&mut unaffected, publisher.sent() + 50).await;

    for server in &down {
        lab.servers[*server].restart().await;
    }
    lab.gateway.wait_for_ready_status(200).await;
    socket.resubscribe_after_gaps(others.len()).await;
    assert!(events.data("gap").await.contains("link-down"));
    for name in &others {
        let server = SERVER_OF.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(lab.servers[server].publish(name, b"2").await, 1);
        match socket.next().await {
            Incoming::Publication(publication) => assert_eq!(publication.channel, *name),
            other => panic!("{other:?}"),
        }
    }
    ledger.read(&mut unaffected, publisher.sent() + 50).await;
    assert_eq!((ledger.gaps, ledger.missed), (0, 0), "the third server is unaffected: {ledger:?}");
}
