//! Attributes of a publication: tags and publisher info. Idempotency keys.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::gateway::NAMESPACES;
use crate::harness::http2::Connection;
use crate::harness::ws::Publication;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive};

const MEMORY: &str =
    "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";

fn on_redis() -> String {
    format!("{NAMESPACES}[redis.default]\ncommand_timeout = \"1s\"\n")
}

async fn on(redis: &Redis) -> Gateway {
    Gateway::settings().config(&on_redis()).redis(redis).start().await
}

/// A client and its client id.
async fn client(gateway: &Gateway, encoding: Encoding) -> (WsClient, Value) {
    let mut client = WsClient::handshake_only(gateway.address(), encoding).await;
    let reply = client.request("connect", json!({})).await;
    (client, reply["connect"]["client"].clone())
}

async fn subscriber(gateway: &Gateway, encoding: Encoding, channel: &str) -> WsClient {
    let mut client = WsClient::connect(gateway.address(), encoding).await;
    let reply = client.request("subscribe", json!({ "channel": channel })).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    client
}

async fn publish(client: &mut WsClient, channel: &str, data: &Value) {
    let reply = client.request("publish", json!({ "channel": channel, "data": data })).await;
    assert!(reply.get("error").is_none(), "{reply}");
}

/// Protobuf omits an empty user, JSON does not.
fn assert_info(publication: &Publication, encoding: Encoding, id: &Value) {
    let expected = match encoding {
        Encoding::Json => json!({"user": "", "client": id}),
        Encoding::Protobuf => json!({"client": id}),
    };
    assert_eq!(publication.info, expected, "{encoding:?}: {publication:?}");
}

/// Asserts the publisher info live, recovered, and in the history over WebSocket and API; SSE has only the payload.
async fn assert_publisher_info(at: &Gateway, elsewhere: &Gateway, channel: &str) {
    for encoding in Encoding::BOTH {
        let channel = &format!("{channel}-{encoding:?}");
        let mut live = subscriber(elsewhere, encoding, channel).await;
        let mut events = SseClient::open(elsewhere.address(), &format!("/sse/{channel}")).await;
        let (mut publisher, id) = client(at, encoding).await;
        publish(&mut publisher, channel, &json!({"n": 1})).await;
        at.publish(channel, "2").await;

        let first = live.publication().await;
        assert_eq!(first.data, r#"{"n":1}"#);
        assert_info(&first, encoding, &id);
        assert_eq!(live.publication().await.info, Value::Null, "the API is not a client");
        for data in [r#"{"n":1}"#, "2"] {
            assert_eq!(events.data("message").await, data);
        }

        let mut late = WsClient::connect(elsewhere.address(), encoding).await;
        let request = json!({"channel": channel, "recover": true, "offset": 0});
        let reply = late.request("subscribe", request).await;
        let recovered = Publication::read(String::new(), &reply["subscribe"]["publications"][0]);
        assert_info(&recovered, encoding, &id);
        let reply = late.request("history", json!({"channel": channel, "limit": 10})).await;
        let kept = Publication::read(String::new(), &reply["history"]["publications"][0]);
        assert_info(&kept, encoding, &id);
        let body = json!({"channel": channel, "limit": 10}).to_string();
        let answer = elsewhere.api("history", &body).await.json();
        let shown = &answer["result"]["publications"];
        assert_eq!(shown[0]["info"], json!({"user": "", "client": id}), "{answer}");
        assert!(shown[1].get("info").is_none(), "{answer}");
    }
}

#[tokio::test]
async fn publisher_info_is_delivered_by_the_memory_broker() {
    let gateway = Gateway::settings().config(MEMORY).start().await;
    assert_publisher_info(&gateway, &gateway, "room").await;
}

#[tokio::test]
async fn publisher_info_of_a_log_is_delivered_by_every_node() {
    let redis = Redis::start().await;
    let (first, second) = (on(&redis).await, on(&redis).await);
    assert_publisher_info(&first, &second, "log:1").await;
    // A node without subscribers reads it from the log.
    let third = on(&redis).await;
    let body = json!({"channel": "log:1-Json", "limit": 10}).to_string();
    let answer = third.api("history", &body).await.json();
    assert!(answer["result"]["publications"][0]["info"]["client"].is_string(), "{answer}");
}

#[tokio::test]
async fn plain_redis_channels_carry_only_the_payload() {
    let redis = Redis::start().await;
    let gateway = on(&redis).await;
    let mut live = subscriber(&gateway, Encoding::Json, "room").await;
    let url = redis::Client::open(redis.url()).unwrap();
    let mut wire = url.get_async_pubsub().await.unwrap();
    wire.subscribe("room").await.unwrap();
    let (mut publisher, _) = client(&gateway, Encoding::Json).await;
    publish(&mut publisher, "room", &json!({"n": 1})).await;
    let message = wire.on_message().next().await.unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), r#"{"n":1}"#);
    assert_eq!(live.publication().await.info, Value::Null);

    let tagged = r#"{"channel":"room","data":1,"tags":{"a":"b"}}"#;
    let error = gateway.api("publish", tagged).await.json()["error"].clone();
    assert_eq!((&error["code"], &error["message"]), (&json!(108), &json!("not available")), "{error}");
    assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("tags")), "{error}");
}

