//! Changes of watched keys, reported by Redis or found by the sweep.

use std::time::Duration;

use earshot::store::{KeyType, KeyValue, TrackingMode};

use crate::harness::{Redis, Store, bytes, until};

#[tokio::test]
async fn reports_changes_of_keys_of_each_type() {
    let redis = Redis::start().await;
    // Nothing but the invalidation wakes the link.
    let store = Store::start(&redis, |settings| settings.ping_interval = Duration::from_secs(3600));
    store.wait_until_tracking().await;
    let _: () = redis.run(&["SET", "sess:text", "1"]).await;
    let _: u64 = redis.run(&["HSET", "sess:hash", "user", "ada"]).await;
    let (value, _text) = store.store.read_and_watch(b"sess:text", KeyType::String).await.unwrap();
    assert_eq!(value, bytes("1"));
    let (_, _hash) = store.store.read_and_watch(b"sess:hash", KeyType::Hash).await.unwrap();
    let (value, _denied) = store.store.read_and_watch(b"sess:denied", KeyType::Exists).await.unwrap();
    assert_eq!((value, store.store.status().watched_keys), (None, 3));

    let _: () = redis.run(&["SET", "sess:text", "2"]).await;
    store.changes.wait_for("sess:text", bytes("2")).await;
    let _: u64 = redis.run(&["HSET", "sess:hash", "user", "eve"]).await;
    let hash = KeyValue::Hash(vec![("user".into(), "eve".into())]);
    store.changes.wait_for("sess:hash", Some(hash)).await;
    let _: () = redis.run(&["SET", "sess:denied", "1", "EX", "100"]).await;
    store.changes.wait_for("sess:denied", Some(KeyValue::Present)).await;
    let _: u64 = redis.run(&["DEL", "sess:text", "sess:hash", "sess:denied"]).await;
    for key in ["sess:text", "sess:hash", "sess:denied"] {
        store.changes.wait_for(key, None).await;
    }
    assert_eq!(store.changes.all().len(), 6, "{:?}", store.changes.all());
    assert_eq!(store.store.metrics().endings.value(), 3);
}

#[tokio::test]
async fn reports_a_key_that_expires() {
    let redis = Redis::start_with(&["--enable-debug-command", "local"]).await;
    let store = Store::start(&redis, |_| ());
    store.wait_until_tracking().await;
    // Redis then deletes no expired key by itself, so it reports none.
    let _: () = redis.run(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    let _: () = redis.run(&["SET", "sess:a", "1", "PX", "700"]).await;
    let (_, _guard) = store.store.read_and_watch(b"sess:a", KeyType::String).await.unwrap();
    store.changes.wait_for("sess:a", None).await;
}

#[tokio::test]
async fn the_first_value_of_a_watched_key_is_reported() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    let _: () = redis.run(&["SET", "sess:a", "1"]).await;
    let _guards =
        (store.store.watch(b"sess:a", KeyType::String), store.store.watch(b"sess:b", KeyType::Hash));
    store.changes.wait_for("sess:a", bytes("1")).await;
    store.changes.wait_for("sess:b", None).await;
}

#[tokio::test]
async fn a_key_without_a_guard_is_not_read() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    store.wait_until_tracking().await;
    let guards =
        (store.store.watch(b"sess:a", KeyType::String), store.store.watch(b"sess:a", KeyType::String));
    store.wait_until_rereads(1).await;
    assert_eq!(store.store.status().watched_keys, 1, "watchers share an entry");
    drop(guards);
    assert_eq!(store.store.status().watched_keys, 0);
    let (_, _other) = store.store.read_and_watch(b"sess:b", KeyType::String).await.unwrap();
    let _: () = redis.run(&["SET", "sess:a", "1"]).await;
    let _: () = redis.run(&["SET", "sess:b", "1"]).await;
    store.changes.wait_for("sess:b", bytes("1")).await;
    assert!(store.changes.all().iter().all(|(key, value)| key == "sess:b" || value.is_none()));
    assert_eq!(store.store.metrics().invalidations.value(), 2);
    assert_eq!(store.store.metrics().watched_invalidations.value(), 1);
}

