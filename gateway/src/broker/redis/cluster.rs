//! A Redis Cluster, as far as the links of a broker share it: who owns which slot, and how a node is dialled.
//!
//! Owns the topology: read at the start, again whenever somebody found it wrong or lost a node, and now and then by
//! itself. Must never send a publication or hear one.
//!
//! - `topology`: the map of slots, as a node tells it.
//! - `bus`: whether a node hears the others.
//! - `shards`, `shard_line`, `shard_probe`: links to the nodes that carry shard channels, how they are spoken to, and
//!   whether they hear.
//! - `nodes`, `lane`, `commands`: what the cluster is asked, in order for each slot.

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
pub(super) mod commands;
pub(super) mod lane;
mod nodes;
pub(super) mod shard_line;
pub(super) mod shard_probe;
pub(super) mod shards;
pub(super) mod topology;

use bus::Bus;
use topology::Topology;

/// The longest time between two readings of the topology.
const REFRESH: Duration = Duration::from_secs(5);
/// The shortest time between two readings: many find out at once that something has moved.
const REFRESH_MIN: Duration = Duration::from_millis(100);
/// How long one node may keep us waiting before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(500);

/// What the links of one broker know of their cluster.
pub(super) struct Cluster {
    settings: ConnectConfig,
    seeds: Vec<NodeAddress>,
    look_limit: Duration,
    topology: watch::Sender<Arc<Topology>>,
    stale: Notify,
}

impl Cluster {
    /// The cluster behind these settings; `None` when they name none.
    pub(super) fn new(settings: &RedisSettings) -> Option<Arc<Self>> {
        let more = settings.instance.cluster.as_ref()?;
        let mut seeds: Vec<_> = NodeAddress::from_config(&settings.instance).into_iter().collect();
        seeds.extend(more.iter().filter(|seed| Some(*seed) != seeds.first()).cloned().collect::<Vec<_>>());
        Some(Arc::new(Self {
            settings: settings.instance.clone(),
            seeds,
            look_limit: settings.ping_timeout,
            topology: watch::Sender::new(Arc::default()),
            stale: Notify::new(),
        }))
    }

    /// Keeps the topology until the gateway stops.
    pub(super) async fn run(self: Arc<Self>, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut backoff = Backoff::new(&self.settings);
        loop {
            match self.read().await {
                Ok(topology) => {
                    backoff.reset();
                    self.topology.send_replace(Arc::new(topology));
                    // Sent although nothing may have changed: whoever found it wrong waits for a newer one.
                    tokio::time::sleep(REFRESH_MIN).await;
                    let _ = tokio::time::timeout(REFRESH, self.stale.notified()).await;
                }
                Err(failure) => {
                    tracing::debug!(instance = %self.settings.name, cause = %failure, "no topology");
                    tokio::time::sleep(backoff.next(&failure).max(REFRESH_MIN)).await;
                }
            }
        }
    }

    async fn read(&self) -> Result<Topology, LinkError> {
        let attempts = self.candidates().into_iter().map(|node| async move {
            let (mut connection, _) = self.dial_in_touch(&node, "topology", deaf).await?;
            let question = redis::cmd("CLUSTER").arg("SLOTS").take();
            let answer = connection.send_packed_command(&question).await?;
            let unknown = || LinkError::Unreachable(format!("{node} knows no slots"));
            Topology::read(&answer, &node).ok_or_else(unknown)
        });
        first(attempts).await
    }

    /// The topology as it is known now.
    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Tells from now on when it is time to look at the topology again.
    pub(super) fn readings(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// The topology is in doubt: it is read again soon.
    pub(super) fn doubt(&self) {
        self.stale.notify_one();
    }

    /// A node said where a slot is now.
    pub(super) fn moved(&self, slot: u16, node: &NodeAddress) {
        self.topology.send_if_modified(|topology| {
            if topology.owner(slot) != Some(node) {
                Arc::make_mut(topology).moved(slot, node);
            }
            // Whoever heard it says when it is time to place anew.
            false
        });
        self.doubt();
    }

    /// What waits for a place may have one by now.
    pub(super) fn place_again(&self) {
        self.topology.send_modify(|_| {});
        self.doubt();
    }

    /// One attempt to connect to one node.
    pub(super) async fn dial(
        &self,
        node: &NodeAddress,
        purpose: &str,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, LinkError> {
        let attempt = Dialer::new(&self.settings.for_node(node), purpose);
        attempt.dial(pushes).await.map_err(|failure| failure.with_node(node))
    }

    /// Connects to any node that is in touch with the cluster; `pushes` makes a sender for each attempt.
    pub(super) async fn dial_any<P: AsyncPushSender + Clone>(
        &self,
        purpose: &str,
        pushes: impl Fn(&NodeAddress) -> P,
    ) -> Result<(NodeAddress, MultiplexedConnection, Bus, P), LinkError> {
        let attempts = self.candidates().into_iter().map(|node| {
            let pushes = pushes(&node);
            async move {
                let (connection, bus) = self.dial_in_touch(&node, purpose, pushes.clone()).await?;
                Ok((node, connection, bus, pushes))
            }
        });
        first(attempts).await
    }

    async fn dial_in_touch(
        &self,
        node: &NodeAddress,
        purpose: &str,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, Bus), LinkError> {
        let connection = self.dial(node, purpose, pushes).await?;
        let bus = Bus::look(connection.clone(), self.look_limit)
            .await
            .map_err(|failure| failure.with_node(node))?;
        Ok((connection, bus))
    }

    /// Every node that may be there, in an order of its own each time, those that were told of first.
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

/// Takes the pushes of a connection that carries no subscription.
fn deaf(_: PushInfo) -> Result<(), SendError> {
    Ok(())
}

/// The first attempt that succeeds. The next one begins when one has failed, or when it takes its time: a node that
/// hangs must not hold up what others can do.
async fn first<T>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, LinkError>>>,
) -> Result<T, LinkError> {
    let mut attempts = attempts.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut why = LinkError::Unreachable("no node of the cluster is known".to_owned());
    loop {
        under_way.extend(attempts.next());
        if under_way.is_empty() {
            return Err(why);
        }
        match tokio::time::timeout(STAGGER, under_way.next()).await {
            Ok(Some(Ok(done))) => return Ok(done),
            // A refusal has somebody who must act; it outweighs nodes that are merely away.
            Ok(Some(Err(failure))) if !matches!(why, LinkError::Rejected(_)) => why = failure,
            Ok(_) | Err(_) => {}
        }
    }
}
