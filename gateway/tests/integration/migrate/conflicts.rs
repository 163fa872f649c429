//! Keys that exist at the target: skipped, overwritten, or the end of the run; equal ones are not conflicts.

use redis::aio::MultiplexedConnection;
use redis::cmd;

use super::running::{Migrate, keys};
use crate::harness::Redis;

/// A source with three keys, and a target where one is equal, one differs and one is missing.
async fn servers() -> (Redis, Redis, tempfile::TempDir) {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    let (mut here, mut there) = (old.connection().await, new.connection().await);
    let hash = |connection: MultiplexedConnection, value: &'static str| async move {
        let mut connection = connection;
        let mut call = cmd("HSET");
        // More fields than a listpack holds: two servers DUMP the same hash differently.
        call.arg("same");
        for field in 0..600 {
            call.arg(format!("field {field}")).arg(value);
        }
        call.exec_async(&mut connection).await.unwrap();
    };
    hash(here.clone(), "v").await;
    hash(there.clone(), "v").await;
    cmd("MSET").arg(&["other", "theirs", "missing", "m"]).exec_async(&mut here).await.unwrap();
    cmd("RPUSH").arg("other").arg("ours").exec_async(&mut there).await.unwrap();
    (old, new, tempfile::tempdir().unwrap())
}

fn migrate(old: &Redis, new: &Redis, directory: &tempfile::TempDir, conflict: &str) -> Migrate {
    Migrate::from(&old.url(), &directory.path().join("state")).to("new", &new.url()).with(&[
        "--rest",
        "new",
        "--conflict",
        conflict,
    ])
}

async fn kind(redis: &Redis, key: &str) -> String {
    cmd("TYPE").arg(key).query_async(&mut redis.connection().await).await.unwrap()
}

#[tokio::test]
async fn skipped_conflicts_are_reported() {
    let (old, new, directory) = servers().await;
    let ended = migrate(&old, &new, &directory, "skip").run().await.expect(1);
    for (count, what) in
        [(1, "keys moved"), (1, "existed at the target with the same value"), (1, "were skipped")]
    {
        assert_eq!(ended.sum(what), count, "{what}: {}", ended.text);
    }
    assert!(
        ended.text.contains("\"other\" → new \"other\": type: string at the source, list at the target"),
        "{}",
        ended.text
    );
    assert_eq!(
        (kind(&new, "other").await.as_str(), kind(&new, "missing").await.as_str()),
        ("list", "string")
    );
}

#[tokio::test]
async fn conflicts_are_overwritten_on_request() {
    let (old, new, directory) = servers().await;
    let ended = migrate(&old, &new, &directory, "overwrite").run().await.expect(0);
    for (count, what) in [
        (2, "keys moved"),
        (1, "of them overwrote existing keys"),
        (1, "existed at the target with the same value"),
    ] {
        assert_eq!(ended.sum(what), count, "{what}: {}", ended.text);
    }
    assert_eq!(keys(&old).await, keys(&new).await);
}

#[tokio::test]
async fn run_ended_by_a_conflict_can_be_resumed() {
    let (old, new, directory) = servers().await;
    for _ in 0..2 {
        let ended = migrate(&old, &new, &directory, "fail").run().await.expect(1);
        assert!(ended.text.contains("\"other\" exists at new and differs"), "{}", ended.text);
        assert_eq!(kind(&new, "other").await, "list");
    }
    migrate(&old, &new, &directory, "overwrite").run().await.expect(0);
    assert_eq!(keys(&old).await, keys(&new).await);
}

#[tokio::test]
async fn different_ttl_is_a_conflict() {
    let (old, new, directory) = servers().await;
    let mut there = new.connection().await;
    cmd("DEL").arg("other").exec_async(&mut there).await.unwrap();
    cmd("EXPIRE").arg("same").arg(1000).exec_async(&mut there).await.unwrap();
    let ended = migrate(&old, &new, &directory, "fail").run().await.expect(1);
    assert!(
        ended.text.contains("\"same\" exists at new and differs") && ended.text.contains("expiry"),
        "{}",
        ended.text
    );
    migrate(&old, &new, &directory, "overwrite").run().await.expect(0);
    assert_eq!(keys(&old).await, keys(&new).await);
}