#[tokio::test]
async fn one_deletion_among_many_watched_keys_costs_one_read() {
    const KEYS: usize = 10_000;
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ());
    store.wait_until_tracking().await;
    let mut pipeline = redis::Pipeline::new();
    for number in 0..KEYS {
        pipeline.cmd("SET").arg(format!("sess:{number}")).arg("{}").arg("EX").arg(3600).ignore();
    }
    pipeline.exec_async(&mut redis.connection().await).await.unwrap();
    let keys: Vec<_> = (0..KEYS).map(|number| format!("sess:{number}")).collect();
    let reads = keys.iter().map(|key| store.store.read_and_watch(key.as_bytes(), KeyType::String));
    let guards = futures::future::try_join_all(reads).await.unwrap();
    assert_eq!(guards.len(), store.store.status().watched_keys);
    let _: () = redis.run(&["CONFIG", "RESETSTAT"]).await;
    let _: u64 = redis.run(&["DEL", "sess:4711"]).await;
    store.changes.wait_for("sess:4711", None).await;
    assert_eq!((redis.calls("get").await, redis.calls("mget").await), (1, 0));
    assert_eq!(store.changes.all().len(), 1);
}

#[tokio::test]
async fn a_key_that_changes_often_is_read_seldom() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |settings| settings.reread_interval_min = Duration::from_secs(3600));
    store.wait_until_tracking().await;
    let (_, _guard) = store.store.read_and_watch(b"sess:a", KeyType::String).await.unwrap();
    for number in 0..100 {
        let _: () = redis.run(&["SET", "sess:a", &number.to_string()]).await;
    }
    until("all changes are reported by Redis", async || {
        (store.store.metrics().watched_invalidations.value() == 100).then_some(())
    })
    .await;
    assert_eq!(store.store.metrics().rereads.value(), 0);
}

/// Runs a store as a user with restricted permissions, which finds a deletion by the sweep.
async fn sweeps(redis: Redis, permissions: &[&str]) -> String {
    let user = [&["ACL", "SETUSER", "web", "on", ">secret", "~*", "+@all"], permissions].concat();
    let _: () = redis.run(&user).await;
    let store = Store::start(&redis, |settings| {
        settings.connection.url = format!("redis://web:secret@127.0.0.1:{}", redis.port());
        settings.sweep_interval = Duration::from_millis(300);
    });
    let _: () = redis.run(&["SET", "sess:a", "1"]).await;
    let (value, _guard) = store.store.read_and_watch(b"sess:a", KeyType::String).await.unwrap();
    assert_eq!(value, bytes("1"));
    // The first read after the deletion may be the one after the link was connected.
    store.wait_until_rereads(3).await;
    let _: u64 = redis.run(&["DEL", "sess:a"]).await;
    store.changes.wait_for("sess:a", None).await;
    until("the reason is shown", async || match store.store.status().tracking {
        TrackingMode::Sweep { reason } if reason != "not connected yet" => Some(reason),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn without_permission_to_track_keys_are_swept() {
    let reason = sweeps(Redis::start().await, &["-client|tracking"]).await;
    assert!(reason.contains("CLIENT TRACKING: NOPERM"), "{reason}");
}

#[tokio::test]
async fn without_resp3_keys_are_swept() {
    let reason = sweeps(Redis::start_with(&["--rename-command", "HELLO", ""]).await, &[]).await;
    assert!(reason.contains("does not support HELLO 3"), "{reason}");
}

#[tokio::test]
async fn without_permission_to_query_the_role_a_server_counts_as_a_primary() {
    let reason = sweeps(Redis::start().await, &["-client|tracking", "-role"]).await;
    assert!(reason.contains("NOPERM"), "{reason}");
}

#[tokio::test]
async fn a_key_outside_of_the_prefixes_is_swept() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |settings| settings.sweep_interval = Duration::from_millis(300));
    store.wait_until_tracking().await;
    let _: () = redis.run(&["SET", "other", "1"]).await;
    let (_, _guard) = store.store.read_and_watch(b"other", KeyType::String).await.unwrap();
    let _: u64 = redis.run(&["DEL", "other"]).await;
    store.changes.wait_for("other", None).await;
    assert_eq!(store.store.metrics().invalidations.value(), 0);
}
