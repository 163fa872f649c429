//! Failures: a missing key is reported only when a primary lacks it, and never for all keys at once.

use std::time::Duration;

use earshot::store::{KeyType, ServerRole, StoreError, WatchGuard};

use crate::harness::{Redis, Store, bytes, until};

const KEYS: usize = 10;
const HOUR: Duration = Duration::from_secs(3600);

/// Stores and watches the keys `sess:0` to `sess:9`.
async fn watch_keys(redis: &Redis, store: &Store) -> Vec<WatchGuard> {
    store.wait_until_tracking().await;
    let mut guards = Vec::new();
    for number in 0..KEYS {
        let key = format!("sess:{number}");
        let _: () = redis.run(&["SET", &key, "1"]).await;
        guards.push(store.store.read_and_watch(key.as_bytes(), KeyType::String).await.unwrap().1);
    }
    guards
}

async fn wait_for_pending(store: &Store, pending: usize) {
    until(&format!("{pending} pending endings"), async || {
        (store.store.status().pending_endings == pending).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_lost_its_data_ends_few_keys_at_a_time() {
    let mut redis = Redis::start().await;
    let store = Store::start(&redis, |settings| settings.disconnect_window = HOUR);
    let _guards = watch_keys(&redis, &store).await;
    redis.restart().await;
    wait_for_pending(&store, KEYS - 1).await;
    store.wait_until_tracking().await;
    let missing = store.changes.missing();
    assert_eq!(missing.len(), 1, "the first one only: {missing:?}");

    let restored: Vec<_> = (0..KEYS).map(|number| format!("sess:{number}")).collect();
    for key in restored.iter().filter(|key| !missing.contains(key)) {
        let _: () = redis.run(&["SET", key, "1"]).await;
    }
    wait_for_pending(&store, 0).await;
    assert_eq!(store.changes.missing().len(), 1, "a key that is back is not reported");
    assert_eq!(store.changes.all().len(), 1, "its value is the same");
}

#[tokio::test]
async fn without_tracking_lost_data_is_found_after_the_reconnect() {
    let mut redis = Redis::start().await;
    let store = Store::start(&redis, |settings| {
        settings.disconnect_window = HOUR;
        settings.prefixes.clear();
    });
    let mut guards = Vec::new();
    for number in 0..KEYS {
        let key = format!("sess:{number}");
        let _: () = redis.run(&["SET", &key, "1"]).await;
        guards.push(store.store.read_and_watch(key.as_bytes(), KeyType::String).await.unwrap().1);
    }
    redis.restart().await;
    wait_for_pending(&store, KEYS - 1).await;
    assert_eq!(store.changes.missing().len(), 1);
}

#[tokio::test]
async fn all_missing_keys_are_reported_within_the_window() {
    let mut redis = Redis::start().await;
    let store = Store::start(&redis, |settings| settings.disconnect_window = Duration::from_secs(2));
    let _guards = watch_keys(&redis, &store).await;
    redis.restart().await;
    until("all are missing", async || (store.changes.missing().len() == KEYS).then_some(())).await;
    assert_eq!(store.store.status().pending_endings, 0);
}

#[tokio::test]
async fn a_flush_counts_as_lost_data() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |settings| settings.disconnect_window = HOUR);
    let _guards = watch_keys(&redis, &store).await;
    let _: () = redis.run(&["FLUSHALL"]).await;
    wait_for_pending(&store, KEYS - 1).await;
    assert_eq!((store.changes.missing().len(), store.store.metrics().flushes.value()), (1, 1));
}

#[tokio::test]
async fn a_server_that_hangs_ends_nothing() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |settings| {
        settings.connection.command_timeout = Duration::from_millis(300);
        settings.connection.connect_timeout = Duration::from_millis(300);
        settings.ping_interval = Duration::from_millis(100);
        settings.ping_timeout = Duration::from_millis(300);
    });
    let _guards = watch_keys(&redis, &store).await;
    redis.signal("STOP");
    // Reads of watched keys are in flight, too.
    let _more = store.store.watch(b"sess:1", KeyType::String);
    let read = store.store.read(b"sess:0", KeyType::String).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    until("both links failed", async || {
        let metrics = store.store.metrics();
        (metrics.link_failures.value() > 0 && metrics.tracking_failures.value() > 0).then_some(())
    })
    .await;
    assert!(!store.store.status().connected);
    redis.signal("CONT");
    store.wait_until_tracking().await;
    until("it replies", async || store.store.read(b"sess:0", KeyType::String).await.ok()).await;
    store.changes.wait_for("sess:1", bytes("1")).await;
    assert!(store.changes.missing().is_empty(), "{:?}", store.changes.all());
    let _: u64 = redis.run(&["DEL", "sess:3"]).await;
    store.changes.wait_for("sess:3", None).await;
}

