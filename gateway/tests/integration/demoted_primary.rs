//! A connected primary that becomes a replica keeps its connections open; the gateway detects it anyway.

use crate::harness::{Gateway, Redis, WsClient, until};

/// Whether each link in `/health` is up and connected to a replica.
async fn are_replicas(gateway: &Gateway) -> Vec<bool> {
    let health = gateway.fetch("/health").await.json();
    let links = health["links"].as_array().cloned().unwrap_or_default();
    links.iter().map(|link| link["up"] == true && link["replica"] == true).collect()
}

#[tokio::test]
async fn demoted_primary_is_reconnected_and_reported() {
    let (one, other) = (Redis::start().await, Redis::start().await);
    let config = format!("[redis.default]\nurl = {:?}\nprimary_check_interval = \"100ms\"\n", one.url());
    let gateway = Gateway::settings().config(&config).start().await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    assert_eq!(are_replicas(&gateway).await, [false, false]);

    let port = other.address().port().to_string();
    one.run(&["REPLICAOF", "127.0.0.1", &port]).await;
    until("both links report the replica", async || {
        (are_replicas(&gateway).await == [true, true]).then_some(())
    })
    .await;
    socket.resubscribe_after_gaps(1).await;
    gateway.wait_for_log(&["has become a replica", "this Redis is a replica"]).await;
    until("publications on the primary are replicated", async || {
        other.publish("b", b"0").await;
        let info: String = redis::from_redis_value(one.run(&["INFO", "replication"]).await).unwrap();
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    other.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1", "a replica receives the publications of its primary");

    one.run(&["REPLICAOF", "NO", "ONE"]).await;
    until("both links report the primary", async || {
        (are_replicas(&gateway).await == [false, false]).then_some(())
    })
    .await;
    one.publish("a", b"2").await;
    assert_eq!(socket.publication().await.data, "2", "no connection was closed");
}
