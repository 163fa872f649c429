//! A Redis Cluster: plain publications reach every node, logs are where their slots are.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::logs::{append, append_numbers, placed, whole_log};
use crate::harness::{Gateway, SseClient, WsClient};

async fn gateway(cluster: &Cluster) -> Gateway {
    let config = format!(
        "[redis.default]\n{}\n[[namespace]]\nname = \"logs\"\nchannels = [\"log:*\"]\nsource = \"stream\"\n\
         [[namespace]]\nname = \"all\"\nchannels = [\"*\"]\npublish = \"anyone\"\n",
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
    let mut owners = std::collections::BTreeSet::new();
    for log in 0..12 {
        let channel = format!("log:{log}");
        owners.insert(cluster.owner(&channel).await);
        append_numbers(&gateway, &channel, 1..=5).await;
        let request = json!({"data": 6, "idempotency_key": "six", "tags": {"a": "b"}});
        let position = append(&gateway, &channel, request.clone()).await;
        assert_eq!(append(&gateway, &channel, request).await, position);
        let (_, publications) = whole_log(&gateway, &channel).await;
        let expected: Vec<_> = (1..=6).map(|number| (number, json!(number))).collect();
        assert_eq!(placed(&publications), expected);
    }
    assert_eq!(owners.len(), 3, "logs on every node");
}
