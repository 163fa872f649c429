//! A WebSocket client that was away gets exactly what it missed, or is told that it cannot.

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

/// Rings of several sizes, by the channel's name.
const CONFIG: &str = r#"
[limits]
recovery_publications = 8

[[namespace]]
name = "small"
channels = ["small-*"]
history = { size = 3 }

[[namespace]]
name = "none"
channels = ["none-*"]
history = { size = 0 }

[[namespace]]
name = "brief"
channels = ["brief-*"]
history = { size = 10, ttl = "1s" }

[[namespace]]
name = "rest"
channels = ["*"]
"#;

/// A client of one encoding on a gateway with rings, and a channel on which so many numbers were published.
struct Scene {
    gateway: Gateway,
    redis: Redis,
    encoding: Encoding,
    channel: String,
    epoch: String,
}

impl Scene {
    async fn new(encoding: Encoding, channel: &str) -> Self {
        let redis = Redis::start().await;
        let gateway = Gateway::settings().config(CONFIG).redis(&redis).start().await;
        let mut scene = Self { gateway, redis, encoding, channel: channel.to_owned(), epoch: String::new() };
        let (_, reply) = scene.subscribe(json!({})).await;
        scene.epoch = reply["subscribe"]["epoch"].as_str().unwrap_or_default().to_owned();
        scene
    }

    /// Publishes numbers, and waits until the gateway has heard them.
    async fn publish(&self, numbers: std::ops::RangeInclusive<u64>) {
        let mut witness = SseClient::open(self.gateway.address(), &format!("/sse/{}", self.channel)).await;
        for number in numbers {
            self.redis.publish(&self.channel, number.to_string().as_bytes()).await;
            assert_eq!(witness.data("message").await, number.to_string());
        }
    }

    /// A new connection, and what its subscribe is answered.
    async fn subscribe(&self, mut request: Value) -> (WsClient, Value) {
        let mut client = WsClient::connect(self.gateway.address(), self.encoding).await;
        request["channel"] = self.channel.clone().into();
        let reply = client.request("subscribe", request).await;
        (client, reply)
    }

    async fn recover(&self, offset: u64, epoch: &str) -> (WsClient, Value) {
        let (client, reply) =
            self.subscribe(json!({"recover": true, "offset": offset, "epoch": epoch})).await;
        assert_eq!(reply["subscribe"]["was_recovering"], true, "{reply}");
        (client, reply["subscribe"].clone())
    }

    /// The client hears the next number, and nothing before it.
    async fn goes_on(&self, client: &mut WsClient, number: u64) {
        self.publish(number..=number).await;
        let publication = client.publication().await;
        assert_eq!((publication.data, publication.offset), (number.to_string(), number));
    }
}

/// The numbers inside a reply; each has the offset of its number.
fn numbers(result: &Value) -> Vec<u64> {
    let publications = result["publications"].as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers = publications.iter().map(|publication| {
        let publication = Publication::read(String::new(), publication);
        assert_eq!(publication.data, publication.offset.to_string());
        publication.offset
    });
    numbers.collect()
}

fn is_refused(result: &Value, top: u64) {
    assert_ne!(result["recovered"], true, "{result}");
    assert_eq!(numbers(result), [] as [u64; 0], "{result}");
    assert_eq!(result["offset"], top, "it goes on from the top: {result}");
}

#[tokio::test]
async fn a_subscribe_says_where_the_channel_stands() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        assert!(!scene.epoch.is_empty());
        scene.publish(1..=2).await;
        let (_, reply) = scene.subscribe(json!({})).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)), "{result}");
        assert_eq!((&result["epoch"], &result["offset"]), (&json!(scene.epoch), &json!(2)), "{result}");
        assert_ne!(result["was_recovering"], true, "it was not here before: {result}");
        assert_eq!(numbers(result), [] as [u64; 0], "who comes for the first time missed nothing");
    }
}

