//! A cluster: each key is read at the primary that owns its slot, and each primary reports changes.

use std::time::Duration;

use earshot::store::{KeyType, KeyValue, StoreError, StoreSettings};
use earshot_redis_link::NodeAddress;
use earshot_redis_link::slot::slot;

use crate::harness::{Redis, Store, TAKE, bytes, free_port, until};

const RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// Three primaries without replicas.
struct Cluster(Vec<Redis>);

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for (first, last) in RANGES {
            let bus = free_port().to_string();
            let arguments = [
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", "1000"],
                ["--cluster-require-full-coverage", "no"],
                ["--cluster-port", &bus],
            ];
            let node = Redis::start_with(arguments.as_flattened()).await;
            let _: () = node.run(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            let epoch = (nodes.len() + 1).to_string();
            let _: () = node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            nodes.push((node, bus));
        }
        let (first, bus) = &nodes[0];
        for (node, _) in &nodes[1..] {
            let _: () = node.run(&["CLUSTER", "MEET", "127.0.0.1", &first.port().to_string(), bus]).await;
        }
        let cluster = Self(nodes.into_iter().map(|(node, _)| node).collect());
        for node in &cluster.0 {
            until("the node knows all slots", async || {
                let info: String = node.run(&["CLUSTER", "INFO"]).await;
                (info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")).then_some(())
            })
            .await;
        }
        cluster
    }

    fn owner(key: &str) -> usize {
        let slot = slot(key);
        RANGES.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap()
    }

    /// A key of each node.
    fn keys() -> Vec<String> {
        let key_of = |node| (0..).map(|number| format!("sess:{number}")).find(|key| Self::owner(key) == node);
        (0..RANGES.len()).filter_map(key_of).collect()
    }

    /// Starts a store with the first two nodes as seeds.
    fn store(&self, change: impl FnOnce(&mut StoreSettings)) -> Store {
        let seed = NodeAddress { host: "127.0.0.1".to_owned(), port: self.0[1].port() };
        Store::start(&self.0[0], |settings| {
            settings.connection.cluster = Some(vec![seed]);
            settings.ping_interval = Duration::from_millis(100);
            change(settings);
        })
    }

    /// Moves a slot to another node, with the given key if that exists.
    async fn move_slot(&self, key: &str, from: usize, to: usize) {
        let slot = slot(key).to_string();
        let source: String = self.0[from].run(&["CLUSTER", "MYID"]).await;
        let target: String = self.0[to].run(&["CLUSTER", "MYID"]).await;
        let _: () = self.0[to].run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        let _: () = self.0[from].run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        let port = self.0[to].port().to_string();
        let _: String = self.0[from].run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
        for node in [to, from] {
            let _: () = self.0[node].run(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    }
}

#[tokio::test]
async fn changes_at_each_node_are_reported() {
    let cluster = Cluster::start().await;
    let store = cluster.store(|_| ());
    store.wait_until_tracking().await;
    let mut guards = Vec::new();
    for (key, node) in Cluster::keys().iter().zip(&cluster.0) {
        let _: () = node.run(&["SET", key, "1"]).await;
        let (value, guard) = store.store.read_and_watch(key.as_bytes(), KeyType::String).await.unwrap();
        assert_eq!(value, bytes("1"), "{key}");
        guards.push(guard);
    }
    for (key, node) in Cluster::keys().iter().zip(&cluster.0) {
        let _: u64 = node.run(&["DEL", key]).await;
        store.changes.wait_for(key, None).await;
    }
    let minute = Duration::from_secs(60);
    for key in Cluster::keys() {
        store.store.set(key.as_bytes(), b"ticket", minute).await.unwrap();
        assert_eq!(
            store.store.read_by_script(key.as_bytes(), TAKE).await.unwrap().as_deref(),
            Some(&b"ticket"[..])
        );
    }
}

#[tokio::test]
async fn a_key_that_moves_to_another_node_stays_watched() {
    let cluster = Cluster::start().await;
    let store = cluster.store(|_| ());
    store.wait_until_tracking().await;
    let key = &Cluster::keys()[0];
    let _: () = cluster.0[0].run(&["SET", key, "1"]).await;
    let (_, _guard) = store.store.read_and_watch(key.as_bytes(), KeyType::String).await.unwrap();
    cluster.move_slot(key, 0, 2).await;
    until("the key is read at its new node", async || {
        (store.store.read(key.as_bytes(), KeyType::String).await == Ok(bytes("1"))).then_some(())
    })
    .await;
    store.wait_until_tracking().await;
    assert!(store.changes.all().is_empty(), "the move is no change: {:?}", store.changes.all());
    let _: u64 = cluster.0[2].run(&["DEL", key]).await;
    store.changes.wait_for(key, None).await;
}

#[tokio::test]
async fn a_missing_key_whose_slot_moves_stays_watched() {
    let cluster = Cluster::start().await;
    let store = cluster.store(|_| ());
    store.wait_until_tracking().await;
    let key = &Cluster::keys()[0];
    let (value, _guard) = store.store.read_and_watch(key.as_bytes(), KeyType::Exists).await.unwrap();
    assert_eq!(value, None);
    cluster.move_slot(key, 0, 2).await;
    let _: () = cluster.0[2].run(&["SET", key, "1"]).await;
    store.changes.wait_for(key, Some(KeyValue::Present)).await;
}

#[tokio::test]
async fn a_node_that_is_down_ends_nothing_and_does_not_affect_the_others() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store(|settings| settings.disconnect_window = Duration::from_secs(3600));
    store.wait_until_tracking().await;
    let mut guards = Vec::new();
    for (key, node) in Cluster::keys().iter().zip(&cluster.0) {
        let _: () = node.run(&["SET", key, "1"]).await;
        guards.push(store.store.read_and_watch(key.as_bytes(), KeyType::String).await.unwrap().1);
    }
    let keys = Cluster::keys();
    cluster.0[0].kill();
    until("keys of the other nodes are read", async || {
        let down = store.store.read(keys[0].as_bytes(), KeyType::String).await;
        let other = store.store.read(keys[2].as_bytes(), KeyType::String).await;
        (matches!(down, Err(StoreError::Unavailable(_))) && other == Ok(bytes("1"))).then_some(())
    })
    .await;
    store.wait_until_tracking().await;
    let _: () = cluster.0[2].run(&["SET", &keys[2], "2"]).await;
    store.changes.wait_for(&keys[2], bytes("2")).await;
    assert!(store.changes.missing().is_empty(), "{:?}", store.changes.all());

    cluster.0[0].restart().await;
    store.changes.wait_for(&keys[0], None).await;
    assert_eq!(store.changes.missing().len(), 1, "the empty node lacks only its own key");
}
