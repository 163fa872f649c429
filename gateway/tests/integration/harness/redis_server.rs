//! A real `redis-server` on a free port, and publishing to it as a backend does.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline};

use tempfile::TempDir;

use super::process::{Process, free_port};
use super::{WAIT_TIMEOUT, until};

/// A `redis-server`.
pub(crate) struct Redis {
    port: u16,
    process: Process,
    /// The data directory of a durable server.
    kept: Option<TempDir>,
    /// Additional arguments.
    arguments: Vec<String>,
}

impl Redis {
    /// Starts a server without persistence.
    pub(crate) async fn start() -> Self {
        Self::start_with(None, Vec::new()).await
    }

    /// Starts a server without persistence, with additional arguments.
    pub(crate) async fn start_with_arguments(arguments: &[&str]) -> Self {
        Self::start_with(None, arguments.iter().map(ToString::to_string).collect()).await
    }

    /// Starts a server that loses nothing when it is killed.
    pub(crate) async fn start_durable() -> Self {
        Self::start_with(Some(tempfile::tempdir().unwrap()), Vec::new()).await
    }

    async fn start_with(kept: Option<TempDir>, arguments: Vec<String>) -> Self {
        let port = free_port();
        let redis = Self { port, process: spawn(port, kept.as_ref(), &arguments), kept, arguments };
        redis.wait_until_ready().await;
        redis
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Suspends (`STOP`) or resumes (`CONT`) the server.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Kills the server, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts the server on the same port.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.port, self.kept.as_ref(), &self.arguments);
        self.wait_until_ready().await;
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        // The machine may be busy for longer than the default timeout of half a second.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT_TIMEOUT));
        let client = Client::open(self.url()).unwrap();
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            match client.get_multiplexed_async_connection_with_config(&patient).await {
                Ok(connection) => return connection,
                // A Sentinel disconnects all clients of a server that it reconfigures.
                Err(error) => assert!(Instant::now() < deadline, "cannot connect to Redis: {error}"),
            }
        }
    }

    /// Publishes one payload; returns how many subscribers received it.
    pub(crate) async fn publish(&self, channel: &str, payload: &[u8]) -> usize {
        let mut connection = self.connection().await;
        redis::cmd("PUBLISH").arg(channel).arg(payload).query_async(&mut connection).await.unwrap()
    }

    /// Publishes messages in order, pipelined.
    pub(crate) async fn publish_all<'a, P: AsRef<[u8]> + 'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a str, P)>,
    ) {
        let mut connection = self.connection().await;
        let mut pipeline = Pipeline::new();
        for (channel, payload) in messages {
            pipeline.cmd("PUBLISH").arg(channel).arg(payload.as_ref()).ignore();
            if pipeline.len() == 500 {
                pipeline.exec_async(&mut connection).await.unwrap();
                pipeline.clear();
            }
        }
        if !pipeline.is_empty() {
            pipeline.exec_async(&mut connection).await.unwrap();
        }
    }

    /// Closes all subscriber connections; returns how many there were.
    pub(crate) async fn disconnect_subscribers(&self) -> usize {
        let mut connection = self.connection().await;
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut connection).await.unwrap()
    }

    /// Runs one command. Panics on an error.
    pub(crate) async fn run(&self, words: &[&str]) -> redis::Value {
        let mut connection = self.connection().await;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Closes all connections except its own.
    pub(crate) async fn disconnect_all(&self) {
        for kind in ["pubsub", "normal"] {
            self.run(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
    }

    async fn wait_until_ready(&self) {
        let client = Client::open(self.url()).unwrap();
        until("redis-server responds", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok()
        })
        .await;
    }
}

fn spawn(port: u16, kept: Option<&TempDir>, arguments: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--port"]).arg(port.to_string());
    match kept {
        Some(directory) => {
            command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(directory.path())
        }
        None => command.args(["--appendonly", "no"]),
    };
    command.args(arguments);
    Process::start(command, tempfile::tempdir().unwrap())
}
