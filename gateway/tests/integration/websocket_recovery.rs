//! A WebSocket client that reconnects recovers exactly what it missed, or is notified that recovery is impossible.

use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

/// History sizes by channel name.
const CONFIG: &str = r#"
[limits]
recovery_publications = 8

[[namespace]]
name = "small"
channels = ["small-*"]
subscribe = "anyone"
history = { size = 3 }

[[namespace]]
name = "none"
channels = ["none-*"]
subscribe = "anyone"
history = { size = 0 }

[[namespace]]
name = "brief"
channels = ["brief-*"]
subscribe = "anyone"
history = { size = 10, ttl = "1s" }

[[namespace]]
name = "rest"
channels = ["*"]
subscribe = "anyone"
"#;

/// A gateway, and a client of one encoding for one channel.
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

    /// Publishes numbers, and waits until the gateway has received them.
    async fn publish(&self, numbers: std::ops::RangeInclusive<u64>) {
        let mut control = SseClient::open(self.gateway.address(), &format!("/sse/{}", self.channel)).await;
        for number in numbers {
            self.redis.publish(&self.channel, number.to_string().as_bytes()).await;
            assert_eq!(control.data("message").await, number.to_string());
        }
    }

    /// Subscribes on a new connection; returns the reply.
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

    /// Asserts that the client receives the next number and nothing before it.
    async fn assert_continues(&self, client: &mut WsClient, number: u64) {
        self.publish(number..=number).await;
        let publication = client.publication().await;
        assert_eq!((publication.data, publication.offset), (number.to_string(), number));
    }
}

/// The numbers in a reply; each one equals its offset.
fn numbers(result: &Value) -> Vec<u64> {
    let publications = result["publications"].as_array().map(Vec::as_slice).unwrap_or_default();
    let numbers = publications.iter().map(|publication| {
        let publication = Publication::read(String::new(), publication);
        assert_eq!(publication.data, publication.offset.to_string());
        publication.offset
    });
    numbers.collect()
}

fn assert_not_recovered(result: &Value, top: u64) {
    assert_ne!(result["recovered"], true, "{result}");
    assert_eq!(numbers(result), [] as [u64; 0], "{result}");
    assert_eq!(result["offset"], top, "it continues from the last position: {result}");
}

#[tokio::test]
async fn subscribe_reply_has_the_position() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        assert!(!scene.epoch.is_empty());
        scene.publish(1..=2).await;
        let (_, reply) = scene.subscribe(json!({})).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)), "{result}");
        assert_eq!((&result["epoch"], &result["offset"]), (&json!(scene.epoch), &json!(2)), "{result}");
        assert_ne!(result["was_recovering"], true, "first subscription: {result}");
        assert_eq!(numbers(result), [] as [u64; 0], "a first subscription recovers nothing");
    }
}

#[tokio::test]
async fn missed_publications_are_in_the_reply_only() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=5).await;
        let (mut client, result) = scene.recover(2, &scene.epoch).await;
        assert_eq!(result["recovered"], true, "{result}");
        assert_eq!(numbers(&result), [3, 4, 5]);
        assert_eq!(
            (&result["offset"], &result["epoch"]),
            (&json!(2), &json!(scene.epoch)),
            "the requested position"
        );
        scene.assert_continues(&mut client, 6).await;
    }
}

#[tokio::test]
async fn recovery_without_missed_publications_succeeds() {
    let scene = Scene::new(Encoding::Json, "news").await;
    scene.publish(1..=2).await;
    let (mut client, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!((&result["recovered"], &result["offset"]), (&json!(true), &json!(2)), "{result}");
    assert_eq!(numbers(&result), [] as [u64; 0]);
    scene.assert_continues(&mut client, 3).await;
}

#[tokio::test]
async fn recovery_succeeds_up_to_the_history_size() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "small-1").await;
        scene.publish(1..=5).await;
        let (_, result) = scene.recover(2, &scene.epoch).await;
        assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), vec![3, 4, 5]), "{result}");
        let (mut client, result) = scene.recover(1, &scene.epoch).await;
        assert_not_recovered(&result, 5);
        scene.assert_continues(&mut client, 6).await;
    }
}

#[tokio::test]
async fn recovery_is_limited_in_publications() {
    let scene = Scene::new(Encoding::Json, "news").await;
    scene.publish(1..=10).await;
    let (_, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), (3..=10).collect()), "{result}");
    let (_, result) = scene.recover(1, &scene.epoch).await;
    assert_not_recovered(&result, 10);
}