#[tokio::test]
async fn memory_broker_delivers_tags_live_recovered_and_in_history() {
    let gateway = Gateway::settings().config(MEMORY).start().await;
    for encoding in Encoding::BOTH {
        let channel = &format!("room-{encoding:?}");
        let mut live = subscriber(&gateway, encoding, channel).await;
        let tags = json!({"state": "active"});
        let body = json!({"channel": channel, "data": 1, "tags": tags}).to_string();
        assert_eq!(gateway.api("publish", &body).await.json(), json!({"result": {}}));
        assert_eq!(live.publication().await.tags, tags);
        let mut late = WsClient::connect(gateway.address(), encoding).await;
        let request = json!({"channel": channel, "recover": true, "offset": 0});
        let reply = late.request("subscribe", request).await;
        assert_eq!(reply["subscribe"]["publications"][0]["tags"], tags, "{reply}");
        let body = json!({"channel": channel, "limit": 1}).to_string();
        let answer = gateway.api("history", &body).await.json();
        assert_eq!(answer["result"]["publications"][0]["tags"], tags, "{answer}");
    }
}

#[tokio::test]
async fn tags_count_towards_the_publication_size() {
    let redis = Redis::start().await;
    let limit = "[limits]\npublication_bytes = \"1KiB\"\n";
    let without = Gateway::settings().config(&format!("{limit}{MEMORY}")).start().await;
    let with = Gateway::settings().config(&format!("{limit}{}", on_redis())).redis(&redis).start().await;
    for gateway in [&without, &with] {
        for (length, code) in [(1021, None), (1022, Some(106))] {
            let tags = json!({"k": "x".repeat(length)});
            let body = json!({"channel": "log:1", "data": 10, "tags": tags}).to_string();
            let answer = gateway.api("publish", &body).await.json();
            assert_eq!(answer["error"]["code"].as_u64(), code, "{answer}");
        }
    }
}

