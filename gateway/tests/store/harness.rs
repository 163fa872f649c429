//! A real `redis-server`, a listener that keeps what it receives, and waiting with a deadline.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use earshot::drain::Drain;
use earshot::store::{KeyEvents, KeyStore, KeyValue, StoreSettings, TrackingMode};
use earshot_redis_link::ConnectConfig;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Gets and deletes a key.
pub(crate) const TAKE: &str =
    "local value = redis.call('GET', KEYS[1]) if value then redis.call('DEL', KEYS[1]) end return value";

/// Longest wait before a test fails. Generous, because the machine may be busy.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A port without a listener.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Polls until `probe` returns `Some`. Panics after [`WAIT_TIMEOUT`].
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(outcome) = probe().await {
            return outcome;
        }
        assert!(Instant::now() < deadline, "still waiting after {WAIT_TIMEOUT:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A `redis-server` without persistence.
pub(crate) struct Redis {
    port: u16,
    process: Child,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with additional arguments.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let redis = Self { port, process: spawn(port, &directory, &arguments), directory, arguments };
        redis.wait_until_ready().await;
        redis
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server, and starts an empty one on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, &self.directory, &self.arguments);
        self.wait_until_ready().await;
    }

    /// Suspends (`STOP`) or resumes (`CONT`) the server.
    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("sh").arg("-c").arg(command).status().unwrap().success());
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT_TIMEOUT));
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// Runs one command. Panics on an error.
    pub(crate) async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let reply = command.query_async(&mut self.connection().await).await;
        reply.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// How often a command was called since `CONFIG RESETSTAT`.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let info: String = self.run(&["INFO", "commandstats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
    }

    async fn wait_until_ready(&self) {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        until("redis-server responds", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, directory: &TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
    command.arg(port.to_string()).args(arguments).current_dir(directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// What became of a key: its value, or `None` if it is missing.
pub(crate) type Change = (String, Option<KeyValue>);

/// Keeps all changes.
#[derive(Default)]
pub(crate) struct Changes(Mutex<Vec<Change>>);

impl Changes {
    pub(crate) fn all(&self) -> Vec<Change> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that were reported as missing, in order.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.all().into_iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key).collect()
    }

    /// Waits until a change is reported.
    pub(crate) async fn wait_for(&self, key: &str, value: Option<KeyValue>) {
        let change = (key.to_owned(), value);
        until(&format!("{change:?}"), async || self.all().contains(&change).then_some(())).await;
    }
}

impl KeyEvents for Changes {
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>) {
        let key = String::from_utf8(key.to_vec()).unwrap();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key, value.cloned()));
    }
}

/// A store, and the changes that it reports.
pub(crate) struct Store {
    pub(crate) store: Arc<KeyStore>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) drain: Drain,
}

impl Store {
    /// Starts a store that watches `sess:` and does not sweep during a test.
    pub(crate) fn start(redis: &Redis, change: impl FnOnce(&mut StoreSettings)) -> Self {
        let connection = ConnectConfig {
            url: format!("redis://127.0.0.1:{}", redis.port()),
            primary_check_interval: Duration::from_millis(100),
            rejected_retry_min: Duration::from_millis(100),
            rejected_retry_max: Duration::from_millis(200),
            ..ConnectConfig::default()
        };
        let mut settings = StoreSettings {
            connection,
            prefixes: vec![b"sess:".to_vec(), b"sess:admin:".to_vec()],
            sweep_interval: Duration::from_secs(3600),
            ..StoreSettings::default()
        };
        change(&mut settings);
        let (drain, changes) = (Drain::default(), Arc::<Changes>::default());
        let store = KeyStore::start(settings, &drain, Arc::clone(&changes) as _);
        Self { store, changes, drain }
    }

    /// Waits until Redis reports changes.
    pub(crate) async fn wait_until_tracking(&self) {
        until("tracking is active", async || {
            (self.store.status().tracking == TrackingMode::Active).then_some(())
        })
        .await;
    }

    /// Waits until no read of watched keys is under way or due, judged by the server.
    pub(crate) async fn wait_until_rereads(&self, at_least: u64) {
        until("watched keys are read again", async || {
            (self.store.metrics().rereads.value() >= at_least).then_some(())
        })
        .await;
    }
}

/// A string.
pub(crate) fn bytes(value: &str) -> Option<KeyValue> {
    Some(KeyValue::Bytes(value.to_owned().into()))
}
