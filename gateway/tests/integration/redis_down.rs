//! Redis is down: clients of a node still receive each other's messages, publishers learn that delivery was local, and
//! every client receives a gap notice when Redis is back.

use serde_json::{Value, json};

use crate::harness::gateway::NAMESPACES;
use crate::harness::sse::Next;
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

async fn wait_for_health(gateway: &Gateway, status: &str, cache: &str) {
    until(&format!("/health reports {status} and {cache}"), async || {
        let health = gateway.fetch("/health").await.json();
        (health["status"] == status && health["cache"] == cache).then_some(())
    })
    .await;
}

async fn publish(client: &mut WsClient, channel: &str, data: &str) -> Value {
    client.request("publish", json!({ "channel": channel, "data": data })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_receive_local_messages_and_a_gap_notice_afterwards() {
    let mut redis = Redis::start().await;
    let config = format!("{NAMESPACES}[redis.default]\ncommand_timeout = \"3s\"\n");
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut before = WsClient::open(gateway.address(), &["room"]).await;
    let mut stream = SseClient::open(gateway.address(), "/sse/room").await;
    wait_for_health(&gateway, "ok", "redis").await;

    redis.kill();
    gateway.wait_for_ready_status(503).await;
    wait_for_health(&gateway, "degraded", "memory").await;

    // A new client subscribes to a known channel and to an unknown one.
    let mut new_client = WsClient::open(gateway.address(), &["room", "lobby"]).await;
    for number in 0..3 {
        let reply = publish(&mut new_client, "room", &number.to_string()).await;
        assert_eq!(reply["publish"], json!({ "local": true }), "{reply}");
    }
    for number in 0..3 {
        let expected = format!("\"{number}\"");
        assert_eq!(before.publication().await.data, expected);
        assert_eq!(new_client.publication().await.data, expected);
        assert_eq!(stream.data("message").await, expected);
    }
    let reply = gateway.api("publish", r#"{"channel":"lobby","data":{"from":"api"}}"#).await.text();
    assert_eq!(reply, r#"{"result":{"local":true}}"#);
    assert_eq!(new_client.publication().await.data, r#"{"from":"api"}"#);
    gateway.wait_for_metric("earshot_messages_local_total", &[], |messages| messages >= 4.0).await;

    for channel in ["strict", "log:a"] {
        let reply = publish(&mut new_client, channel, "x").await;
        assert_eq!(reply["error"]["code"], 100, "{channel}: {reply}");
    }

    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    before.resubscribe_after_gaps(1).await;
    new_client.resubscribe_after_gaps(2).await;
    let Next::Event(gap) = stream.next().await else { panic!("the stream stays open") };
    assert_eq!(gap.name, "gap");
    redis.publish("room", b"\"after\"").await;
    assert_eq!(before.publication().await.data, "\"after\"");
    assert_eq!(new_client.publication().await.data, "\"after\"");
    assert_eq!(stream.data("message").await, "\"after\"");
    wait_for_health(&gateway, "ok", "redis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_started_without_redis_serves_and_recovers() {
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = Gateway::settings().redis(&redis).start_unready().await;
    let mut client = WsClient::open(gateway.address(), &["room"]).await;
    let reply = publish(&mut client, "room", "alone").await;
    assert_eq!(reply["publish"]["local"], true, "{reply}");
    assert_eq!(client.publication().await.data, "\"alone\"");
    redis.restart().await;
    gateway.wait_for_ready_status(200).await;
    client.resubscribe_after_gaps(1).await;
    redis.publish("room", b"1").await;
    assert_eq!(client.publication().await.data, "1");
}