#[tokio::test]
async fn what_was_missed_is_in_the_reply_and_nothing_of_it_comes_again() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=5).await;
        let (mut client, result) = scene.recover(2, &scene.epoch).await;
        assert_eq!(result["recovered"], true, "{result}");
        assert_eq!(numbers(&result), [3, 4, 5]);
        assert_eq!(
            (&result["offset"], &result["epoch"]),
            (&json!(2), &json!(scene.epoch)),
            "where it asked from"
        );
        scene.goes_on(&mut client, 6).await;
    }
}

#[tokio::test]
async fn who_missed_nothing_has_recovered() {
    let scene = Scene::new(Encoding::Json, "news").await;
    scene.publish(1..=2).await;
    let (mut client, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!((&result["recovered"], &result["offset"]), (&json!(true), &json!(2)), "{result}");
    assert_eq!(numbers(&result), [] as [u64; 0]);
    scene.goes_on(&mut client, 3).await;
}

#[tokio::test]
async fn a_ring_that_is_just_long_enough_recovers_and_one_more_missed_does_not() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "small-1").await;
        scene.publish(1..=5).await;
        let (_, result) = scene.recover(2, &scene.epoch).await;
        assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), vec![3, 4, 5]), "{result}");
        let (mut client, result) = scene.recover(1, &scene.epoch).await;
        is_refused(&result, 5);
        scene.goes_on(&mut client, 6).await;
    }
}

#[tokio::test]
async fn a_recovery_has_at_most_as_many_publications_as_the_limit_says() {
    let scene = Scene::new(Encoding::Json, "news").await;
    scene.publish(1..=10).await;
    let (_, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), (3..=10).collect()), "{result}");
    let (_, result) = scene.recover(1, &scene.epoch).await;
    is_refused(&result, 10);
}

#[tokio::test]
async fn another_epoch_is_never_continued_and_no_epoch_fits_any() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=3).await;
        let other = Scene::new(encoding, "news").await.epoch;
        assert_ne!(other, scene.epoch, "each gateway has epochs of its own");
        for epoch in [other.as_str(), "no epoch at all", "ÿ", &"z".repeat(1000)] {
            let (mut client, result) = scene.recover(3, epoch).await;
            is_refused(&result, 3);
            assert_eq!(result["epoch"], scene.epoch.as_str(), "it learns the present one");
            drop(client.request("unsubscribe", json!({"channel": "news"})).await);
        }
        let (_, result) = scene.recover(1, "").await;
        assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), vec![2, 3]), "{result}");
    }
}

#[tokio::test]
async fn a_client_that_is_ahead_of_the_channel_is_not_believed() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=3).await;
        for offset in [4, 1000, (1 << 53) - 1] {
            let (mut client, result) = scene.recover(offset, &scene.epoch).await;
            is_refused(&result, 3);
            drop(client.request("unsubscribe", json!({"channel": "news"})).await);
        }
        let (mut client, result) = scene.recover(4, &scene.epoch).await;
        is_refused(&result, 3);
        scene.goes_on(&mut client, 4).await;
    }
}

#[tokio::test]
async fn a_channel_without_history_promises_nothing() {
    let scene = Scene::new(Encoding::Json, "none-1").await;
    scene.publish(1..=3).await;
    let (_, reply) = scene.subscribe(json!({"recoverable": true, "positioned": true})).await;
    assert_ne!(reply["subscribe"]["recoverable"], true, "{reply}");
    let (mut client, result) = scene.recover(1, &scene.epoch).await;
    assert_ne!(result["recovered"], true, "{result}");
    assert_eq!(numbers(&result), [] as [u64; 0], "{result}");
    scene.publish(4..=4).await;
    assert_eq!(client.publication().await.data, "4");
}

