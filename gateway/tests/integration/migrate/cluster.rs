//! Clusters on either side: each primary is walked, and each key finds its node.

use redis::cmd;

use super::pieces::Server;
use super::running::{Migrate, about, assert_same, count, finish, renamed};
use crate::harness::keyspace::{Keys, fill, read};
use crate::harness::process::free_port;
use crate::harness::{Redis, until};

/// Three primaries without replicas.
struct Cluster(Vec<Server>);

impl Cluster {
    async fn start() -> Self {
        let buses = [free_port(), free_port(), free_port()];
        let mut nodes = Vec::new();
        for bus in buses.map(|bus| bus.to_string()) {
            nodes.push(Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await);
        }
        for (index, node) in nodes.iter().enumerate() {
            let mut connection = node.connection().await;
            let (first, last) = (index * 16_384 / 3, (index + 1) * 16_384 / 3 - 1);
            let mut slots = cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(first).arg(last).exec_async(&mut connection).await.unwrap();
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET")
                .arg("127.0.0.1")
                .arg(nodes[0].port())
                .arg(buses[0])
                .exec_async(&mut connection)
                .await
                .unwrap();
        }
        let cluster = Self(nodes);
        until("the cluster is one", async || cluster.is_one().await.then_some(())).await;
        cluster
    }

    async fn is_one(&self) -> bool {
        for node in &self.0 {
            let text: String =
                cmd("CLUSTER").arg("INFO").query_async(&mut node.connection().await).await.unwrap();
            if !(text.contains("cluster_state:ok") && text.contains("cluster_known_nodes:3")) {
                return false;
            }
        }
        true
    }

    async fn read(&self) -> Keys {
        let mut keys = Keys::new();
        for node in &self.0 {
            let here = read(&mut node.connection().await).await;
            assert!(!here.is_empty(), "each node has some");
            keys.extend(here);
        }
        keys
    }

    fn url(&self) -> String {
        self.0[0].url()
    }

    /// Gives a slot with all its keys to the next node.
    async fn move_slot_of(&self, key: &str) {
        let mut first = self.0[0].connection().await;
        let slot: u16 = cmd("CLUSTER").arg("KEYSLOT").arg(key).query_async(&mut first).await.unwrap();
        let from = usize::from(slot) * 3 / 16_384;
        let (source, target) = (&self.0[from], &self.0[(from + 1) % 3]);
        let (mut here, mut there) = (source.connection().await, target.connection().await);
        let source_id: String = cmd("CLUSTER").arg("MYID").query_async(&mut here).await.unwrap();
        let target_id: String = cmd("CLUSTER").arg("MYID").query_async(&mut there).await.unwrap();
        let set = |word: &str, id: &str| cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(word).arg(id).clone();
        set("IMPORTING", &source_id).exec_async(&mut there).await.unwrap();
        set("MIGRATING", &target_id).exec_async(&mut here).await.unwrap();
        let keys: Vec<String> =
            cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(1000).query_async(&mut here).await.unwrap();
        for key in keys {
            let mut migrate = cmd("MIGRATE");
            migrate
                .arg("127.0.0.1")
                .arg(target.port())
                .arg(key)
                .arg(0)
                .arg(5000)
                .exec_async(&mut here)
                .await
                .unwrap();
        }
        for node in &self.0 {
            set("NODE", &target_id).exec_async(&mut node.connection().await).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_becomes_a_cluster_and_a_cluster_a_server() {
    let (old, cluster, new) = tokio::join!(Redis::start(), Cluster::start(), Redis::start());
    fill(&mut old.connection().await, 700).await;
    let before = read(&mut old.connection().await).await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");

    let into = Migrate::from(&old.url(), &state).to("cluster", &cluster.url()).with(&["--rest", "cluster"]);
    into.run().await.expect(0);
    assert_same(&before, &cluster.read().await);

    let back =
        Migrate::from(&cluster.url(), &state).to("new", &new.url()).with(&["--rest", "new", "--delete"]);
    back.run().await.expect(0);
    assert_same(&before, &read(&mut new.connection().await).await);
    for node in &cluster.0 {
        assert_eq!(read(&mut node.connection().await).await, Keys::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_pieces_into_a_cluster_and_renamed_to_its_hash_tags() {
    let (old, cluster) = tokio::join!(Redis::start(), Cluster::start());
    fill(&mut old.connection().await, 300).await;
    let directory = tempfile::tempdir().unwrap();
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("cluster", &cluster.url());
    let migrate = migrate
        .rule("nest:*=cluster:{nest}:")
        .rule("session:*=cluster:{nest}:session:")
        .rule("express:=cluster:{express}:");
    migrate.with(&["--rest", "cluster", "--pieces-above", "1B"]).run().await.expect(0);
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
    assert_same(&expected, &cluster.read().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_meanwhile_is_followed() {
    let (old, cluster) = tokio::join!(Redis::start(), Cluster::start());
    fill(&mut old.connection().await, 400).await;
    let directory = tempfile::tempdir().unwrap();
    // All of them are in one slot.
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("cluster", &cluster.url());
    let mut process = migrate.with(&["--rest", "cluster:{nest}:", "--rate", "200"]).start();
    let some = async || {
        for node in &cluster.0 {
            if count(&mut node.connection().await).await > 0 {
                return Some(());
            }
        }
        None
    };
    until("some have come", some).await;
    cluster.move_slot_of("{nest}").await;
    finish(&mut process).await.expect(0);
    let mut found = Keys::new();
    for node in &cluster.0 {
        found.extend(read(&mut node.connection().await).await);
    }
    // Moving a slot costs the TTLs of its keys some milliseconds, which are not ours.
    let expected = renamed(&read(&mut old.connection().await).await, "", "{nest}:");
    assert_same(&about(expected, &found, 900), &found);
}
