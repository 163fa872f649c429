//! Sentinels say where the primary is: after a fail-over everybody hears again, whether or not the old primary closed
//! anything.

use std::sync::Arc;
use std::time::Instant;

use crate::harness::follower::NUMBERS;
use crate::harness::publisher::Publisher;
use crate::harness::sentinel::Group;
use crate::harness::witness::Witnesses;
use crate::harness::{Gateway, WsClient, until};

async fn gateway(group: &Group) -> Gateway {
    Gateway::settings().config(&format!("[redis.default]\n{}", group.settings())).start().await
}

/// How often each link was connected, the first time included, is one more than what is counted here.
async fn reconnects(gateway: &Gateway) -> f64 {
    gateway.metric("earshot_redis_reconnects_total", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_or_hangs_is_left_for_its_successor() {
    tokio::join!(Box::pin(fails_over("KILL")), Box::pin(fails_over("STOP")));
}

/// The primary is killed, which closes its sockets, or stopped, which closes nothing.
async fn fails_over(signal: &str) {
    let group = Arc::new(Group::start().await);
    let gateway = gateway(&group).await;
    let old = group.servers[0].address().port();
    let (leader, following) = group.leader();
    let mut witnesses = Witnesses::of(&gateway, || Publisher::steady_at(leader, &[NUMBERS])).await;
    witnesses.hear().await;

    group.servers[0].signal(signal);
    let new = group.moved_from(old).await;
    let since = Instant::now();
    assert_eq!(new, group.servers[1].address().port());
    witnesses.hear().await;
    eprintln!("{signal}: heard again {:?} after the Sentinels named the successor", since.elapsed());
    gateway.answers_ready_with(200).await;

    // The old one comes back as a replica, and nobody goes back to it.
    if signal == "STOP" {
        group.servers[0].signal("CONT");
        until("the old primary is a replica", async || {
            let role = group.servers[0].run(&["ROLE"]).await;
            format!("{role:?}").contains("slave").then_some(())
        })
        .await;
        let before = reconnects(&gateway).await;
        witnesses.hear().await;
        assert_eq!(reconnects(&gateway).await, before);
    }
    witnesses.account(1).await;
    following.abort();
}

#[tokio::test]
async fn a_fail_over_that_somebody_asks_for_is_followed() {
    let group = Group::start().await;
    let gateway = gateway(&group).await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    let old = group.servers[0].address().port();
    group.fail_over().await;
    group.moved_from(old).await;
    socket.come_back(1).await;
    gateway.answers_ready_with(200).await;
    until("the gateway is at the new primary", async || {
        (group.servers[1].publish("a", b"1").await == 1).then_some(())
    })
    .await;
    assert_eq!(socket.publication().await.data, "1");
}
