//! A Redis Cluster, as shared by the links of a broker: the owners of slots, and connecting to nodes.
//!
//! Owns the topology: it is read at the start, after it was found wrong or a node was lost, and periodically. Must
//! never publish or receive a message.
//!
//! - `bus`: whether a node receives from the others.
//! - `sharded_connection`, `sharded_prober`: a connection to a node that carries sharded channels.
//! - `node_pool`, `slot_queue`, `command_link`: commands, in order for each slot.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use redis::PushInfo;
use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use tokio::sync::{Notify, watch};

use super::settings::RedisSettings;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, ConnectConfig, Dialer, LinkError, NodeAddress};

pub(super) mod bus;
pub(super) mod command_link;
mod node_pool;
pub(super) mod sharded_connection;
pub(super) mod sharded_prober;
pub(super) mod slot_queue;

use bus::BusSnapshot;
use earshot_redis_link::Topology;

/// The longest interval between two reads of the topology.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest interval between two reads: many links detect a move at the same time.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long one node may take before the next one is tried concurrently.
const STAGGER_DELAY: Duration = Duration::from_millis(500);

/// The state that the links of one broker share.
pub(super) struct Cluster {
    settings: ConnectConfig,
    seeds: Vec<NodeAddress>,
    check_timeout: Duration,
    topology: watch::Sender<Arc<Topology>>,
    stale: Notify,
}

impl Cluster {
    /// Creates the state; `None` when the settings name no cluster.
    pub(super) fn new(settings: &RedisSettings) -> Option<Arc<Self>> {
        let more = settings.instance.cluster.as_ref()?;
        let mut seeds: Vec<_> = NodeAddress::from_config(&settings.instance).into_iter().collect();
        seeds.extend(more.iter().filter(|seed| Some(*seed) != seeds.first()).cloned().collect::<Vec<_>>());
        Some(Arc::new(Self {
            settings: settings.instance.clone(),
            seeds,
            check_timeout: settings.ping_timeout,
            topology: watch::Sender::new(Arc::default()),
            stale: Notify::new(),
        }))
    }

    /// Keeps the topology up to date until the gateway stops.
    pub(super) async fn run(self: Arc<Self>, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.maintain() => {}
        }
    }

    async fn maintain(&self) {
        let mut backoff = Backoff::new(&self.settings);
        loop {
            match self.read().await {
                Ok(topology) => {
                    backoff.reset();
                    self.topology.send_replace(Arc::new(topology));
                    // Sent even if nothing has changed: a link that found it wrong waits for a newer one.
                    tokio::time::sleep(REFRESH_INTERVAL_MIN).await;
                    let _ = tokio::time::timeout(REFRESH_INTERVAL, self.stale.notified()).await;
                }
                Err(failure) => {
                    tracing::debug!(instance = %self.settings.name, cause = %failure, "reading the cluster topology failed");
                    tokio::time::sleep(backoff.next(&failure).max(REFRESH_INTERVAL_MIN)).await;
                }
            }
        }
    }

    async fn read(&self) -> Result<Topology, LinkError> {
        let attempts = self.candidates().into_iter().map(|node| async move {
            let (mut connection, _) = self.dial_connected(&node, "topology", ignore_pushes).await?;
            let question = redis::cmd("CLUSTER").arg("SLOTS").take();
            let answer = connection.send_packed_command(&question).await?;
            let unknown = || LinkError::Unreachable(format!("{node} reports no slots"));
            Topology::parse_reply(&answer, Some(&node)).ok_or_else(unknown)
        });
        first_success(attempts).await
    }

    /// The present topology.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Changes after each read of the topology.
    pub(super) fn updates(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// Requests a read of the topology.
    pub(super) fn invalidate_topology(&self) {
        self.stale.notify_one();
    }

    /// Stores the new owner of a slot, as a node reported it.
    pub(super) fn moved(&self, slot: u16, node: &NodeAddress) {
        self.topology.send_if_modified(|topology| {
            if topology.owner(slot) != Some(node) {
                Arc::make_mut(topology).set_owner(slot, node);
            }
            // The caller requests the placement.
            false
        });
        self.invalidate_topology();
    }

    /// Requests the placement of misplaced topics.
    pub(super) fn request_placement(&self) {
        self.topology.send_modify(|_| {});
        self.invalidate_topology();
    }

    /// Connects to one node.
    pub(super) async fn dial(
        &self,
        node: &NodeAddress,
        purpose: &str,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, LinkError> {
        let attempt = Dialer::new(&self.settings.for_node(node), purpose);
        attempt.dial(pushes).await.map_err(|failure| failure.with_node(node))
    }

    /// Connects to any node that reaches the majority; `pushes` creates a push sender for each attempt.
    pub(super) async fn dial_any<P: AsyncPushSender + Clone>(
        &self,
        purpose: &str,
        pushes: impl Fn(&NodeAddress) -> P,
    ) -> Result<(NodeAddress, MultiplexedConnection, BusSnapshot, P), LinkError> {
        let attempts = self.candidates().into_iter().map(|node| {
            let pushes = pushes(&node);
            async move {
                let (connection, bus) = self.dial_connected(&node, purpose, pushes.clone()).await?;
                Ok((node, connection, bus, pushes))
            }
        });
        first_success(attempts).await
    }

    async fn dial_connected(
        &self,
        node: &NodeAddress,
        purpose: &str,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, BusSnapshot), LinkError> {
        let connection = self.dial(node, purpose, pushes).await?;
        let bus = BusSnapshot::read(connection.clone(), self.check_timeout)
            .await
            .map_err(|failure| failure.with_node(node))?;
        Ok((connection, bus))
    }

    /// Every known node in random order, the reported ones before the configured ones.
    fn candidates(&self) -> Vec<NodeAddress> {
        let topology = self.topology();
        let mut nodes = topology.nodes().to_vec();
        fastrand::shuffle(&mut nodes);
        let mut seeds: Vec<_> = self.seeds.iter().filter(|seed| !nodes.contains(seed)).cloned().collect();
        fastrand::shuffle(&mut seeds);
        nodes.extend(seeds);
        nodes
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Ignores the pushes of a connection without subscriptions.
fn ignore_pushes(_: PushInfo) -> Result<(), SendError> {
    Ok(())
}

/// The first attempt that succeeds. The next one starts when one has failed, or after a delay, so that a node that
/// does not reply does not delay the others.
async fn first_success<T>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, LinkError>>>,
) -> Result<T, LinkError> {
    let mut attempts = attempts.into_iter();
    let mut in_flight = FuturesUnordered::new();
    let mut why = LinkError::Unreachable("no node of the cluster is known".to_owned());
    loop {
        in_flight.extend(attempts.next());
        if in_flight.is_empty() {
            return Err(why);
        }
        match tokio::time::timeout(STAGGER_DELAY, in_flight.next()).await {
            Ok(Some(Ok(done))) => return Ok(done),
            // A rejection needs action by an operator, so it takes precedence over unreachable nodes.
            Ok(Some(Err(failure))) if !matches!(why, LinkError::Rejected(_)) => why = failure,
            Ok(_) | Err(_) => {}
        }
    }
}
