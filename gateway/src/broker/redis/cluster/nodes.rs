//! The connections of the command link to the nodes of a cluster: one to each that is needed.
//!
//! Owns which of them are up, and when one that is down may be dialled again. Must never dial by itself: whoever asks
//! carries that out, so that nothing waits for a node that hangs.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use earshot_redis_link::{Backoff, ConnectConfig, LinkError, NodeAddress};

/// Every node that was needed so far.
#[derive(Debug)]
pub(super) struct Nodes {
    settings: ConnectConfig,
    nodes: HashMap<NodeAddress, Node>,
    generation: u64,
}

#[derive(Debug)]
struct Node {
    state: State,
    backoff: Backoff,
    down_since: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Down { until: Instant, why: LinkError },
    Dialling,
    Up(Up),
}

/// A connection that works, as far as anybody knows.
#[derive(Clone, Debug)]
pub(super) struct Up {
    pub(super) connection: MultiplexedConnection,
    /// Tells it from those before it.
    pub(super) generation: u64,
    /// The server was given the scripts.
    pub(super) scripts: bool,
    /// It is being asked whether it lives.
    pub(super) checking: bool,
    since: Instant,
}

/// What can be had of a node now.
pub(super) enum Reach<'a> {
    Up(&'a mut Up),
    /// It may be dialled, and counts as being dialled from now on.
    Dial,
    /// It is being dialled, or has to wait.
    Wait,
}

impl Nodes {
    pub(super) fn new(settings: &ConnectConfig) -> Self {
        Self { settings: settings.clone(), nodes: HashMap::new(), generation: 0 }
    }

    pub(super) fn reach(&mut self, address: &NodeAddress, now: Instant) -> Reach<'_> {
        let settings = &self.settings;
        let node = self.nodes.entry(address.clone()).or_insert_with(|| Node {
            state: State::Down { until: now, why: LinkError::Unreachable("connecting".to_owned()) },
            backoff: Backoff::new(settings),
            down_since: Some(now),
        });
        match &node.state {
            State::Down { until, .. } if *until <= now => {
                node.state = State::Dialling;
                Reach::Dial
            }
            State::Down { .. } | State::Dialling => Reach::Wait,
            State::Up(_) => match &mut node.state {
                State::Up(up) => Reach::Up(up),
                State::Down { .. } | State::Dialling => Reach::Wait,
            },
        }
    }

    /// The nodes that were lost and may be dialled again; they count as being dialled from now on.
    pub(super) fn dial_out(&mut self, now: Instant) -> Vec<NodeAddress> {
        let nodes = self.nodes.iter_mut();
        let due = nodes.filter_map(|(address, node)| match node.state {
            State::Down { until, .. } if until <= now => {
                node.state = State::Dialling;
                Some(address.clone())
            }
            State::Down { .. } | State::Dialling | State::Up(_) => None,
        });
        due.collect()
    }

    /// A node was dialled. One that is up already keeps the connection that it has.
    pub(super) fn dialled(
        &mut self,
        address: &NodeAddress,
        generation: u64,
        connection: MultiplexedConnection,
    ) {
        let settings = &self.settings;
        let node = self.nodes.entry(address.clone()).or_insert_with(|| Node {
            state: State::Dialling,
            backoff: Backoff::new(settings),
            down_since: None,
        });
        if !matches!(node.state, State::Up(_)) {
            let since = Instant::now();
            node.state = State::Up(Up { connection, generation, scripts: false, checking: false, since });
            node.down_since = None;
        }
    }

    /// A node could not be dialled.
    pub(super) fn not_dialled(&mut self, address: &NodeAddress, why: LinkError) {
        if let Some(node) = self.nodes.get_mut(address).filter(|node| !matches!(node.state, State::Up(_))) {
            node.state = State::Down { until: Instant::now() + node.backoff.next(&why), why };
        }
    }

    /// A connection is of no use any more; `false` when it was given up before.
    pub(super) fn lost(&mut self, address: &NodeAddress, generation: u64, why: LinkError) -> bool {
        let Some(node) = self.nodes.get_mut(address) else { return false };
        let State::Up(up) = &node.state else { return false };
        if up.generation != generation {
            return false;
        }
        // One that was only good for a moment must not be hurried after.
        if up.since.elapsed() > self.settings.retry_max {
            node.backoff.reset();
        }
        node.state = State::Down { until: Instant::now() + node.backoff.next(&why), why };
        node.down_since = Some(Instant::now());
        true
    }

    /// Since when a node that is needed cannot be had.
    pub(super) fn down_since(&self, address: &NodeAddress) -> Option<Instant> {
        self.nodes.get(address)?.down_since
    }

    /// The server behind a connection knows the scripts, or has forgotten them.
    pub(super) fn know_scripts(&mut self, address: &NodeAddress, generation: u64, known: bool) {
        if let Some(up) = self.up(address).filter(|up| up.generation == generation) {
            up.scripts = known;
        }
    }

    /// A connection has answered.
    pub(super) fn lives(&mut self, address: &NodeAddress, generation: u64) {
        if let Some(up) = self.up(address).filter(|up| up.generation == generation) {
            up.checking = false;
        }
    }

    /// A connection that works.
    pub(super) fn up(&mut self, address: &NodeAddress) -> Option<&mut Up> {
        match self.nodes.get_mut(address).map(|node| &mut node.state) {
            Some(State::Up(up)) => Some(up),
            Some(State::Down { .. } | State::Dialling) | None => None,
        }
    }

    /// Every connection that works and is not being asked whether it does; it counts as being asked from now on.
    pub(super) fn check_out(&mut self) -> Vec<(NodeAddress, Up)> {
        let nodes = self.nodes.iter_mut();
        let up = nodes.filter_map(|(address, node)| match &mut node.state {
            State::Up(up) if !up.checking => {
                up.checking = true;
                Some((address.clone(), up.clone()))
            }
            State::Up(_) | State::Down { .. } | State::Dialling => None,
        });
        up.collect()
    }

    /// Forgets the nodes that nobody needs any more.
    pub(super) fn keep(&mut self, needed: impl Fn(&NodeAddress) -> bool) {
        self.nodes.retain(|address, node| matches!(node.state, State::Dialling) || needed(address));
    }

    /// Why a node is down, of those that are.
    pub(super) fn trouble(&self) -> Option<LinkError> {
        self.nodes.values().find_map(|node| match &node.state {
            State::Down { why, .. } => Some(why.clone()),
            State::Dialling | State::Up(_) => None,
        })
    }

    /// A number for the next connection.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}
