//! A real `redis-server` on a free port, and publishing into it as a backend does.

use std::net::SocketAddr;
use std::process::Command;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline};

use tempfile::TempDir;

use super::process::{Process, free_port};
use super::{PATIENCE, until};

/// A `redis-server`.
pub(crate) struct Redis {
    port: u16,
    process: Process,
    /// Where it keeps everything that it has confirmed, if it keeps anything.
    kept: Option<TempDir>,
    /// What it is started with beside that.
    arguments: Vec<String>,
}

impl Redis {
    /// A server that keeps nothing.
    pub(crate) async fn start() -> Self {
        Self::start_with(None, Vec::new()).await
    }

    /// A server that keeps nothing, with further arguments.
    pub(crate) async fn start_given(arguments: &[&str]) -> Self {
        Self::start_with(None, arguments.iter().map(ToString::to_string).collect()).await
    }

    /// A server that loses nothing when it is killed.
    pub(crate) async fn start_durable() -> Self {
        Self::start_with(Some(tempfile::tempdir().unwrap()), Vec::new()).await
    }

    async fn start_with(kept: Option<TempDir>, arguments: Vec<String>) -> Self {
        let port = free_port();
        let redis = Self { port, process: spawn(port, kept.as_ref(), &arguments), kept, arguments };
        redis.answers().await;
        redis
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Lets the server hang (`STOP`) or go on (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the server again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.port, self.kept.as_ref(), &self.arguments);
        self.answers().await;
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        // The machine may be busy, far longer than the half second that is the default.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// Publishes one payload, and tells how many subscribers Redis gave it to.
    pub(crate) async fn publish(&self, channel: &str, payload: &[u8]) -> usize {
        let mut connection = self.connection().await;
        redis::cmd("PUBLISH").arg(channel).arg(payload).query_async(&mut connection).await.unwrap()
    }

    /// Publishes everything in order, in few round trips.
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

    /// Cuts the connections of all who subscribe, and tells how many they were.
    pub(crate) async fn cut_subscribers(&self) -> usize {
        let mut connection = self.connection().await;
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut connection).await.unwrap()
    }

    /// Runs one command, which must not fail.
    pub(crate) async fn run(&self, words: &[&str]) -> redis::Value {
        let mut connection = self.connection().await;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Cuts every connection but the one that says so, and tells how many they were.
    pub(crate) async fn cut_all(&self) {
        for kind in ["pubsub", "normal"] {
            self.run(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
    }

    async fn answers(&self) {
        let client = Client::open(self.url()).unwrap();
        until("redis-server answers", async || {
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
