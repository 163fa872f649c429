//! A real Redis Cluster on free ports; its nodes can crash, hang and restart, and its slots can move.

mod resharding;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use redis::{Client, FromRedisValue, IntoConnectionInfo, Value};
use tempfile::TempDir;

use super::certificates::{Authority, FAR, Issued};
use super::process::{Process, free_port};
use super::until;
use resharding::Resharding;

/// The node timeout: a node is marked as failing after this time.
const NODE_TIMEOUT: &str = "1000";
const SLOTS: u32 = 16_384;

/// Primaries with equal shares of the slots, and their replicas.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    primaries: usize,
    /// The CA file of its certificates.
    authority: Option<PathBuf>,
}

/// The password of every node of a secured cluster; its characters need encoding in a URL.
const PASSWORD: &str = "p%s/w@rd";

struct Node {
    /// The plain port.
    port: u16,
    /// The TLS port, if the cluster is secured.
    tls_port: Option<u16>,
    bus: u16,
    arguments: Vec<String>,
    process: Process,
    kept: TempDir,
    id: String,
    is_down: bool,
}

impl Cluster {
    /// Starts primaries, each with one replica if `replicas` is set: the replica of node `n` is node `n + primaries`.
    pub(crate) async fn start(primaries: usize, replicas: bool) -> Self {
        let count = if replicas { 2 * primaries } else { primaries };
        Self::start_with(count, primaries, None).await
    }

    /// Starts three primaries with a password and TLS.
    pub(crate) async fn start_secured(authority: &Authority) -> Self {
        Self::start_with(3, 3, Some(authority)).await
    }

    async fn start_with(count: usize, primaries: usize, authority: Option<&Authority>) -> Self {
        let issued = authority.map(|authority| authority.issue(&["127.0.0.1"], FAR));
        let mut nodes = Vec::new();
        for _ in 0..count {
            let (port, bus, kept) = (free_port(), free_port(), tempfile::tempdir().unwrap());
            let mut arguments = vec!["--port".to_owned(), port.to_string()];
            let tls_port = authority.map(|_| free_port());
            if let (Some(authority), Some(issued), Some(tls_port)) = (authority, &issued, tls_port) {
                arguments.extend(tls_arguments(authority, issued, tls_port));
            }
            let process = spawn(&arguments, bus, &kept);
            let (id, is_down) = (String::new(), false);
            nodes.push(Node { port, tls_port, bus, arguments, process, kept, id, is_down });
        }
        let mut cluster = Self { nodes, primaries, authority: authority.map(Authority::file) };
        cluster.join_nodes().await;
        cluster
    }

