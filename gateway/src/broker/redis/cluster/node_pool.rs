//! The connections of the command link to the nodes of a cluster.
//!
//! Owns their state (up or down), and the time of the next connection attempt to each node. Must never connect by
//! itself: the caller does, so that nothing waits for a node that does not reply.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use earshot_redis_link::{Backoff, ConnectConfig, LinkError, NodeAddress};

/// Every node that was needed so far.
#[derive(Debug)]
pub(super) struct NodePool {
    settings: ConnectConfig,
    nodes: HashMap<NodeAddress, PoolNode>,
    generation: u64,
}

#[derive(Debug)]
struct PoolNode {
    state: NodeState,
    backoff: Backoff,
    down_since: Option<Instant>,
}

#[derive(Debug)]
enum NodeState {
    Down { until: Instant, why: LinkError },
    Dialling,
    Up(NodeConnection),
}

/// A connection that is up.
#[derive(Clone, Debug)]
pub(super) struct NodeConnection {
    pub(super) connection: MultiplexedConnection,
    /// Distinguishes it from earlier connections.
    pub(super) generation: u64,
    /// The scripts are loaded.
    pub(super) scripts: bool,
    /// A check is in flight.
    pub(super) checking: bool,
    since: Instant,
}

/// The availability of a node.
pub(super) enum Availability<'a> {
    Ready(&'a mut NodeConnection),
    /// The caller must connect; the node counts as connecting from now on.
    Dial,
    /// The node is connecting, or waits for its backoff.
    Wait,
}

impl NodePool {
    pub(super) fn new(settings: &ConnectConfig) -> Self {
        Self { settings: settings.clone(), nodes: HashMap::new(), generation: 0 }
    }

    pub(super) fn availability(&mut self, address: &NodeAddress, now: Instant) -> Availability<'_> {
        let settings = &self.settings;
        let node = self.nodes.entry(address.clone()).or_insert_with(|| PoolNode {
            state: NodeState::Down { until: now, why: LinkError::Unreachable("connecting".to_owned()) },
            backoff: Backoff::new(settings),
            down_since: Some(now),
        });
        match &node.state {
            NodeState::Down { until, .. } if *until <= now => {
                node.state = NodeState::Dialling;
                Availability::Dial
            }
            NodeState::Down { .. } | NodeState::Dialling => Availability::Wait,
            NodeState::Up(_) => match &mut node.state {
                NodeState::Up(up) => Availability::Ready(up),
                NodeState::Down { .. } | NodeState::Dialling => Availability::Wait,
            },
        }
    }

    /// The nodes that are due for a reconnect; they count as connecting from now on.
    pub(super) fn dial_due(&mut self, now: Instant) -> Vec<NodeAddress> {
        let nodes = self.nodes.iter_mut();
        let due = nodes.filter_map(|(address, node)| match node.state {
            NodeState::Down { until, .. } if until <= now => {
                node.state = NodeState::Dialling;
                Some(address.clone())
            }
            NodeState::Down { .. } | NodeState::Dialling | NodeState::Up(_) => None,
        });
        due.collect()
    }

    /// Records a new connection. A node that is up keeps its present one.
    pub(super) fn dialled(
        &mut self,
        address: &NodeAddress,
        generation: u64,
        connection: MultiplexedConnection,
    ) {
        let settings = &self.settings;
        let node = self.nodes.entry(address.clone()).or_insert_with(|| PoolNode {
            state: NodeState::Dialling,
            backoff: Backoff::new(settings),
            down_since: None,
        });
        if !matches!(node.state, NodeState::Up(_)) {
            let since = Instant::now();
            node.state = NodeState::Up(NodeConnection {
                connection,
                generation,
                scripts: false,
                checking: false,
                since,
            });
            node.down_since = None;
        }
    }

    /// Records a failed attempt.
    pub(super) fn dial_failed(&mut self, address: &NodeAddress, why: LinkError) {
        if let Some(node) = self.nodes.get_mut(address).filter(|node| !matches!(node.state, NodeState::Up(_)))
        {
            node.state = NodeState::Down { until: Instant::now() + node.backoff.next(&why), why };
        }
    }

    /// Records the end of a connection. Returns `false` when it was recorded before.
    pub(super) fn lost(&mut self, address: &NodeAddress, generation: u64, why: LinkError) -> bool {
        let Some(node) = self.nodes.get_mut(address) else { return false };
        let NodeState::Up(up) = &node.state else { return false };
        if up.generation != generation {
            return false;
        }
        // A connection that ended soon must not reset the backoff.
        if up.since.elapsed() > self.settings.retry_max {
            node.backoff.reset();
        }
        node.state = NodeState::Down { until: Instant::now() + node.backoff.next(&why), why };
        node.down_since = Some(Instant::now());
        true
    }

    /// Since when a node is down.
    pub(super) fn down_since(&self, address: &NodeAddress) -> Option<Instant> {
        self.nodes.get(address)?.down_since
    }

    /// Stores whether the server of a connection has loaded the scripts.
    pub(super) fn know_scripts(&mut self, address: &NodeAddress, generation: u64, known: bool) {
        if let Some(up) = self.up(address).filter(|up| up.generation == generation) {
            up.scripts = known;
        }
    }

    /// Records that a check succeeded.
    pub(super) fn on_alive(&mut self, address: &NodeAddress, generation: u64) {
        if let Some(up) = self.up(address).filter(|up| up.generation == generation) {
            up.checking = false;
        }
    }

    /// The connection of a node that is up.
    pub(super) fn up(&mut self, address: &NodeAddress) -> Option<&mut NodeConnection> {
        match self.nodes.get_mut(address).map(|node| &mut node.state) {
            Some(NodeState::Up(up)) => Some(up),
            Some(NodeState::Down { .. } | NodeState::Dialling) | None => None,
        }
    }

    /// Every connection without a check in flight; one counts as started from now on.
    pub(super) fn take_for_check(&mut self) -> Vec<(NodeAddress, NodeConnection)> {
        let nodes = self.nodes.iter_mut();
        let up = nodes.filter_map(|(address, node)| match &mut node.state {
            NodeState::Up(up) if !up.checking => {
                up.checking = true;
                Some((address.clone(), up.clone()))
            }
            NodeState::Up(_) | NodeState::Down { .. } | NodeState::Dialling => None,
        });
        up.collect()
    }

    /// Drops the nodes that are not needed.
    pub(super) fn retain(&mut self, needed: impl Fn(&NodeAddress) -> bool) {
        self.nodes.retain(|address, node| matches!(node.state, NodeState::Dialling) || needed(address));
    }

    /// Why a node is down, for one of them.
    pub(super) fn failure(&self) -> Option<LinkError> {
        self.nodes.values().find_map(|node| match &node.state {
            NodeState::Down { why, .. } => Some(why.clone()),
            NodeState::Dialling | NodeState::Up(_) => None,
        })
    }

    /// A number for the next connection.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}
