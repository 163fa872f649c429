//! Sentinel: after a failover the gateway connects to the new primary, whether or not the old one closed its
//! connections.

use std::sync::Arc;
use std::time::Instant;

use crate::harness::certificates::{Authority, FAR};
use crate::harness::outage_subscribers::OutageSubscribers;
use crate::harness::process::free_port;
use crate::harness::publisher::Publisher;
use crate::harness::sentinel::{Group, GroupOptions};
use crate::harness::subscriber::NUMBERS;
use crate::harness::{Gateway, WsClient, until};

async fn gateway(group: &Group, keys: &str) -> Gateway {
    Gateway::settings().config(&format!("[redis.default]\n{}{keys}", group.settings())).start().await
}

/// Reconnects of both links; the first connection of each is not counted.
async fn reconnects(gateway: &Gateway) -> f64 {
    gateway.metric("earshot_redis_reconnects_total", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_follows_a_failover() {
    tokio::join!(Box::pin(assert_failover("KILL")), Box::pin(assert_failover("STOP")));
}

/// The primary is killed, which closes its sockets, or suspended, which does not.
async fn assert_failover(signal: &str) {
    let group = Arc::new(Group::start().await);
    // Only the Sentinels can detect a hanging primary.
    let gateway = gateway(&group, "ping_interval = \"5m\"\n").await;
    let old = group.servers[0].address().port();
    let (primary_url, following) = group.follow_primary();
    let mut subscribers =
        OutageSubscribers::start(&gateway, || Publisher::steady_at(primary_url, &[NUMBERS])).await;
    subscribers.wait_until_receiving().await;

    group.servers[0].signal(signal);
    let new = group.wait_for_failover_from(old).await;
    let since = Instant::now();
    assert_eq!(new, group.servers[1].address().port());
    subscribers.wait_until_receiving().await;
    eprintln!("{signal}: received again {:?} after the Sentinels reported the new primary", since.elapsed());
    gateway.wait_for_ready_status(200).await;

    if signal == "STOP" {
        let text = format!("the Sentinels report that `mymaster` is now 127.0.0.1:{new}");
        gateway.wait_for_log(&[&text]).await;
    }

    // The old primary returns as a replica; the gateway must not reconnect to it.
    if signal == "STOP" {
        group.servers[0].signal("CONT");
        until("the old primary is a replica", async || {
            let role = group.servers[0].run(&["ROLE"]).await;
            format!("{role:?}").contains("slave").then_some(())
        })
        .await;
        let before = reconnects(&gateway).await;
        subscribers.wait_until_receiving().await;
        assert_eq!(reconnects(&gateway).await, before);
    }
    subscribers.verify(1).await;
    following.abort();
}

#[tokio::test]
async fn gateway_follows_a_forced_failover() {
    let group = Group::start().await;
    let gateway = gateway(&group, "").await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    let old = group.servers[0].address().port();
    group.fail_over().await;
    group.wait_for_failover_from(old).await;
    socket.resubscribe_after_gaps(1).await;
    gateway.wait_for_ready_status(200).await;
    until("the gateway is connected to the new primary", async || {
        (group.servers[1].publish("a", b"1").await == 1).then_some(())
    })
    .await;
    assert_eq!(socket.publication().await.data, "1");
}

#[tokio::test]
async fn gateway_tolerates_a_hanging_and_a_dead_sentinel() {
    let mut group = Group::start().await;
    group.sentinels[1].process.signal("STOP");
    let gateway = gateway(&group, "ping_interval = \"5m\"\n").await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    group.sentinels[1].process.signal("CONT");
    group.sentinels[2].process.kill();
    let old = group.servers[0].address().port();
    group.servers[0].signal("STOP");
    group.wait_for_failover_from(old).await;
    socket.resubscribe_after_gaps(1).await;
    gateway.wait_for_ready_status(200).await;
    group.servers[1].publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
}

#[tokio::test]
async fn sentinels_have_separate_passwords_and_tls() {
    let authority = Authority::new();
    let own = authority.issue(&["127.0.0.1"], FAR);
    let (certificate, key, ca) = (
        own.certificate.display().to_string(),
        own.key.display().to_string(),
        authority.file().display().to_string(),
    );
    let tls = [
        ["tls-cert-file", &certificate],
        ["tls-key-file", &key],
        ["tls-ca-cert-file", &ca],
        ["tls-auth-clients", "no"],
        ["tls-replication", "yes"],
    ];
    let user = "--user gateway on >g#pw ~* &* +@all".split(' ');
    let options = GroupOptions {
        servers: tls
            .iter()
            .flat_map(|[key, value]| [format!("--{key}"), (*value).to_owned()])
            .chain(user.map(str::to_owned))
            .collect(),
        sentinels: tls
            .iter()
            .map(|line| line.join(" "))
            .chain(["tls-port {port}".to_owned(), "requirepass s3ntinel".to_owned()])
            .collect(),
        ports: Some([free_port(), free_port()]),
        password: Some("s3ntinel".to_owned()),
        ..GroupOptions::default()
    };
    let group = Group::start_with_options(options).await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (password, sentinel_password) = (file("gateway", "g#pw\n"), file("sentinel", "wrong\n"));
    let keys =
        format!("username = \"gateway\"\npassword_file = {password:?}\ntls = true\nca_file = {ca:?}\n");

    let without_password = format!("[redis.default]\n{}{keys}", group.settings());
    let config = format!("{without_password}sentinel_password_file = {sentinel_password:?}\n");
    let other = config.replace("\"mymaster\"", "\"mastered\"");
    let start = |config: &str| Gateway::settings().config(config).start_unready();
    let (without, wrong, other) = (start(&without_password).await, start(&config).await, start(&other).await);
    without
        .wait_for_cause(
            "the server requires a password, and none is configured: set `sentinel_password_file`",
        )
        .await;
    wrong.wait_for_cause("WRONGPASS").await;
    file("sentinel", "s3ntinel");
    other.wait_for_cause("ERR No such master with that name: `sentinel_master` must be the name").await;
    wrong.wait_for_ready_status(200).await;

    let mut socket = WsClient::open(wrong.address(), &["a"]).await;
    let old = group.primary(0).await.unwrap();
    group.fail_over().await;
    group.wait_for_failover_from(old).await;
    socket.resubscribe_after_gaps(1).await;
    wrong.wait_for_ready_status(200).await;
    group.servers[1].publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
    let log = wrong.process.log();
    assert!(!log.contains("s3ntinel") && !log.contains("g#pw"), "{log}");
}
