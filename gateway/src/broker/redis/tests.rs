//! Tests of the Redis broker with real `redis-server` processes, which are killed, stopped and reconfigured.
//!
//! Owns the test server and the recording event handler. Waits for conditions with a deadline, never for a fixed time.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use redis::Value;
use tokio::time::Instant;

use super::*;
use crate::broker::{AffectedTopics, Attributes, BrokerMessage, GapCause, TopicGap};
use earshot_redis_link::ConnectConfig;

mod command_link;
mod failover;
mod local_fallback;
mod log;
mod placement;
mod probe;
mod receive_queue;
mod receiving;
mod reconnects;
mod rejection;
mod slot_queue;
mod subscription_table;

/// The maximum wait for a condition.
const DEADLINE: Duration = Duration::from_secs(20);

/// A `redis-server` process on a free port. Killed when dropped.
struct Server {
    process: Child,
    port: u16,
    arguments: Vec<String>,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let dir = tempfile::tempdir().unwrap();
            let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let process = spawn(port, &arguments, &dir);
            let mut server = Self { process, port, arguments, dir };
            // Another process may have bound the port in the meantime.
            if server.wait_until_ready().await {
                return server;
            }
        }
    }

    /// Starts the server again on the same port.
    async fn restart(&mut self) {
        self.process = spawn(self.port, &self.arguments, &self.dir);
        assert!(self.wait_until_ready().await, "redis-server did not restart");
    }

    /// Waits until the server accepts connections. Returns `false` if the process has exited.
    async fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("redis-server is not ready");
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs one command on a new connection.
    async fn command(&self, words: &[&str]) -> Value {
        self.command_as(&self.url(), words).await
    }

    async fn command_as(&self, url: &str, words: &[&str]) -> Value {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(word);
        });
        command.query_async(&mut connection).await.unwrap()
    }

    /// The number of calls of a command since the server started.
    async fn calls(&self, command: &str) -> u64 {
        self.statistic(command, "calls").await
    }

    async fn statistic(&self, command: &str, field: &str) -> u64 {
        let Value::BulkString(stats) = self.command(&["INFO", "commandstats"]).await else { return 0 };
        let stats = String::from_utf8(stats).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        let value =
            line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix(&format!("{field}="))));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

fn spawn(port: u16, arguments: &[String], dir: &tempfile::TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests require redis-server")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An event that a handler received.
#[derive(Clone, Debug)]
enum Event {
    Message(String, Bytes),
    Gap(TopicGap),
}

/// An event handler that stores every event.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Event>>,
    /// Held by a test to block the handler.
    stall: Mutex<()>,
}

impl BrokerEventHandler for Recorder {
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
        // Moves the other tasks of this worker thread elsewhere first: the release of the lock may depend on one of them.
        if self.stall.try_lock().is_err() {
            tokio::task::block_in_place(|| drop(self.stall.lock().unwrap()));
        }
        self.events.lock().unwrap().extend(messages.drain(..).map(|m| Event::Message(m.channel, m.data)));
    }

    fn on_message(&self, message: BrokerMessage, _: Attributes) {
        panic!("Redis messages have no attributes: {message:?}");
    }

    fn on_local_publish(&self, message: BrokerMessage) {
        BrokerEventHandler::on_messages(self, &mut vec![message]);
    }

    fn on_gap(&self, gap: TopicGap) {
        self.events.lock().unwrap().push(Event::Gap(gap));
    }
}

impl Recorder {
    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn messages(&self) -> Vec<(String, Bytes)> {
        let message = |event| match event {
            Event::Message(channel, data) => Some((channel, data)),
            Event::Gap(_) => None,
        };
        self.events().into_iter().filter_map(message).collect()
    }

    fn last_message(&self) -> Option<Bytes> {
        match self.events.lock().unwrap().last() {
            Some(Event::Message(_, data)) => Some(data.clone()),
            _ => None,
        }
    }

    fn gaps(&self) -> Vec<TopicGap> {
        let gap = |event| match event {
            Event::Message(..) => None,
            Event::Gap(gap) => Some(gap),
        };
        self.events().into_iter().filter_map(gap).collect()
    }

    /// The number of publications received on a channel.
    fn count(&self, channel: &str) -> usize {
        self.messages().iter().filter(|(name, _)| name == channel).count()
    }

    fn clear(&self) {
        self.events.lock().unwrap().clear();
    }
}

/// A broker with its event handler and the drain that stops it.
struct TestBroker {
    recorder: Arc<Recorder>,
    drain: Drain,
    broker: Arc<RedisBroker>,
}

impl TestBroker {
    fn new(settings: RedisSettings) -> Self {
        let recorder = Arc::new(Recorder::default());
        let drain = Drain::default();
        let broker = RedisBroker::start(settings, recorder.clone(), &drain);
        Self { recorder, drain, broker }
    }

    /// Starts a broker and waits until its links are up.
    async fn up(server: &Server) -> Self {
        let test = Self::new(test_settings(&server.url()));
        test.wait_until_up().await;
        test
    }

    async fn wait_until_up(&self) {
        eventually("both links are up", || self.broker.links().iter().all(|link| link.up)).await;
    }

    fn subscriptions(&self) -> LinkStatus {
        self.broker.links().into_iter().find(|link| link.link == "subscriptions").unwrap()
    }

    async fn subscribe(&self, name: &str) {
        self.broker.subscribe(&channel(name), WhenUnavailable::Reject).await.unwrap();
    }

    async fn publish(&self, name: &str, data: &'static [u8]) -> Result<(), BrokerError> {
        let name = ChannelName::parse(name).unwrap();
        self.broker
            .publish(&name, Bytes::from_static(data), PublishOptions::new(WhenUnavailable::Reject))
            .await
            .map(drop)
    }
}

/// A fallback that is never active, for a queue without links.
fn inactive_fallback() -> LocalFallback {
    let state = LinkState::new("test", "commands", String::new());
    state.up();
    LocalFallback { state: Arc::new(state), handler: Arc::new(Recorder::default()) }
}

/// Settings with short intervals and timeouts.
fn test_settings(url: &str) -> RedisSettings {
    RedisSettings {
        instance: ConnectConfig {
            name: "test".to_owned(),
            url: url.to_owned(),
            rejected_retry_min: Duration::from_millis(50),
            rejected_retry_max: Duration::from_millis(100),
            ..ConnectConfig::default()
        },
        probe_interval: Some(Duration::from_millis(250)),
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(500),
        ..RedisSettings::default()
    }
}

/// [`test_settings`] without probes, for tests that count commands.
fn settings_without_probes(url: &str) -> RedisSettings {
    RedisSettings { probe_interval: None, ..test_settings(url) }
}

/// [`test_settings`] with this command timeout.
fn settings_with_timeout(url: &str, command_timeout: Duration) -> RedisSettings {
    let mut settings = test_settings(url);
    settings.instance.command_timeout = command_timeout;
    settings
}

fn channel(name: &str) -> Topic {
    Topic::Channel(ChannelName::parse(name).unwrap())
}

/// Waits until a condition holds. Panics with its description after [`DEADLINE`].
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "timeout: {what} ({caller})");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
