//! Reads and writes.

use std::time::Duration;

use earshot::store::{KeyType, KeyValue, StoreError, TrackingMode};

use crate::harness::{Redis, Store, TAKE, bytes, until};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn reads_each_type() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ()).store;
    let _: () = redis.run(&["SET", "text", "value"]).await;
    let _: u64 = redis.run(&["HSET", "hash", "user", "ada"]).await;
    let hash = KeyValue::Hash(vec![("user".into(), "ada".into())]);
    for (key, kind, value) in [
        ("text", KeyType::String, Ok(bytes("value"))),
        ("text", KeyType::Exists, Ok(Some(KeyValue::Present))),
        ("text", KeyType::Hash, Err(StoreError::WrongType)),
        ("hash", KeyType::Hash, Ok(Some(hash))),
        ("hash", KeyType::String, Err(StoreError::WrongType)),
        ("none", KeyType::String, Ok(None)),
        ("none", KeyType::Hash, Ok(None)),
        ("none", KeyType::Exists, Ok(None)),
    ] {
        assert_eq!(store.read(key.as_bytes(), kind).await, value, "{key} as {kind:?}");
    }
    assert_eq!((store.metrics().reads.value(), store.metrics().read_errors.value()), (8, 2));
}

#[tokio::test]
async fn concurrent_reads_share_pipelines() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ()).store;
    let _: () = redis.run(&["SET", "a", "1"]).await;
    let reads = (0..2000).map(|_| store.read(b"a", KeyType::String));
    let values = futures::future::join_all(reads).await;
    assert!(values.iter().all(|value| *value == Ok(bytes("1"))));
}

#[tokio::test]
async fn writes_reach_redis() {
    let redis = Redis::start().await;
    let store = Store::start(&redis, |_| ()).store;
    store.set(b"a", b"1", MINUTE).await.unwrap();
    let ttl = async || redis.run::<i64>(&["PTTL", "a"]).await;
    assert!((1..=60_000).contains(&ttl().await));
    assert_eq!(store.touch(b"a", 10 * MINUTE).await, Ok(true));
    assert!(ttl().await > 60_000);
    assert_eq!(store.touch(b"a", MINUTE).await, Ok(false), "never shortens a TTL");
    assert!(ttl().await > 60_000);
    assert_eq!(store.touch(b"none", MINUTE).await, Ok(false));
    let _: () = redis.run(&["SET", "forever", "1"]).await;
    assert_eq!(store.touch(b"forever", MINUTE).await, Ok(false), "gives no TTL to a key without");
    assert_eq!(store.delete(b"a").await, Ok(true));
    assert_eq!(store.delete(b"a").await, Ok(false));
}

#[tokio::test]
async fn only_one_of_several_takers_gets_a_value() {
    let redis = Redis::start().await;
    let stores: Vec<_> = (0..2).map(|_| Store::start(&redis, |_| ()).store).collect();
    stores[0].set(b"ticket", b"ada", MINUTE).await.unwrap();
    let takes = (0..20).map(|number| stores[number % 2].read_by_script(b"ticket", TAKE));
    let taken: Vec<_> = futures::future::join_all(takes).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(taken.iter().flatten().collect::<Vec<_>>(), [&b"ada"[..]]);
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused() {
    let redis = Redis::start().await;
    for (items, size) in [(1, 1_000_000), (1000, 200)] {
        let store = Store::start(&redis, |settings| {
            settings.queue_items = items;
            settings.queue_bytes = size;
            settings.connection.command_timeout = Duration::from_secs(1);
        });
        let read = || store.store.read(b"a", KeyType::String);
        read().await.unwrap();
        redis.signal("STOP");
        let (first, second) = futures::future::join(read(), read()).await;
        assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
        assert_eq!(second, Err(StoreError::Busy), "{items} requests, {size} bytes");
        redis.signal("CONT");
        until("there is room again", async || read().await.ok()).await;
    }
}

#[tokio::test]
async fn a_missing_password_is_reported() {
    let redis = Redis::start().await;
    let _: () = redis.run(&["CONFIG", "SET", "requirepass", "secret"]).await;
    let store = Store::start(&redis, |_| ()).store;
    let status = until("the error is shown", async || {
        Some(store.status()).filter(|status| !status.last_error.is_empty())
    })
    .await;
    assert!(status.last_error.contains("NOAUTH") && !status.connected, "{status:?}");
    assert!(matches!(status.tracking, TrackingMode::Sweep { .. }));
}

#[tokio::test]
async fn a_rejected_command_is_reported() {
    let redis = Redis::start().await;
    let _: () = redis.run(&["ACL", "SETUSER", "web", "on", ">secret", "~sess:*", "+@all"]).await;
    let store = Store::start(&redis, |settings| {
        settings.connection.url = format!("redis://web:secret@127.0.0.1:{}", redis.port());
    });
    let read = store.store.read(b"other", KeyType::String).await;
    assert!(matches!(&read, Err(StoreError::Rejected(text)) if text.contains("NOPERM")), "{read:?}");
    let status = store.store.status();
    assert!(status.last_error.contains("NOPERM") && status.connected, "{status:?}");
    let _guard = store.store.watch(b"other", KeyType::String);
    store.wait_until_rereads(1).await;
    assert!(store.changes.all().is_empty(), "a key that cannot be read is not missing");
}