#[tokio::test]
async fn recovery_requires_the_same_epoch_or_none() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=3).await;
        let other = Scene::new(encoding, "news").await.epoch;
        assert_ne!(other, scene.epoch, "each gateway has its own epochs");
        for epoch in [other.as_str(), "no epoch at all", "ÿ", &"z".repeat(1000)] {
            let (mut client, result) = scene.recover(3, epoch).await;
            assert_not_recovered(&result, 3);
            assert_eq!(result["epoch"], scene.epoch.as_str(), "the reply has the current epoch");
            drop(client.request("unsubscribe", json!({"channel": "news"})).await);
        }
        let (_, result) = scene.recover(1, "").await;
        assert_eq!((&result["recovered"], numbers(&result)), (&json!(true), vec![2, 3]), "{result}");
    }
}

#[tokio::test]
async fn offset_beyond_the_last_publication_is_not_recovered() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        scene.publish(1..=3).await;
        for offset in [4, 1000, (1 << 53) - 1] {
            let (mut client, result) = scene.recover(offset, &scene.epoch).await;
            assert_not_recovered(&result, 3);
            drop(client.request("unsubscribe", json!({"channel": "news"})).await);
        }
        let (mut client, result) = scene.recover(4, &scene.epoch).await;
        assert_not_recovered(&result, 3);
        scene.assert_continues(&mut client, 4).await;
    }
}

#[tokio::test]
async fn channel_without_history_is_not_recoverable() {
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
async fn strict_recovery_fails_with_112() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "small-1").await;
        scene.publish(1..=5).await;
        let strict = |offset: u64, epoch: &str| json!({"channel": "small-1", "recover": true, "offset": offset, "epoch": epoch, "flag": 2});
        let mut client = WsClient::connect(scene.gateway.address(), encoding).await;
        for (offset, epoch) in [(1, scene.epoch.as_str()), (5, "another"), (6, scene.epoch.as_str())] {
            let reply = client.request("subscribe", strict(offset, epoch)).await;
            assert_eq!(reply["error"]["code"], 112, "{reply}");
            assert_ne!(reply["error"]["temporary"], true, "a retry does not help: {reply}");
        }
        let reply = client.request("subscribe", strict(3, &scene.epoch)).await;
        let result = &reply["subscribe"];
        assert_eq!((&result["recovered"], numbers(result)), (&json!(true), vec![4, 5]), "{reply}");
        scene.assert_continues(&mut client, 6).await;
        let reply = client.request("unsubscribe", json!({"channel": "small-1"})).await;
        assert!(reply["unsubscribe"].is_object(), "{reply}");
        let reply = client.request("subscribe", json!({"channel": "small-1", "flag": 2})).await;
        assert_eq!(reply["subscribe"]["offset"], 6, "no recovery requested: {reply}");
    }
}

#[tokio::test]
async fn failed_strict_recovery_does_not_subscribe() {
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
async fn expired_publications_are_not_recovered() {
    let scene = Scene::new(Encoding::Json, "brief-1").await;
    scene.publish(1..=2).await;
    let result = until("the publications have expired", async || {
        let (_, result) = scene.recover(1, &scene.epoch).await;
        (result["recovered"] != true).then_some(result)
    })
    .await;
    assert_not_recovered(&result, 2);
    let (mut client, result) = scene.recover(2, &scene.epoch).await;
    assert_eq!(result["recovered"], true, "nothing was missed: {result}");
    scene.assert_continues(&mut client, 3).await;
}

#[tokio::test]
async fn only_subscriber_recovers_after_a_short_disconnect() {
    for encoding in Encoding::BOTH {
        let scene = Scene::new(encoding, "news").await;
        let (mut client, _) = scene.subscribe(json!({})).await;
        scene.redis.publish("news", b"1").await;
        assert_eq!(client.publication().await.data, "1");
        drop(client);
        until("no client is connected", async || {
            (scene.gateway.metric("earshot_connections", &[]).await == 0.0).then_some(())
        })
        .await;
        assert_eq!(scene.redis.publish("news", b"2").await, 1, "the gateway is still subscribed");
        let (mut client, result) = scene.recover(1, &scene.epoch).await;
        assert_eq!(result["recovered"], true, "{result}");
        if numbers(&result).is_empty() {
            assert_eq!(client.publication().await.data, "2");
        }
        scene.assert_continues(&mut client, 3).await;
    }
}

#[tokio::test]
async fn connect_subscriptions_recover() {
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
        scene.assert_continues(&mut client, 4).await;
    }
}
