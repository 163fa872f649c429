//! Copies in chunks: for servers that do not accept another's DUMP, and for large values.

use std::process::Command;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd};

use super::running::{Migrate, about, assert_same};
use crate::harness::keyspace::{fill, read, read_with};
use crate::harness::process::{Process, free_port};
use crate::harness::{WAIT_TIMEOUT, until};

/// A `redis-server` with additional arguments.
struct Server {
    port: u16,
    _process: Process,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port"]).arg(port.to_string()).args(arguments);
        let server = Self { port, _process: Process::start(command, tempfile::tempdir().unwrap()) };
        until("redis-server answers", async || server.try_connection().await).await;
        server
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn try_connection(&self) -> Option<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT_TIMEOUT));
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection_with_config(&patient).await.ok()
    }

    async fn connection(&self) -> MultiplexedConnection {
        until("a connection", async || self.try_connection().await).await
    }
}

/// Each value shape three or four times.
const KEYS: usize = 400;

async fn moved_between(from: &[&str], to: &[&str], more: &[&str]) {
    let (old, new) = tokio::join!(Server::start(from), Server::start(to));
    let mut here = old.connection().await;
    fill(&mut here, KEYS).await;
    let directory = tempfile::tempdir().unwrap();
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("new", &new.url());
    let migrate = migrate.with(&["--rule", "nest:*=new:{nest}:", "--rest", "new"]).with(more);
    migrate.run().await.expect(0);
    let renamed = from.contains(&"WHEN");
    let before = if renamed { read_with(&mut here, "WHEN").await } else { read(&mut here).await };
    let found = read(&mut new.connection().await).await;
    let renaming =
        |key: Vec<u8>| key.strip_prefix(b"nest:").map(|rest| [b"{nest}:", rest].concat()).unwrap_or(key);
    let expected = before.into_iter().map(|(key, content)| (renaming(key), content)).collect();
    // Without PEXPIRETIME the expiry is computed from TTL and TIME, two readings that a busy machine can separate.
    let expected = if renamed { about(expected, &found, 100) } else { expected };
    assert_same(&expected, &found);
    // Existing values are compared by type as well, and nothing is written again.
    let again = migrate.run().await.expect(0);
    assert_eq!(
        (again.sum("keys moved"), again.sum("with the same value")),
        (0, KEYS as u64),
        "{}",
        again.text
    );
}

#[tokio::test]
async fn restore_is_rejected() {
    moved_between(&[], &["--rename-command", "RESTORE", ""], &[]).await;
}

#[tokio::test]
async fn dump_is_rejected() {
    moved_between(&["--rename-command", "DUMP", ""], &[], &[]).await;
}

#[tokio::test]
async fn pexpiretime_and_memory_usage_are_unavailable() {
    moved_between(&["--rename-command", "PEXPIRETIME", "WHEN", "--rename-command", "MEMORY", ""], &[], &[])
        .await;
}

#[tokio::test]
async fn every_value_is_chunked() {
    moved_between(&[], &[], &["--chunk-threshold", "1B"]).await;
}

#[tokio::test]
async fn chunked_value_appears_complete() {
    let (old, new) = tokio::join!(Server::start(&[]), Server::start(&[]));
    let mut here = old.connection().await;
    cmd("SETRANGE").arg("string").arg(30_000_000).arg("end").exec_async(&mut here).await.unwrap();
    let mut fields = redis::pipe();
    for number in 0..5000 {
        fields.cmd("HSET").arg("hash").arg(number).arg(vec![number as u8; 2000]);
        fields.cmd("RPUSH").arg("list").arg(vec![number as u8; 2000]);
        fields.cmd("ZADD").arg("zset").arg(number % 10).arg(number);
        fields.cmd("SADD").arg("set").arg(format!("member {number}"));
    }
    fields.cmd("PEXPIRE").arg("list").arg(50_000_000);
    fields.exec_async(&mut here).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let migrate = Migrate::from(&old.url(), &directory.path().join("state")).to("new", &new.url());
    let mut process = migrate.with(&["--rest", "new", "--chunk-threshold", "100KiB"]).start();
    let mut there = new.connection().await;
    let status = until("it ends", async || {
        let length: usize = cmd("STRLEN").arg("string").query_async(&mut there).await.unwrap();
        assert!(length == 0 || length == 30_000_003, "{length} bytes of it are seen");
        process.exit_status()
    })
    .await;
    assert!(status.success(), "{}", process.log());
    assert_same(&read(&mut here).await, &read(&mut there).await);
}
