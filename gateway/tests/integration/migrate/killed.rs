//! A migration that is killed, stopped or loses its servers can be resumed: no key is lost or copied twice.

use std::path::{Path, PathBuf};

use redis::cmd;

use super::running::{Ended, Migrate, assert_same, count, finish, keys};
use crate::harness::keyspace::{Keys, fill, size};
use crate::harness::{Redis, exclusive, until};

/// Number of times a run is killed.
const KILLS: usize = 8;

/// One source, one target, and how they are migrated.
struct Pair {
    old: Redis,
    new: Redis,
    directory: tempfile::TempDir,
    before: Keys,
}

impl Pair {
    async fn start(number: usize) -> Self {
        let (old, new) = tokio::join!(Redis::start(), Redis::start());
        Self::between(old, new, number).await
    }

    async fn between(old: Redis, new: Redis, number: usize) -> Self {
        fill(&mut old.connection().await, number).await;
        let before = keys(&old).await;
        Self { old, new, directory: tempfile::tempdir().unwrap(), before }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn migrate(&self, more: &[&str]) -> Migrate {
        Migrate::from(&self.old.url(), &self.state())
            .to("new", &self.new.url())
            .with(&["--rest", "new"])
            .with(more)
    }

    /// Kills a run repeatedly after a random number of keys, then lets one finish.
    async fn kill_and_finish(&self, more: &[&str]) -> Ended {
        let mut new = self.new.connection().await;
        for kill in 1..=KILLS {
            let from = count(&mut new).await;
            let threshold = from + fastrand::usize(1..=self.before.len() / KILLS);
            let mut process = self.migrate(more).start();
            let has_ended = until(&format!("kill {kill}"), async || {
                let has_come = count(&mut new).await >= threshold;
                process.exit_status().map(|_| true).or(has_come.then_some(false))
            })
            .await;
            if has_ended {
                // The run finished before it was killed, near the end of the keys.
                assert!(kill > KILLS / 2, "killed {} times: {}", kill - 1, process.log());
                return finish(&mut process).await.expect(0);
            }
            process.kill();
        }
        self.migrate(more).run().await.expect(0)
    }
}

/// Asserts the totals of a resumed run: each key was copied once.
#[track_caller]
fn assert_each_once(ended: &Ended, total: usize) {
    assert!(ended.text.contains("resumed an earlier run"), "{}", ended.text);
    assert_eq!(
        (ended.sum("keys moved"), ended.sum("with the same value")),
        (total as u64, 0),
        "{}",
        ended.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_run_resumes_and_copies_each_key_once() {
    let _exclusive = exclusive().await;
    let pair = Pair::start(size()).await;
    let ended = pair.kill_and_finish(&[]).await;
    assert_each_once(&ended, size());
    assert_same(&pair.before, &keys(&pair.new).await);
    assert_same(&pair.before, &keys(&pair.old).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_run_with_delete_loses_no_key() {
    let _exclusive = exclusive().await;
    let pair = Pair::start(size()).await;
    let ended = pair.kill_and_finish(&["--delete"]).await;
    assert_each_once(&ended, size());
    assert_eq!(ended.sum("deleted from the source"), size() as u64, "{}", ended.text);
    assert_same(&pair.before, &keys(&pair.new).await);
    assert_eq!(count(&mut pair.old.connection().await).await, 0);
}

#[tokio::test]
async fn stopped_run_resumes() {
    let pair = Pair::start(1500).await;
    let mut new = pair.new.connection().await;
    for signal in ["INT", "TERM"] {
        let from = count(&mut new).await;
        let mut process = pair.migrate(&["--rate", "40"]).start();
        until("some have come", async || (count(&mut new).await > from).then_some(())).await;
        // Meanwhile an unlimited run copies all keys to another server, in chunks.
        let (fast, state) = (Redis::start().await, pair.directory.path().join(signal));
        Migrate::from(&pair.old.url(), &state)
            .to("fast", &fast.url())
            .with(&["--rest", "fast", "--chunk-threshold", "1B"])
            .run()
            .await
            .expect(0);
        process.signal(signal);
        let ended = finish(&mut process).await.expect(1);
        assert!(ended.text.contains("run the same command again to resume"), "{}", ended.text);
        assert!(count(&mut new).await < 1500, "the rate was not kept: all had come");
    }
    let ended = pair.migrate(&[]).run().await.expect(0);
    assert_each_once(&ended, 1500);
    assert_same(&pair.before, &keys(&pair.new).await);
}

#[tokio::test]
async fn restarted_target_is_retried() {
    let mut pair = Pair::between(Redis::start().await, Redis::start_durable().await, 3000).await;
    let mut process = pair.migrate(&["--rate", "2000"]).start();
    let mut new = pair.new.connection().await;
    until("some have come", async || (count(&mut new).await > 0).then_some(())).await;
    pair.new.kill();
    until("it notices", async || process.log().contains("retrying").then_some(())).await;
    pair.new.restart().await;
    let ended = finish(&mut process).await.expect(0);
    assert_eq!((ended.sum("keys moved"), ended.sum("with the same value")), (3000, 0), "{}", ended.text);
    assert_same(&pair.before, &keys(&pair.new).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_cut_connections_are_reopened() {
    let pair = Pair::start(4000).await;
    let (mut old, mut new) = (pair.old.connection().await, pair.new.connection().await);
    // Slow enough for several cuts, even on a busy machine.
    let mut process = pair.migrate(&["--rate", "1500", "--delete"]).start();
    let mut cuts = 0;
    let status = until("it ends", async || {
        if let Some(status) = process.exit_status() {
            return Some(status);
        }
        let server = if fastrand::bool() { &mut old } else { &mut new };
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
        if fastrand::u8(..) < 40 {
            cuts += kill.query_async::<u32>(server).await.unwrap();
        }
        None
    })
    .await;
    let ended = Ended { status, text: process.log() }.expect(0);
    assert!(cuts > 3, "{cuts} connections were cut");
    assert_eq!(
        (ended.sum("keys moved"), ended.sum("deleted from the source")),
        (4000, 4000),
        "{}",
        ended.text
    );
    assert_same(&pair.before, &keys(&pair.new).await);
    assert_eq!(count(&mut old).await, 0);
}

#[tokio::test]
async fn restarted_source_is_scanned_from_the_start() {
    let mut pair = Pair::between(Redis::start_durable().await, Redis::start().await, 3000).await;
    let mut new = pair.new.connection().await;
    let mut process = pair.migrate(&["--rate", "400"]).start();
    until("some have come", async || (count(&mut new).await > 0).then_some(())).await;
    process.kill();
    // The cursors are invalid for the new process, which has a different hash table.
    pair.old.kill();
    pair.old.restart().await;
    let ended = pair.migrate(&[]).run().await.expect(0);
    assert_eq!(ended.sum("keys moved"), 3000, "{}", ended.text);
    assert!(ended.sum("with the same value") > 0, "what had been moved was looked at again: {}", ended.text);
    assert_same(&keys(&pair.old).await, &keys(&pair.new).await);
}

#[tokio::test]
async fn key_changed_after_a_kill_is_copied_again() {
    let pair = Pair::start(0).await;
    let mut old = pair.old.connection().await;
    for key in 0..50 {
        cmd("SET").arg(key).arg("before").exec_async(&mut old).await.unwrap();
    }
    // The last batch was written, and the run was killed before it recorded that.
    let mut process = pair.migrate(&["--rate", "20"]).start();
    let mut new = pair.new.connection().await;
    until("some have come", async || (count(&mut new).await > 0).then_some(())).await;
    process.kill();
    let flown = in_flight(&pair.state());
    assert!(!flown.is_empty());
    for key in &flown {
        cmd("SET").arg(key).arg("after").exec_async(&mut old).await.unwrap();
    }
    pair.migrate(&["--conflict", "fail"]).run().await.expect(0);
    assert_same(&keys(&pair.old).await, &keys(&pair.new).await);
}

#[tokio::test]
async fn state_file_belongs_to_one_migration() {
    let pair = Pair::start(600).await;
    let mut new = pair.new.connection().await;
    let mut process = pair.migrate(&["--rate", "100"]).start();
    until("some have come", async || (count(&mut new).await > 0).then_some(())).await;
    let ended = pair.migrate(&[]).run().await.expect(2);
    assert!(ended.text.contains("is in use by another run"), "{}", ended.text);
    process.kill();
    let ended = pair.migrate(&["--delete"]).run().await.expect(2);
    assert!(ended.text.contains("belongs to another migration"), "{}", ended.text);
    let text = std::fs::read_to_string(pair.state()).unwrap();
    assert!(text.contains("in_flight"), "it was left as it was: {text}");
}

/// Keys in flight according to a state file.
fn in_flight(state: &Path) -> Vec<String> {
    use base64::Engine as _;
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let name = |flight: &serde_json::Value| {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(flight["key"].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    state["in_flight"].as_array().unwrap().iter().map(name).collect()
}