#[tokio::test]
async fn repeated_idempotency_key_publishes_nothing() {
    let redis = Redis::start().await;
    let without = Gateway::settings().config(MEMORY).start().await;
    let with = on(&redis).await;
    for gateway in [&without, &with] {
        let mut live = WsClient::open(gateway.address(), &["room", "hall"]).await;
        let publish = async |channel: &str, data: u64, key: &str| {
            let body = json!({"channel": channel, "data": data, "idempotency_key": key}).to_string();
            assert_eq!(gateway.api("publish", &body).await.json(), json!({"result": {}}));
        };
        publish("room", 1, "order").await;
        publish("room", 2, "order").await;
        publish("hall", 3, "order").await;
        publish("room", 4, "another").await;
        // An empty key means no key.
        publish("room", 5, "").await;
        publish("room", 6, "").await;
        let broadcast = r#"{"channels":["room","room"],"data":7,"idempotency_key":"twice"}"#;
        let answer = gateway.api("broadcast", broadcast).await.json();
        assert_eq!(answer["result"]["responses"], json!([{"result": {}}, {"result": {}}]));
        publish("room", 8, "last").await;
        let mut received = Vec::new();
        while received.last().is_none_or(|last| last != "8") {
            received.push(live.publication().await.data);
        }
        received.sort();
        assert_eq!(received, ["1", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(gateway.metric("earshot_idempotency_keys_evicted_total", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn idempotency_key_of_a_failed_publication_can_be_reused() {
    let mut redis = Redis::start().await;
    let gateway = on(&redis).await;
    let mut live = WsClient::open(gateway.address(), &["strict"]).await;
    let body = r#"{"channel":"strict","data":1,"idempotency_key":"order"}"#;
    redis.kill();
    gateway.wait_for_ready_status(503).await;
    assert_eq!(gateway.api("publish", body).await.json()["error"]["code"], 100);
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    for _ in 0..2 {
        assert_eq!(gateway.api("publish", body).await.json(), json!({"result": {}}));
    }
    gateway.publish("strict", "2").await;
    let mut received = Vec::new();
    while received.len() < 2 {
        match live.next().await {
            crate::harness::ws::Incoming::Publication(publication) => received.push(publication.data),
            crate::harness::ws::Incoming::Push(_) => {
                // The gap of the outage.
                let reply = live.request("subscribe", json!({"channel": "strict", "recover": true})).await;
                let recovered = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
                received.extend(recovered.iter().map(|publication| publication["data"].to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, ["1", "2"]);
}

#[tokio::test]
async fn cancelled_call_still_publishes_exactly_once() {
    let redis = Redis::start().await;
    let gateway = on(&redis).await;
    let mut live = WsClient::open(gateway.address(), &["room"]).await;
    let body = r#"{"channel":"room","data":1,"idempotency_key":"order"}"#;
    // Redis answers PING and INFO meanwhile, but not PUBLISH.
    redis.run(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let first = Connection::open(&gateway).await;
    let (answer, mut stream) = first.post("/api/publish", body).await;
    first.get("/health").await;
    first.get("/health").await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    first.get("/health").await;
    first.get("/health").await;
    let (one, other, ()) = tokio::join!(gateway.api("publish", body), gateway.api("publish", body), async {
        first.get("/health").await;
        first.get("/health").await;
        redis.run(&["CLIENT", "UNPAUSE"]).await;
    });
    assert_eq!([one.json(), other.json()], [json!({"result": {}}), json!({"result": {}})]);
    gateway.publish("room", "2").await;
    let received = [live.publication().await.data, live.publication().await.data];
    assert_eq!(received, ["1", "2"]);
}

#[tokio::test]
async fn idempotency_key_length_is_limited() {
    let gateway = Gateway::settings().config(MEMORY).start().await;
    for (length, code) in [(256, None), (257, Some(106))] {
        let body = json!({"channel": "room", "data": 1, "idempotency_key": "k".repeat(length)}).to_string();
        let answer = gateway.api("publish", &body).await.json();
        assert_eq!(answer["error"]["code"].as_u64(), code, "{answer}");
        let body =
            json!({"channels": ["room"], "data": 1, "idempotency_key": "k".repeat(length)}).to_string();
        let answer = gateway.api("broadcast", &body).await.json();
        assert_eq!(answer["error"]["code"].as_u64(), code, "{answer}");
    }
}

#[tokio::test]
async fn broadcast_keeps_its_tags_in_memory_once() {
    let _exclusive = exclusive().await;
    const CHANNELS: usize = 4000;
    const TAG: usize = 256 << 10;
    let gateway = Gateway::settings().config(MEMORY).start().await;
    let channels: Vec<String> = (0..CHANNELS).map(|number| format!("room-{number}")).collect();
    let body = json!({"channels": channels, "data": 1, "tags": {"k": "x".repeat(TAG)}}).to_string();
    let answer = gateway.api("broadcast", &body).await.json();
    let responses = answer["result"]["responses"].as_array().map(Vec::len);
    assert_eq!(responses, Some(CHANNELS), "{answer}");
    let peak = gateway.memory_peak();
    assert!(peak < 256 << 20, "peak memory: {peak} bytes");
}
