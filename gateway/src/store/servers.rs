//! The servers behind the link for reads: one, or the primaries of a cluster.
//!
//! Owns the mapping of keys to servers. Must never keep a server whose role or slots have changed: the link then
//! connects again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_all, select_ok, try_join_all};
use futures::{FutureExt as _, TryFutureExt as _};
use redis::aio::{MultiplexedConnection, SendError};
use redis::{PushInfo, Value};

use super::ping::ping;
use super::settings::StoreSettings;
use earshot_redis_link::slot::{SLOT_COUNT, slot};
use earshot_redis_link::{ConnectConfig, Dialer, FailoverWatch, LinkError, NodeAddress, Topology};

/// Connects to the servers.
#[derive(Debug)]
pub(super) struct ServerDialer {
    settings: Arc<StoreSettings>,
    /// Connects to the server of the URL, or to the primary of the Sentinels.
    dialer: Dialer,
}

/// Connected servers.
pub(super) struct Servers {
    settings: Arc<StoreSettings>,
    connections: Vec<MultiplexedConnection>,
    /// How to reconnect to each of them.
    targets: Arc<Vec<ConnectConfig>>,
    /// Set in a cluster.
    cluster: Option<ClusterView>,
}

/// The nodes of a cluster.
struct ClusterView {
    topology: Topology,
    /// The connected primaries, in the order of the connections.
    nodes: Vec<NodeAddress>,
    /// The primaries that could not be reached.
    missing: Vec<NodeAddress>,
}

impl ServerDialer {
    pub(super) fn new(settings: Arc<StoreSettings>) -> Self {
        let dialer = Dialer::new(&settings.connection, "keys").with_resp2();
        Self { settings, dialer }
    }

    /// Connects once: to one server, or to all primaries of a cluster that can be reached. The watch resolves when the
    /// role of one of them changes.
    ///
    /// # Errors
    /// No server can be reached.
    pub(super) async fn dial(&self) -> Result<(Servers, FailoverWatch), LinkError> {
        let config = &self.settings.connection;
        let Some(seeds) = &config.cluster else {
            let (connection, watch) = self.connect(&self.dialer).await?;
            let targets = Arc::new(vec![config.clone()]);
            let settings = Arc::clone(&self.settings);
            return Ok((Servers { settings, connections: vec![connection], targets, cluster: None }, watch));
        };
        let seeds = NodeAddress::from_config(config).into_iter().chain(seeds.iter().cloned());
        let queries = seeds.map(|seed| self.topology_from(seed).boxed());
        let (topology, _) = select_ok(queries).await?;
        self.dial_cluster(topology).await
    }

    /// Waits for the given time, or until the Sentinels report another primary.
    pub(super) async fn wait_before_retry(&self, wait: Duration) {
        self.dialer.wait_before_retry(wait).await;
    }

    async fn topology_from(&self, seed: NodeAddress) -> Result<Topology, LinkError> {
        let connection = Dialer::new(&self.settings.connection.for_node(&seed), "topology").with_resp2();
        let connection = connection.dial(ignore_pushes).await.map_err(|error| error.with_node(&seed))?;
        read_topology(connection, &seed).await
    }

    async fn dial_cluster(&self, topology: Topology) -> Result<(Servers, FailoverWatch), LinkError> {
        let config = &self.settings.connection;
        let primaries: Vec<_> = topology.nodes().iter().filter(|node| topology.is_primary(node)).collect();
        let attempts = primaries.iter().map(|node| async move {
            let dialer = Dialer::new(&config.for_node(node), "keys").with_resp2();
            self.connect(&dialer).await.map_err(|error| error.with_node(node))
        });
        let outcomes = join_all(attempts).await;
        let (mut connections, mut watches, mut nodes, mut missing) = (vec![], vec![], vec![], vec![]);
        let mut failure = LinkError::Unreachable("no node of the cluster owns a slot".to_owned());
        for (node, outcome) in primaries.into_iter().cloned().zip(outcomes) {
            match outcome {
                Ok((connection, watch)) => {
                    connections.push(connection);
                    watches.push(watch);
                    nodes.push(node);
                }
                Err(error) => {
                    tracing::warn!(instance = %config.name, cause = %error, "the key store cannot use a cluster node");
                    failure = error;
                    missing.push(node);
                }
            }
        }
        if watches.is_empty() {
            return Err(failure);
        }
        let targets = Arc::new(nodes.iter().map(|node| config.for_node(node)).collect());
        let cluster = Some(ClusterView { topology, nodes, missing });
        let settings = Arc::clone(&self.settings);
        let watch = select_all(watches).map(|(error, _, _)| error).boxed();
        Ok((Servers { settings, connections, targets, cluster }, watch))
    }

    async fn connect(&self, dialer: &Dialer) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
        let (connection, watch) = dialer.dial_watched(ignore_pushes).await?;
        // A server without a password, and one that loads its data, are only rejected here.
        ping(connection.clone(), self.settings.ping_timeout).await?;
        Ok((connection, watch))
    }
}

impl Servers {
    /// How to connect to each server.
    pub(super) fn targets(&self) -> Arc<Vec<ConnectConfig>> {
        Arc::clone(&self.targets)
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// The connection to a server.
    pub(super) fn connection(&self, index: usize) -> MultiplexedConnection {
        self.connections[index].clone()
    }

    /// The server that has a key; `None` if it is not connected.
    pub(super) fn index_of(&self, key: &[u8]) -> Option<usize> {
        let Some(cluster) = &self.cluster else { return Some(0) };
        let owner = cluster.topology.owner(slot(key))?;
        cluster.nodes.iter().position(|node| node == owner)
    }

    /// Checks that all servers reply, and that a cluster has the same owners of slots.
    ///
    /// # Errors
    /// A reason to connect again.
    pub(super) async fn check(&self) -> Result<(), LinkError> {
        let limit = self.settings.ping_timeout;
        try_join_all(self.connections.iter().map(|connection| ping(connection.clone(), limit))).await?;
        let (Some(cluster), Some(connection)) = (&self.cluster, self.connections.first()) else {
            return Ok(());
        };
        let topology = read_topology(connection.clone(), &cluster.nodes[0]).await?;
        if (0..SLOT_COUNT).any(|slot| topology.owner(slot) != cluster.topology.owner(slot)) {
            return Err(LinkError::Unreachable("slots of the cluster have other owners".to_owned()));
        }
        for node in &cluster.missing {
            let dialer = Dialer::new(&self.settings.connection.for_node(node), "keys").with_resp2();
            // Without blocking the link for long.
            let attempt = tokio::time::timeout(Duration::from_millis(200), dialer.dial(ignore_pushes));
            if matches!(attempt.await, Ok(Ok(_))) {
                return Err(LinkError::Unreachable(format!("{node} can be reached again")));
            }
        }
        Ok(())
    }
}

async fn read_topology(
    mut connection: MultiplexedConnection,
    node: &NodeAddress,
) -> Result<Topology, LinkError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let reply: Value = connection.send_packed_command(&command).map_err(LinkError::from).await?;
    let invalid = || LinkError::Unreachable(format!("{node} reports no slots"));
    Topology::parse_reply(&reply, Some(node)).ok_or_else(invalid)
}

/// There are none with RESP2.
fn ignore_pushes(_: PushInfo) -> Result<(), SendError> {
    Ok(())
}
