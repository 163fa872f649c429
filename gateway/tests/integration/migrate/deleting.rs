//! Keys are deleted from the source only on request, and only if the target has their latest value.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::cmd;

use super::running::{Migrate, assert_same, count, finish, keys};
use crate::harness::keyspace::fill;
use crate::harness::{Redis, until};

fn migrate(old: &Redis, new: &Redis, directory: &tempfile::TempDir) -> Migrate {
    let state = directory.path().join("state");
    Migrate::from(&old.url(), &state).to("new", &new.url()).with(&["--rest", "new", "--delete"])
}

#[tokio::test]
async fn only_copied_keys_are_deleted() {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    let (mut here, mut there) = (old.connection().await, new.connection().await);
    fill(&mut here, 1000).await;
    let before = keys(&old).await;
    cmd("SET").arg("nest:2").arg("another").exec_async(&mut there).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let ended = migrate(&old, &new, &directory).with(&["--conflict", "skip"]).run().await.expect(1);
    assert_eq!((ended.sum("keys moved"), ended.sum("deleted from the source")), (999, 999), "{}", ended.text);
    assert_eq!(
        keys(&old).await.into_keys().collect::<Vec<_>>(),
        [b"nest:2".to_vec()],
        "what was left is still there"
    );

    migrate(&old, &new, &directory).with(&["--conflict", "overwrite"]).run().await.expect(0);
    assert_same(&before, &keys(&new).await);
    assert_eq!(count(&mut here).await, 0);
}

#[tokio::test]
async fn chunked_keys_are_deleted() {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    let mut here = old.connection().await;
    fill(&mut here, 300).await;
    let before = keys(&old).await;
    let directory = tempfile::tempdir().unwrap();
    migrate(&old, &new, &directory).with(&["--chunk-threshold", "1B"]).run().await.expect(0);
    assert_same(&before, &keys(&new).await);
    assert_eq!(count(&mut here).await, 0);
}

/// Increments a counter in fifty keys of the source as long as they exist; returns the last confirmed value of each.
async fn writer(old: &Redis, is_over: Arc<AtomicBool>) -> Vec<u64> {
    let mut connection = old.connection().await;
    let mut confirmed = vec![0; 50];
    for number in 1_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut calls = redis::pipe();
        for key in 0..50 {
            calls.cmd("SET").arg(format!("busy:{key}")).arg(number).arg("XX");
        }
        let answers: Vec<Option<String>> = calls.query_async(&mut connection).await.unwrap();
        for (key, answer) in answers.into_iter().enumerate() {
            if answer.is_some() {
                confirmed[key] = number;
            }
        }
    }
    confirmed
}

async fn nothing_is_lost_under(more: &[&str]) {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    let old = Arc::new(old);
    let mut here = old.connection().await;
    fill(&mut here, 150).await;
    for key in 0..50 {
        cmd("SET").arg(format!("busy:{key}")).arg(0).exec_async(&mut here).await.unwrap();
    }
    let (is_over, directory) = (Arc::new(AtomicBool::new(false)), tempfile::tempdir().unwrap());
    let backend = tokio::spawn({
        let (old, is_over) = (old.clone(), is_over.clone());
        async move { writer(&old, is_over).await }
    });
    let mut process = migrate(&old, &new, &directory).with(&["--conflict", "overwrite"]).with(more).start();
    let ended = finish(&mut process).await;
    is_over.store(true, Ordering::Relaxed);
    let confirmed = backend.await.unwrap();

    let mut there = new.connection().await;
    let (mut moved, mut left) = (0, 0);
    for (key, last) in confirmed.into_iter().enumerate() {
        let name = format!("busy:{key}");
        let at_source: Option<u64> = cmd("GET").arg(&name).query_async(&mut here).await.unwrap();
        let at_target: Option<u64> = cmd("GET").arg(&name).query_async(&mut there).await.unwrap();
        match at_source {
            // The key kept changing and was not deleted: the latest value is at the source.
            Some(found) => {
                left += 1;
                assert_eq!(found, last, "{name}");
            }
            None => {
                moved += 1;
                assert_eq!(
                    at_target,
                    Some(last),
                    "{name} was deleted with a value that the target does not have"
                );
            }
        }
    }
    eprintln!("{moved} moved and {left} left under a writer: {}", ended.text);
    assert_eq!(ended.code(), Some(i32::from(left > 0)), "{}", ended.text);
    // Without a writer, the remaining keys are migrated.
    migrate(&old, &new, &directory).with(&["--conflict", "overwrite"]).run().await.expect(0);
    assert_eq!(count(&mut here).await, 0);
    assert_eq!(count(&mut there).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_are_not_lost() {
    nothing_is_lost_under(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_are_not_lost_in_chunked_copies() {
    nothing_is_lost_under(&["--chunk-threshold", "1B"]).await;
}

#[tokio::test]
async fn keys_are_renamed_within_one_keyspace() {
    let old = Redis::start().await;
    let mut here = old.connection().await;
    for key in ["room:1", "room:2", "express:user:1"] {
        cmd("SETEX").arg(key).arg(5000).arg(key).exec_async(&mut here).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let rename = || {
        let state = directory.path().join("state");
        let migrate =
            Migrate::from(&old.url(), &state).to("express", &old.url().replace("127.0.0.1", "localhost"));
        migrate.rule("room:*=express:express:room:").rule("express:*=express").with(&["--delete"])
    };
    for _ in 0..2 {
        rename().run().await.expect(0);
        let mut names: Vec<String> = cmd("KEYS").arg("*").query_async(&mut here).await.unwrap();
        names.sort();
        assert_eq!(names, ["express:room:1", "express:room:2", "express:user:1"]);
    }
    // Another database of the same server is another keyspace.
    let other = old.url().replace("/0", "/5");
    let migrate = Migrate::from(&old.url(), &directory.path().join("state"))
        .to("other", &other)
        .with(&["--rest", "other", "--delete"]);
    migrate.run().await.expect(0);
    assert_eq!(count(&mut here).await, 0);
    cmd("SELECT").arg(5).exec_async(&mut here).await.unwrap();
    assert_eq!(count(&mut here).await, 3);
}

#[tokio::test]
async fn expiring_keys_are_not_failures() {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    let mut here = old.connection().await;
    fill(&mut here, 200).await;
    for key in 0..200 {
        cmd("SET")
            .arg(format!("brief:{key}"))
            .arg("x")
            .arg("PX")
            .arg(300 + 10 * key)
            .exec_async(&mut here)
            .await
            .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    // Slow enough that keys expire during every step.
    let state = directory.path().join("state");
    let migrate =
        Migrate::from(&old.url(), &state).to("new", &new.url()).with(&["--rest", "new", "--rate", "200"]);
    migrate.run().await.expect(0);
    until("the last one ends", async || (count(&mut here).await == 200).then_some(())).await;
    let mut there = new.connection().await;
    until("also at the target", async || (count(&mut there).await == 200).then_some(())).await;
    assert_same(&keys(&old).await, &keys(&new).await);
}
