//! `earshot check` with several servers: replicas, Sentinels, clusters, several servers as one instance, several
//! instances.

use crate::harness::check::{check, check_configured};
use crate::harness::cluster::Cluster;
use crate::harness::process::free_port;
use crate::harness::sentinel::Group;
use crate::harness::{Redis, until};

#[tokio::test]
async fn replica_is_reported() {
    let primary = Redis::start_with_arguments(&["--repl-diskless-sync-delay", "0"]).await;
    let (host, port) = (primary.address().ip(), primary.address().port());
    let replica = Redis::start_with_arguments(&["--replicaof", &host.to_string(), &port.to_string()]).await;
    until("the replica is in step", async || {
        let info = format!("{:?}", replica.run(&["INFO", "replication"]).await);
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let checked = check(&[&replica.url()]).await;
    checked.expect("role", "failed", &["this is a replica", "link to the primary is up", "use the primary"]);
    checked.expect("keys", "failed", &["READONLY"]);
    // It receives messages published on itself, which hides the problem.
    checked.expect("pubsub", "ok", &[]);
    check(&[&primary.url()]).await.expect("role", "ok", &["replicas: 1"]);
}

#[tokio::test]
async fn cluster_must_cover_all_slots() {
    let port = free_port().to_string();
    let redis = Redis::start_with_arguments(&["--cluster-enabled", "yes", "--cluster-port", &port]).await;
    let checked = check(&[&redis.url()]).await;
    checked.expect("cluster", "failed", &["state fail", "CLUSTER NODES"]);
    redis.run(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let whole = until("the cluster is whole", async || {
        let checked = check(&[&redis.url()]).await;
        (checked.code == 0).then_some(checked)
    })
    .await;
    whole.expect("cluster", "ok", &["16384 of 16384"]);
    whole.expect("keys", "ok", &[]);
}

#[tokio::test]
async fn every_cluster_node_is_checked() {
    let mut cluster = Cluster::start(2, true).await;
    let config = format!("[redis.default]\n{}", cluster.settings());
    let good = check_configured(&config).await;
    assert_eq!((good.code, good.warned()), (0, vec![]), "{}", good.text);
    assert_eq!(good.findings("nodes").len(), 4);
    for node in 0..2 {
        let primary = format!(
            "{}: primary of 8192 slots, replicas: 1; publications on it are received",
            cluster.address(node)
        );
        good.expect("nodes", "ok", &[&primary]);
    }
    // A configuration that expects a single server for a cluster, and one that expects a cluster for a server.
    let single = format!("[redis.default]\nurl = \"{}\"\n", cluster.url(0));
    check_configured(&single).await.expect("cluster", "failed", &["cluster = true"]);
    let redis = Redis::start().await;
    let single_server = format!("[redis.default]\nurl = \"{}\"\ncluster = true\n", redis.url());
    check_configured(&single_server).await.expect("cluster", "failed", &["says `cluster`"]);

    cluster.kill(3);
    let one_gone = check_configured(&config).await;
    assert_eq!(one_gone.code, 1, "{}", one_gone.text);
    one_gone.expect("nodes", "failed", &[&cluster.address(3).to_string(), "cluster-announce-ip"]);
    cluster.restart(3).await;
    cluster.wait_until_stable().await;
    // The first seed is down; the next one responds.
    cluster.kill(2);
    let from_another = config.replacen(&cluster.url(0), &cluster.url(2), 1);
    let checked = check_configured(&from_another).await;
    checked.expect("tcp", "failed", &[&cluster.address(2).to_string(), "refused"]);
    checked.expect("pubsub", "ok", &[]);
}

#[tokio::test]
async fn shard_channel_permissions_are_checked() {
    let cluster = Cluster::start(1, false).await;
    let space =
        "[[namespace]]\nname = \"s\"\nchannels = [\"s:*\"]\nsubscribe = \"anyone\"\nsharded_pubsub = true\n";
    let config =
        format!("[redis.default]\nurl = \"redis://app:pw@{}\"\ncluster = true\n{space}", cluster.address(0));
    for (lack, named) in
        [("-spublish", "SPUBLISH"), ("-ssubscribe", "SSUBSCRIBE"), ("-cluster|slots", "CLUSTER SLOTS")]
    {
        let rules = format!("ACL SETUSER app reset on >pw ~* &* +@all {lack}");
        cluster.run(0, &rules.split(' ').collect::<Vec<_>>()).await;
        let checked = check_configured(&config).await;
        assert_eq!(checked.code, 1, "{lack}: {}", checked.text);
        checked.expect("permissions", "failed", &[named]);
    }
}

#[tokio::test]
async fn servers_of_an_instance_are_checked_separately() {
    let (one, other) = (Redis::start().await, Redis::start().await);
    other.run(&["CONFIG", "SET", "timeout", "5"]).await;
    let config = format!(
        "[redis.many]\nurls = [\"{}\", \"{}\"]\n[[namespace]]\nname = \"a\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nredis = \"many\"\n",
        one.url(),
        other.url()
    );
    let checked = check_configured(&config).await;
    assert_eq!((checked.code, checked.warned()), (0, vec!["timeout"]), "{}", checked.text);
    let names: Vec<_> = checked.report["sections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| section["name"].clone())
        .collect();
    assert_eq!(names, ["many.0", "many.1"]);
}

#[tokio::test]
async fn sentinels_are_checked_and_provide_the_primary() {
    let mut group = Group::start().await;
    let config = format!("[redis.default]\n{}", group.settings());
    let good = check_configured(&config).await;
    assert_eq!((good.code, good.warned()), (0, vec![]), "{}", good.text);
    assert_eq!(good.findings("sentinel").len(), 3);
    good.expect("sentinel", "ok", &["replicas: 1, other Sentinels: 2, quorum: 2"]);
    good.expect("tcp", "ok", &[&group.servers[0].address().to_string()]);
    good.expect("role", "ok", &["primary"]);

    group.sentinels[0].process.kill();
    let one_gone = check_configured(&config).await;
    assert_eq!((one_gone.code, one_gone.warned()), (0, vec!["sentinel"]), "{}", one_gone.text);
    let misnamed = check_configured(&config.replace("mymaster", "theirs")).await;
    assert_eq!((misnamed.code, misnamed.failed()), (1, vec!["sentinel"]), "{}", misnamed.text);
    misnamed.expect("sentinel", "failed", &["No such master", "`sentinel_master`"]);
    let no_sentinel = format!(
        "[redis.default]\nsentinels = [\"{}\"]\nsentinel_master = \"mymaster\"\n",
        group.servers[0].address()
    );
    check_configured(&no_sentinel).await.expect("sentinel", "failed", &["it is not a Sentinel"]);
}

#[tokio::test]
async fn instances_are_checked_separately() {
    let (commands, pubsub) = (Redis::start().await, Redis::start().await);
    let unused_port = free_port();
    let config = format!(
        "[redis.nest]\nurl = \"{}\"\npubsub_url = \"{}\"\n[redis.web]\nurl = \"redis://127.0.0.1:{unused_port}\"\n\
         [[namespace]]\nname = \"nest\"\nchannels = [\"nest:*\"]\nsubscribe = \"anyone\"\nredis = \"nest\"\n\
         [[namespace]]\nname = \"web\"\nchannels = [\"web:*\"]\nsubscribe = \"anyone\"\nredis = \"web\"\n",
        commands.url(),
        pubsub.url(),
    );
    let checked = check_configured(&config).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["tcp"]), "{}", checked.text);
    let sections = checked.report["sections"].as_array().unwrap();
    let named: Vec<_> = sections.iter().map(|section| section["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["nest", "nest (pubsub_url)", "web"]);
    checked.expect("eviction", "ok", &["no data is stored here"]);
}