#[tokio::test]
async fn keys_are_read_again_after_the_tracking_link_was_lost() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    let _guards = watch_keys(&redis, &store).await;
    let clients: String = redis.run(&["CLIENT", "LIST"]).await;
    let line = clients.lines().find(|line| line.contains(":tracking ")).unwrap();
    let id = line.split(' ').next().unwrap().strip_prefix("id=").unwrap();
    // The deletion is not reported, since the link ends in the same transaction.
    let mut transaction = redis::Pipeline::new();
    transaction.atomic().cmd("CLIENT").arg("KILL").arg("ID").arg(id).cmd("DEL").arg("sess:4");
    transaction.exec_async(&mut redis.connection().await).await.unwrap();
    store.changes.wait_for("sess:4", None).await;
    store.wait_until_tracking().await;
    let metrics = store.store.metrics();
    assert_eq!((metrics.tracking_failures.value(), metrics.link_failures.value()), (1, 0));
    assert_eq!(store.changes.all().len(), 1);
}

#[tokio::test]
async fn the_tracking_link_follows_the_link_for_reads() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    let _guards = watch_keys(&redis, &store).await;
    let clients: String = redis.run(&["CLIENT", "LIST"]).await;
    let line = clients.lines().find(|line| line.contains(":keys ")).unwrap();
    let id = line.split(' ').next().unwrap().strip_prefix("id=").unwrap();
    let _: u64 = redis.run(&["CLIENT", "KILL", "ID", id]).await;
    until("both links are new", async || {
        let metrics = store.store.metrics();
        (metrics.tracking_failures.value() == 1 && metrics.link_failures.value() == 1).then_some(())
    })
    .await;
    store.wait_until_tracking().await;
    let _: u64 = redis.run(&["DEL", "sess:4"]).await;
    store.changes.wait_for("sess:4", None).await;
}

#[tokio::test]
async fn a_key_that_a_replica_lacks_is_reported_after_its_promotion() {
    let (primary, replica) = (Redis::start().await, Redis::start().await);
    let _: () = replica.run(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let _: () = primary.run(&["SET", "sess:a", "1"]).await;
    until("the replica has the key", async || replica.run::<Option<String>>(&["GET", "sess:a"]).await).await;
    let store = Store::start(&replica, |settings| settings.sweep_interval = Duration::from_millis(300));
    store.wait_until_tracking().await;
    let (value, _guard) = store.store.read_and_watch(b"sess:a", KeyType::String).await.unwrap();
    assert_eq!((value, store.store.status().role), (bytes("1"), ServerRole::Replica));
    let _: u64 = primary.run(&["DEL", "sess:a"]).await;
    let before = store.store.metrics().rereads.value();
    store.wait_until_rereads(before + 1).await;
    until("the deletion is replicated", async || {
        replica.run::<Option<String>>(&["GET", "sess:a"]).await.is_none().then_some(())
    })
    .await;
    assert!(store.changes.all().is_empty(), "{:?}", store.changes.all());
    let _: () = replica.run(&["REPLICAOF", "NO", "ONE"]).await;
    store.changes.wait_for("sess:a", None).await;
    assert_eq!(store.store.status().role, ServerRole::Primary);
}

#[tokio::test]
async fn a_stopped_store_ends_its_connections() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    store.wait_until_tracking().await;
    store.drain.stop().await;
    let read = store.store.read(b"a", KeyType::String).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    until("no connection is left", async || {
        let clients: String = redis.run(&["CLIENT", "LIST"]).await;
        (!clients.contains("earshot:")).then_some(())
    })
    .await;
}