#[tokio::test]
async fn who_wants_all_or_nothing_is_refused_with_112_where_it_cannot_be_recovered() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "small-1").await;
        scene.publish(1..=5).await;
        let strict = |offset: u64, epoch: &str| json!({"channel": "small-1", "recover": true, "offset": offset, "epoch": epoch, "flag": 2});
        let mut client = WsClient::connect(scene.gateway.address(), encoding).await;
        for (offset, epoch) in [(1, scene.epoch.as_str()), (5, "another"), (6, scene.epoch.as_str())] {
            let reply = client.request("subscribe", strict(offset, epoch)).await;
            assert_eq!(reply["error"]["code"], 112, "{reply}");
            assert_ne!(reply["error"]["temporary"], true, "it will not get better: {reply}");
        }
        let reply = client.request("subscribe", strict(3, &scene.epoch)).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recovered"], numbers(result)), (&json!(true), vec![4, 5]), "{reply}");
        scene.goes_on(&mut client, 6).await;
        let reply = client.request("unsubscribe", json!({"channel": "small-1"})).await;
        assert!(reply["unsubscribe"].is_object(), "{reply}");
        let reply = client.request("subscribe", json!({"channel": "small-1", "flag": 2})).await;
        assert_eq!(reply["subscribe"]["offset"], 6, "who asks for no recovery cannot fail at it: {reply}");
    }
}

#[tokio::test]
async fn who_was_refused_with_112_hears_nothing_of_the_channel() {
    let scene = Scene::new(Encoding::Json, "small-1").await;
    scene.publish(1..=5).await;
    let mut client = WsClient::connect(scene.gateway.address(), Encoding::Json).await;
    let request = json!({"channel": "small-1", "recover": true, "epoch": scene.epoch, "flag": 2});
    assert_eq!(client.request("subscribe", request).await["error"]["code"], 112);
    client.request("subscribe", json!({"channel": "other"})).await;
    scene.publish(6..=6).await;
    scene.redis.publish("other", b"1").await;
    assert_eq!(client.publication().await.channel, "other");
}

#[tokio::test]
async fn what_is_older_than_it_may_be_is_not_recovered() {
    let scene = Scene::new(Encoding::Json, "brief-1").await;
    scene.publish(1..=2).await;
    let result = until("the publications are forgotten", async || {
        let (_, result) = scene.recover(1, &scene.epoch).await;
        (result["recovered"] != true).then_some(result)
    })
    .await;
    is_refused(&result, 2);
    let (mut client, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!(result["recovered"], true, "who missed nothing needs no history: {result}");
    scene.goes_on(&mut client, 3).await;
}

#[tokio::test]
async fn a_client_on_its_own_that_drops_for_a_moment_misses_nothing() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        let (mut client, _) = scene.subscribe(json!({})).await;
        scene.redis.publish("news", b"1").await;
        assert_eq!(client.publication().await.data, "1");
        drop(client);
        until("nobody is there", async || {
            (scene.gateway.metric("earshot_connections", &[]).await == 0.0).then_some(())
        })
        .await;
        assert_eq!(scene.redis.publish("news", b"2").await, 1, "the gateway still listens");
        let (mut client, result) = scene.recover(1, &scene.epoch).await;
        assert_eq!(result["recovered"], true, "{result}");
        if numbers(&result).is_empty() {
            assert_eq!(client.publication().await.data, "2");
        }
        scene.goes_on(&mut client, 3).await;
    }
}

#[tokio::test]
async fn subscriptions_of_the_connect_command_recover_as_others_do() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=3).await;
        let mut client = WsClient::handshake_only(scene.gateway.address(), encoding).await;
        let from = json!({"recover": true, "offset": 1, "epoch": scene.epoch});
        let lost = json!({"recover": true, "offset": 1, "epoch": "another"});
        let reply = client.request("connect", json!({"subs": {"news": from, "other": lost}})).await;
        let subs = &reply["connect"]["subs"];
        assert_eq!(
            (&subs["news"]["recovered"], numbers(&subs["news"])),
            (&json!(true), vec![2, 3]),
            "{reply}"
        );
        assert_eq!(subs["other"]["was_recovering"], true, "{reply}");
        assert_ne!(subs["other"]["recovered"], true, "{reply}");
        scene.goes_on(&mut client, 4).await;
    }
}