    async fn join_nodes(&mut self) {
        for node in 0..self.nodes.len() {
            self.wait_until_ready(node).await;
            self.nodes[node].id = self.command(node, &["CLUSTER", "MYID"]).await;
            let epoch = (node + 1).to_string();
            self.run(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        let share =
            |address: usize| SLOTS * u32::try_from(address).unwrap() / u32::try_from(self.primaries).unwrap();
        for node in 0..self.primaries {
            let (first, last) = (share(node).to_string(), (share(node + 1) - 1).to_string());
            self.run(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
        }
        for node in 1..self.nodes.len() {
            for other in 0..node {
                let Node { port, tls_port, bus, .. } = &self.nodes[other];
                let (port, bus) = (tls_port.unwrap_or(*port).to_string(), bus.to_string());
                self.run(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
            }
        }
        self.wait_until_stable().await;
        for replica in self.primaries..self.nodes.len() {
            let of = self.nodes[replica - self.primaries].id.clone();
            until("the replica knows its primary", async || {
                self.try_command::<Value>(replica, &["CLUSTER", "REPLICATE", &of]).await
            })
            .await;
        }
        if self.nodes.len() > self.primaries {
            self.wait_for_replicas().await;
        }
    }

    /// Waits until every primary has a replica in sync.
    async fn wait_for_replicas(&self) {
        for replica in self.primaries..self.nodes.len() {
            until("the replica is in sync", async || {
                let info: String = self.try_command(replica, &["INFO", "replication"]).await?;
                info.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        until("every node lists the replicas", async || {
            for node in self.running_nodes() {
                let nodes: String = self.try_command(node, &["CLUSTER", "NODES"]).await?;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                if replicas != self.nodes.len() - self.primaries {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until every running node lists all others and reports the cluster as ok.
    pub(crate) async fn wait_until_stable(&self) {
        let expected = format!("cluster_known_nodes:{}\r", self.nodes.len());
        until("every node reports the cluster as ok", async || {
            for node in self.running_nodes() {
                let info: String = self.try_command(node, &["CLUSTER", "INFO"]).await?;
                let nodes: String = self.try_command(node, &["CLUSTER", "NODES"]).await?;
                let is_ok = info.contains("cluster_state:ok") && info.contains(&expected);
                if !is_ok
                    || (!self.nodes.iter().any(|node| node.is_down) && nodes.contains("fail"))
                    || nodes.contains("handshake")
                {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    fn running_nodes(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_down)
    }

    /// The number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.nodes[node].port))
    }

    pub(crate) fn url(&self, node: usize) -> String {
        format!("redis://127.0.0.1:{}/0", self.nodes[node].port)
    }

    /// The keys `url` and `cluster` of a Redis section that lists these nodes.
    pub(crate) fn settings(&self) -> String {
        let address = |node: &Node| format!("127.0.0.1:{}", node.tls_port.unwrap_or(node.port));
        let seeds: Vec<_> = self.nodes[1..].iter().map(|node| format!("\"{}\"", address(node))).collect();
        let first = address(&self.nodes[0]);
        let url = match &self.authority {
            Some(file) => {
                let password = PASSWORD.replace('%', "%25").replace('/', "%2F").replace('@', "%40");
                format!("url = \"rediss://:{password}@{first}\"\nca_file = {:?}", file.display().to_string())
            }
            None => format!("url = \"redis://{first}/0\""),
        };
        format!("{url}\ncluster = [{}]\n", seeds.join(", "))
    }

    pub(crate) fn signal(&self, node: usize, name: &str) {
        self.nodes[node].process.signal(name);
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process.kill();
        self.nodes[node].is_down = true;
    }

    /// Restarts a node that was killed, with the same identity.
    pub(crate) async fn restart(&mut self, node: usize) {
        let Node { arguments, bus, kept, .. } = &self.nodes[node];
        self.nodes[node].process = spawn(arguments, *bus, kept);
        self.nodes[node].is_down = false;
        self.wait_until_ready(node).await;
    }

    pub(crate) async fn command<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> T {
        let reply = self.query(node, words).await;
        reply.unwrap_or_else(|error| panic!("{words:?} at node {node}: {error}"))
    }

    pub(crate) async fn run(&self, node: usize, words: &[&str]) {
        self.command::<Value>(node, words).await;
    }

    async fn try_command<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> Option<T> {
        self.query(node, words).await.ok()
    }

    async fn query<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.client(node).get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    fn client(&self, node: usize) -> Client {
        let info = self.url(node).into_connection_info().unwrap();
        let sign_in = info.redis_settings().clone();
        let sign_in = if self.authority.is_some() { sign_in.set_password(PASSWORD) } else { sign_in };
        Client::open(info.set_redis_settings(sign_in)).unwrap()
    }

    /// The connections to the plain port of a node.
    pub(crate) async fn clients(&self, node: usize) -> String {
        let port = format!("laddr=127.0.0.1:{} ", self.nodes[node].port);
        let all: String = self.command(node, &["CLIENT", "LIST"]).await;
        all.lines().filter(|line| line.contains(&port)).collect::<Vec<_>>().join("\n")
    }

    async fn wait_until_ready(&self, node: usize) {
        until("a node responds", async || self.try_command::<String>(node, &["PING"]).await).await;
    }

    /// The node that has a connection with this name.
    pub(crate) async fn node_with_connection(&self, purpose: &str) -> usize {
        until("a node has the connection", async || {
            for node in self.running_nodes() {
                let clients: String = self.try_command(node, &["CLIENT", "LIST"]).await?;
                if clients.contains(&format!("name=earshot:default:{purpose} ")) {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// The slot of a key or sharded channel.
    pub(crate) async fn slot(&self, name: &str) -> u16 {
        let node = self.running_nodes().next().unwrap();
        self.command(node, &["CLUSTER", "KEYSLOT", name]).await
    }

    /// The node that owns the slot of a name, according to the first running node.
    pub(crate) async fn owner(&self, name: &str) -> usize {
        let observer = self.running_nodes().next().unwrap();
        let slot = self.slot(name).await;
        until("a node owns the slot", async || self.owner_at(observer, slot).await).await
    }

    async fn owner_at(&self, observer: usize, slot: u16) -> Option<usize> {
        let ranges: Vec<Vec<Value>> = self.try_command(observer, &["CLUSTER", "SLOTS"]).await?;
        let number = |value: &Value| u16::from_redis_value(value.clone()).unwrap();
        let range = ranges.iter().find(|range| (number(&range[0])..=number(&range[1])).contains(&slot))?;
        let Value::Array(primary) = &range[2] else { return None };
        let port = number(&primary[1]);
        self.running_nodes().find(|node| self.nodes[*node].port == port)
    }

    /// Waits until another node than `not` owns the slot of a name, according to the node `observer`.
    pub(crate) async fn wait_for_owner_seen_by(&self, observer: usize, name: &str, not: usize) -> usize {
        let slot = self.command(observer, &["CLUSTER", "KEYSLOT", name]).await;
        until("another node owns the slot", async || {
            self.owner_at(observer, slot).await.filter(|owner| *owner != not)
        })
        .await
    }

    /// Waits until another node than `node` owns the slot of a name.
    pub(crate) async fn wait_for_owner_other_than(&self, name: &str, node: usize) -> usize {
        until("another node owns the slot", async || {
            Some(self.owner(name).await).filter(|owner| *owner != node)
        })
        .await
    }

    /// Moves slots between nodes.
    pub(crate) fn resharding(&self) -> Resharding<'_> {
        Resharding(self)
    }
}

/// Arguments for TLS to clients and between nodes, and for a password.
fn tls_arguments(authority: &Authority, issued: &Issued, tls_port: u16) -> Vec<String> {
    let path = |path: &std::path::Path| path.display().to_string();
    let (ca, certificate, key) = (path(&authority.file()), path(&issued.certificate), path(&issued.key));
    let port = tls_port.to_string();
    [
        ["--tls-port", &port],
        ["--tls-ca-cert-file", &ca],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-auth-clients", "no"],
        ["--tls-cluster", "yes"],
        ["--tls-replication", "yes"],
        ["--requirepass", PASSWORD],
        ["--masterauth", PASSWORD],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

fn spawn(arguments: &[String], bus: u16, kept: &TempDir) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--cluster-enabled", "yes"]);
    command.args(["--cluster-node-timeout", NODE_TIMEOUT, "--repl-diskless-sync-delay", "0"]);
    command.args(arguments).args(["--cluster-port", &bus.to_string()]);
    command.arg("--dir").arg(kept.path());
    Process::start(command, tempfile::tempdir().unwrap())
}
