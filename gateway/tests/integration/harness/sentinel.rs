//! A primary, a replica and three Sentinels, all real. Only the Sentinels decide on a failover.

use std::process::Command;
use std::sync::Arc;

use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::process::{Process, free_port};
use super::{Redis, until};

const SENTINELS: usize = 3;

/// Options of a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupOptions {
    /// Arguments of every server.
    pub(crate) servers: Vec<String>,
    /// Global lines in the configuration of every Sentinel; `{port}` is replaced by a second port.
    pub(crate) sentinels: Vec<String>,
    /// Lines about the primary in the configuration of every Sentinel.
    pub(crate) monitor: Vec<String>,
    /// The ports under which Sentinels know the servers, if not the plain ones.
    pub(crate) ports: Option<[u16; 2]>,
    /// The password of the Sentinels.
    pub(crate) password: Option<String>,
}

/// Two servers and their Sentinels.
pub(crate) struct Group {
    /// The first is the initial primary.
    pub(crate) servers: [Redis; 2],
    pub(crate) sentinels: Vec<Sentinel>,
    password: Option<String>,
}

/// One Sentinel.
pub(crate) struct Sentinel {
    /// Its plain port.
    port: u16,
    /// The port that gateways connect to.
    public: u16,
    pub(crate) process: Process,
}

impl Group {
    pub(crate) async fn start() -> Self {
        Self::start_with_options(GroupOptions::default()).await
    }

    pub(crate) async fn start_with_options(options: GroupOptions) -> Self {
        let own = |ports: [u16; 2], index: usize| ["--tls-port".to_owned(), ports[index].to_string()];
        let arguments = |index: usize, more: &[String]| {
            let mut arguments = options.servers.clone();
            arguments.extend(["--repl-diskless-sync-delay".to_owned(), "0".to_owned()]);
            arguments.extend(options.ports.map(|ports| own(ports, index)).into_iter().flatten());
            arguments.extend_from_slice(more);
            arguments
        };
        let start_server = |arguments: Vec<String>| async move {
            Redis::start_with_arguments(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
        };
        let primary = start_server(arguments(0, &[])).await;
        let seen = options.ports.map_or(primary.address().port(), |ports| ports[0]);
        let of_primary = ["--replicaof".to_owned(), "127.0.0.1".to_owned(), seen.to_string()];
        let replica = start_server(arguments(1, &of_primary)).await;
        let sentinels = (0..SENTINELS).map(|_| Sentinel::start(seen, &options)).collect();
        let group = Self { servers: [primary, replica], sentinels, password: options.password };
        group.wait_until_settled().await;
        group
    }

    /// The keys of a Redis section with these Sentinels.
    pub(crate) fn settings(&self) -> String {
        let addresses: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("\"127.0.0.1:{}\"", sentinel.public)).collect();
        format!("sentinels = [{}]\nsentinel_master = \"mymaster\"\n", addresses.join(", "))
    }

    /// The port of the primary according to a Sentinel.
    pub(crate) async fn primary(&self, sentinel: usize) -> Option<u16> {
        let mut connection = self.sentinels[sentinel].connection(self.password.as_deref()).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg("mymaster");
        let (_, port): (String, u16) = command.query_async(&mut connection).await.ok()?;
        Some(port)
    }

    /// Forces a failover.
    pub(crate) async fn fail_over(&self) {
        let mut connection = self.sentinels[0].connection(self.password.as_deref()).await.unwrap();
        let mut command = redis::cmd("SENTINEL");
        command.arg("FAILOVER").arg("mymaster").exec_async(&mut connection).await.unwrap();
    }

    /// Waits until a Sentinel reports another primary than `port`; returns its port.
    pub(crate) async fn wait_for_failover_from(&self, port: u16) -> u16 {
        until("the Sentinels report another primary", async || {
            let now = self.primary(0).await?;
            (now != port).then_some(now)
        })
        .await
    }

    /// The URL of the current primary according to the Sentinels, and the task that updates it.
    pub(crate) fn follow_primary(self: &Arc<Self>) -> (watch::Receiver<String>, JoinHandle<()>) {
        let (url, follows) = watch::channel(self.servers[0].url());
        let group = Arc::clone(self);
        let task = tokio::spawn(async move {
            loop {
                for sentinel in 0..SENTINELS {
                    if let Some(port) = group.primary(sentinel).await {
                        url.send_replace(format!("redis://127.0.0.1:{port}/0"));
                    }
                }
                tokio::time::sleep(super::POLL_INTERVAL).await;
            }
        });
        (follows, task)
    }

    /// Waits until each Sentinel knows the others and a replica that can be promoted.
    async fn wait_until_settled(&self) {
        for sentinel in &self.sentinels {
            until("the Sentinels know each other and the replica", async || {
                let mut connection = sentinel.connection(self.password.as_deref()).await?;
                let mut command = redis::cmd("SENTINEL");
                let master: std::collections::HashMap<String, String> =
                    command.arg("MASTER").arg("mymaster").query_async(&mut connection).await.ok()?;
                let mut command = redis::cmd("SENTINEL");
                let replicas: Vec<std::collections::HashMap<String, String>> =
                    command.arg("REPLICAS").arg("mymaster").query_async(&mut connection).await.ok()?;
                let ready =
                    replicas.iter().any(|one| one["master-link-status"] == "ok" && one["flags"] == "slave");
                (master["num-other-sentinels"] == "2" && ready).then_some(())
            })
            .await;
        }
    }
}

impl Sentinel {
    fn start(primary: u16, options: &GroupOptions) -> Self {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sentinel.conf");
        let mut lines = vec![format!("port {port}"), "bind 127.0.0.1".to_owned()];
        let public = if options.sentinels.is_empty() { port } else { free_port() };
        lines.extend(options.sentinels.iter().map(|line| line.replace("{port}", &public.to_string())));
        lines.push(format!("sentinel monitor mymaster 127.0.0.1 {primary} 2"));
        lines.push("sentinel down-after-milliseconds mymaster 700".to_owned());
        lines.push("sentinel failover-timeout mymaster 4000".to_owned());
        lines.extend(options.monitor.iter().cloned());
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        Self { port, public, process: Process::start(command, directory) }
    }

    pub(crate) async fn connection(&self, password: Option<&str>) -> Option<MultiplexedConnection> {
        let password = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).unwrap();
        client.get_multiplexed_async_connection().await.ok()
    }
}
