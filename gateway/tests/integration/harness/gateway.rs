//! A gateway process: starts it, waits until it is ready, and reads its state.

use std::net::SocketAddr;
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::http::{self, Response};
use super::process::{Process, free_port};
use super::{Redis, metrics, until};

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    address: SocketAddr,
}

/// The binary under test.
pub(crate) fn binary() -> String {
    std::env::var("EARSHOT_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_earshot").to_owned())
}

/// Settings of a gateway to start.
pub(crate) struct Settings {
    config: Option<String>,
    environment: Vec<(&'static str, String)>,
    listen: Option<String>,
    port: u16,
    dev: bool,
}

/// Namespaces that any client may publish to: a log, one that needs Redis, and all other channels.
pub(crate) const NAMESPACES: &str = r#"
[[namespace]]
name = "logs"
channels = ["log:*"]
subscribe = "anyone"
source = "stream"
publish = "anyone"

[[namespace]]
name = "strict"
channels = ["strict"]
subscribe = "anyone"
publish = "anyone"
when_redis_down = "reject"

[[namespace]]
name = "rest"
channels = ["*"]
subscribe = "anyone"
publish = "anyone"
"#;

impl Gateway {
    /// A gateway in development mode without configuration: memory broker, every channel open.
    pub(crate) async fn start() -> Self {
        Self::settings().start().await
    }

    /// A gateway in development mode on this Redis.
    pub(crate) async fn on(redis: &Redis) -> Self {
        Self::settings().redis(redis).start().await
    }

    pub(crate) fn settings() -> Settings {
        Settings { config: None, environment: Vec::new(), listen: None, port: free_port(), dev: true }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn fetch(&self, path: &str) -> Response {
        http::fetch(self.address, path).await
    }

    /// Posts JSON to a method of the HTTP API.
    pub(crate) async fn api(&self, method: &str, body: &str) -> Response {
        http::post(self.address, &format!("/api/{method}"), &[], body).await
    }

    /// Publishes over the HTTP API; `data` is JSON.
    pub(crate) async fn publish(&self, channel: &str, data: &str) {
        let channel = serde_json::Value::from(channel);
        let response = self.api("publish", &format!(r#"{{"channel":{channel},"data":{data}}}"#)).await;
        assert!(response.status == 200 && response.text().starts_with(r#"{"result":"#), "{response:?}");
    }

    /// The sum of the samples of a metric that have these labels, written as in the output (for example
    /// `transport="sse"`).
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metrics::sum(&self.fetch("/metrics").await.text(), name, labels)
    }

    /// Waits until [`Gateway::metric`] satisfies a condition, and returns the value.
    pub(crate) async fn wait_for_metric(
        &self,
        name: &str,
        labels: &[&str],
        is_expected: impl Fn(f64) -> bool,
    ) -> f64 {
        until(&format!("{name} {labels:?} has the expected value"), async || {
            Some(self.metric(name, labels).await).filter(|value| is_expected(*value))
        })
        .await
    }

    /// Waits until the log contains each of these texts.
    pub(crate) async fn wait_for_log(&self, texts: &[&str]) {
        until(&format!("the log contains {texts:?}"), async || {
            let log = self.process.log();
            texts.iter().all(|text| log.contains(text)).then_some(())
        })
        .await;
    }

    /// A connection with a receive buffer so small that a slow reader soon blocks the gateway.
    pub(crate) fn small_buffer_connection(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.connect(&self.address.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        TcpStream::from_std(socket.into()).unwrap()
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory_line("VmRSS:")
    }

    /// Peak resident memory in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_line("VmHWM:")
    }

    fn memory_line(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    }

    /// Asserts that the process has not exited.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.process.exit_status();
        assert!(ended.is_none(), "the gateway exited: {ended:?}");
    }

    /// Waits until at least one link is down and every link that is down has a cause with this text.
    pub(crate) async fn wait_for_cause(&self, text: &str) {
        let mut last = String::new();
        until(&format!("/health reports: {text}"), async || {
            let health = self.fetch("/health").await.json();
            let links = health["links"].as_array().cloned().unwrap_or_default();
            let mut causes = links.iter().filter_map(|link| link["cause"].as_str()).peekable();
            let matches = causes.peek().is_some() && causes.all(|cause| cause.contains(text));
            let now = health["links"].to_string();
            if now != last {
                eprintln!("{now}");
                last = now;
            }
            matches.then_some(())
        })
        .await;
    }

    /// Waits until `/ready` returns this status.
    pub(crate) async fn wait_for_ready_status(&self, status: u16) {
        until(&format!("/ready returns {status}"), async || {
            let response = http::try_fetch(self.address, "/ready").await.ok()?;
            (response.status == status).then_some(())
        })
        .await;
    }
}

impl Settings {
    pub(crate) fn redis(self, redis: &Redis) -> Self {
        self.environment("REDIS_URL", &redis.url())
    }

    pub(crate) fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The text of `earshot.toml`.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Without `--dev`, as in production.
    pub(crate) fn production(mut self) -> Self {
        self.dev = false;
        self
    }

    /// The listen address; `{port}` is replaced by the port.
    pub(crate) fn listen(mut self, listen: &str) -> Self {
        self.listen = Some(listen.replace("{port}", &self.port.to_string()));
        self
    }

    /// On the port of a gateway that is gone.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.port = address.port();
        self
    }

    /// Without `--listen`: the configuration or the environment has this port.
    pub(crate) fn listen_from_config(mut self, port: u16) -> Self {
        (self.listen, self.port) = (Some(String::new()), port);
        self
    }

    /// Starts the gateway and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        self.start_until("the gateway is ready", |status| status == 200).await
    }

    /// Starts a gateway that cannot become ready, and waits until it responds.
    pub(crate) async fn start_unready(self) -> Gateway {
        self.start_until("the gateway responds", |_| true).await
    }

    async fn start_until(self, what: &str, is_expected: fn(u16) -> bool) -> Gateway {
        let port = self.port;
        let mut gateway = self.spawn();
        until(what, async || {
            gateway.assert_alive();
            for host in ["127.0.0.1", "::1"] {
                let address = SocketAddr::new(host.parse().unwrap(), port);
                if http::try_fetch(address, "/ready").await.is_ok_and(|response| is_expected(response.status))
                {
                    gateway.address = address;
                    return Some(());
                }
            }
            None
        })
        .await;
        gateway
    }

    fn spawn(self) -> Gateway {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        Gateway { process: self.run(), address }
    }

    /// Starts the process without waiting for it.
    pub(crate) fn run(self) -> Process {
        let directory = tempfile::tempdir().unwrap();
        Process::start(self.command(&directory), directory)
    }

    fn command(&self, directory: &TempDir) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars() {
            if ["EARSHOT_", "REDIS_", "QUEUE_PREFIX"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let listen = self.listen.clone().unwrap_or_else(|| format!("127.0.0.1:{}", self.port));
        command.arg("serve");
        if self.dev {
            command.arg("--dev");
        }
        if !listen.is_empty() {
            command.args(["--listen", &listen]);
        }
        if let Some(config) = &self.config {
            let path = directory.path().join("test.toml");
            std::fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
        }
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }
}
