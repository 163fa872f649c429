//! Clusters as source and target: every primary is scanned, and keys are written to the right node.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};

use super::running::{Migrate, about, assert_same, count, finish, renamed};
use crate::harness::cluster::Cluster;
use crate::harness::keyspace::{Keys, fill, read};
use crate::harness::{Redis, WAIT_TIMEOUT, until};

/// Number of primaries in a cluster.
const NODES: usize = 3;

async fn read_all(cluster: &Cluster) -> Keys {
    let mut keys = Keys::new();
    for node in 0..NODES {
        keys.extend(read(&mut connection(cluster, node).await).await);
    }
    keys
}

async fn count_all(cluster: &Cluster) -> usize {
    let mut keys = 0;
    for node in 0..NODES {
        keys += count(&mut connection(cluster, node).await).await;
    }
    keys
}

async fn connection(cluster: &Cluster, node: usize) -> MultiplexedConnection {
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT_TIMEOUT));
    let client = Client::open(cluster.url(node)).unwrap();
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_to_cluster_and_back() {
    let (old, cluster, new) = tokio::join!(Redis::start(), Cluster::start(NODES, false), Redis::start());
    fill(&mut old.connection().await, 700).await;
    let before = read(&mut old.connection().await).await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");

    let into = Migrate::from(&old.url(), &state).to("cluster", &cluster.url(0)).with(&["--rest", "cluster"]);
    into.run().await.expect(0);
    assert_same(&before, &read_all(&cluster).await);

    let back =
        Migrate::from(&cluster.url(0), &state).to("new", &new.url()).with(&["--rest", "new", "--delete"]);
    back.run().await.expect(0);
    assert_same(&before, &read(&mut new.connection().await).await);
    assert_eq!(count_all(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_copy_into_a_cluster_with_hash_tags() {
    let (old, cluster) = tokio::join!(Redis::start(), Cluster::start(NODES, false));
    fill(&mut old.connection().await, 300).await;
    let directory = tempfile::tempdir().unwrap();
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("cluster", &cluster.url(0));
    let migrate = migrate
        .rule("nest:*=cluster:{nest}:")
        .rule("session:*=cluster:{nest}:session:")
        .rule("express:=cluster:{express}:");
    migrate.with(&["--rest", "cluster", "--chunk-threshold", "1B"]).run().await.expect(0);
    let expected: Keys = read(&mut old.connection().await)
        .await
        .into_iter()
        .map(|(key, content)| {
            let text = String::from_utf8(key).unwrap();
            let renamed = [("nest:", "{nest}:"), ("session:", "{nest}:session:"), ("express:", "{express}:")]
                .iter()
                .find_map(|(from, to)| text.strip_prefix(from).map(|rest| format!("{to}{rest}")));
            (renamed.unwrap_or(text).into_bytes(), content)
        })
        .collect();
    assert_same(&expected, &read_all(&cluster).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_slot_is_followed() {
    let (old, cluster) = tokio::join!(Redis::start(), Cluster::start(NODES, false));
    fill(&mut old.connection().await, 400).await;
    let directory = tempfile::tempdir().unwrap();
    // All keys are in one slot.
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("cluster", &cluster.url(0));
    let mut process = migrate.with(&["--rest", "cluster:{nest}:", "--rate", "200"]).start();
    until("some have come", async || (count_all(&cluster).await > 0).then_some(())).await;
    let owner = cluster.owner("{nest}").await;
    cluster.resharding().move_slot("{nest}", (owner + 1) % NODES).await;
    finish(&mut process).await.expect(0);
    let found = read_all(&cluster).await;
    // Moving a slot shifts the TTLs of its keys by some milliseconds.
    let expected = renamed(&read(&mut old.connection().await).await, "", "{nest}:");
    assert_same(&about(expected, &found, 900), &found);
}
