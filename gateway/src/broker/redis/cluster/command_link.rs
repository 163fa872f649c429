//! The command link of a cluster: each command goes to a node that can execute it.
//!
//! Owns the connections and the replies. Plain `PUBLISH`es go to one node, any, so that their order is kept. Commands
//! for a slot go to its owner, one batch at a time for each slot, so that a node that does not reply delays only its
//! own slots. Must never execute a command twice: see [`super::slot_queue`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::super::command_link::fail_all;
use super::super::command_queue::{CommandQueue, QueuedCommand};
use super::super::local_fallback::FALLBACK_AFTER;
use super::super::ping::{clock, ping};
use super::super::settings::RedisSettings;
use super::super::status::LinkState;
use super::Cluster;
use super::bus::BusSnapshot;
use super::node_pool::{Availability, NodePool};
use super::slot_queue::SlotQueue;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, LinkError, NodeAddress};

mod sending;

use sending::{Disconnected, SendOutcome, notify_disconnect, send};

/// The interval of retries for waiting queues.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Reported disconnects that may wait; others are detected by the next use.
const DISCONNECTS_MAX: usize = 64;

/// The key of a queue: a slot, or `None` for any node.
type QueueKey = Option<u16>;

/// The task of the link.
pub(in crate::broker::redis) struct ClusterCommandLink {
    settings: Arc<RedisSettings>,
    cluster: Arc<Cluster>,
    state: Arc<LinkState>,
    command_queue: CommandQueue,
    queues: HashMap<QueueKey, SlotQueue>,
    /// Commands in all queues, without those in flight.
    queued: usize,
    pool: NodePool,
    any_node: AnyNode,
    in_flight: FuturesUnordered<BoxFuture<'static, ClusterEvent>>,
    disconnects: (mpsc::Sender<Disconnected>, mpsc::Receiver<Disconnected>),
    /// The last reported failure; `None` while the link is up.
    reported: Option<LinkError>,
}

/// The node for commands that any node can execute.
struct AnyNode {
    node: Option<NodeAddress>,
    dialling: bool,
    not_before: Instant,
    down_since: Option<Instant>,
    backoff: Backoff,
    why: LinkError,
}

enum ClusterEvent {
    Sent(QueueKey, NodeAddress, u64, VecDeque<QueuedCommand>, SendOutcome),
    Dialled(NodeAddress, u64, Result<MultiplexedConnection, LinkError>),
    DialledAnywhere(u64, Result<(NodeAddress, MultiplexedConnection), LinkError>),
    Checked(NodeAddress, u64, Result<(), LinkError>),
}

impl ClusterCommandLink {
    pub(in crate::broker::redis) fn new(
        settings: &Arc<RedisSettings>,
        cluster: &Arc<Cluster>,
        state: &Arc<LinkState>,
        command_queue: CommandQueue,
    ) -> Self {
        Self {
            settings: Arc::clone(settings),
            cluster: Arc::clone(cluster),
            state: Arc::clone(state),
            command_queue,
            queues: HashMap::new(),
            queued: 0,
            pool: NodePool::new(&settings.instance),
            any_node: AnyNode {
                node: None,
                dialling: false,
                not_before: Instant::now(),
                down_since: Some(Instant::now()),
                backoff: Backoff::new(&settings.instance),
                why: connecting(),
            },
            in_flight: FuturesUnordered::new(),
            disconnects: mpsc::channel(DISCONNECTS_MAX),
            reported: Some(connecting()),
        }
    }

    /// Maintains the link until the gateway stops.
    pub(in crate::broker::redis) async fn run(mut self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.maintain() => {}
        }
        self.state.stopped();
    }

    /// Ends after all senders are dropped.
    async fn maintain(&mut self) {
        let mut checks = clock(self.settings.ping_interval);
        let mut looks = clock(RETRY_INTERVAL);
        let mut readings = self.cluster.updates();
        let mut open = true;
        while open || !self.queues.is_empty() {
            self.connect_any_node();
            let room = self.queued < self.settings.queue_items;
            tokio::select! {
                some = self.command_queue.ready(), if open && room => {
                    open = some;
                    self.enqueue_commands();
                }
                Some(event) = self.in_flight.next() => self.on_event(event),
                Some((node, generation)) = self.disconnects.1.recv() => {
                    self.on_connection_lost(&node, generation, LinkError::Unreachable("the connection was closed".to_owned()));
                }
                Ok(()) = readings.changed() => self.drop_unneeded_nodes(),
                _ = checks.tick() => self.start_checks(),
                _ = looks.tick(), if self.queued > 0 || !open => self.retry_waiting(),
            }
        }
    }

    /// Moves commands into the queues, and sends what can be sent.
    fn enqueue_commands(&mut self) {
        let mut keys = Vec::new();
        for waiting in self.command_queue.batch() {
            let key = waiting.request.slot();
            self.queues.entry(key).or_default().push(waiting);
            self.queued += 1;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys.into_iter().for_each(|key| self.advance(key));
    }

    /// Retries every waiting queue.
    fn retry_waiting(&mut self) {
        let waiting: Vec<QueueKey> =
            self.queues.iter().filter(|(_, queue)| !queue.busy).map(|(key, _)| *key).collect();
        for key in waiting {
            let is_without = self.is_fallback_active(key);
            if let Some(queue) = self.queues.get_mut(&key) {
                self.queued -= queue.drop_expired();
                if is_without {
                    self.queued -= queue.deliver_local(self.command_queue.fallback());
                }
            }
            self.advance(key);
        }
    }

    /// Whether the node of a queue has been down for long enough for the fallback. Other nodes do not matter.
    fn is_fallback_active(&self, key: QueueKey) -> bool {
        let owner = key.and_then(|slot| self.cluster.topology().owner(slot).cloned());
        let since = match owner {
            Some(owner) => self.pool.down_since(&owner),
            None => self.any_node.down_since,
        };
        since.is_some_and(|since| since.elapsed() >= FALLBACK_AFTER)
    }

    /// Sends the next batch of a queue, if its node can be reached.
    fn advance(&mut self, key: QueueKey) {
        let now = Instant::now();
        let Some(queue) = self.queues.get_mut(&key) else { return };
        if queue.is_idle() {
            self.queues.remove(&key);
            return;
        }
        if !queue.is_due(now) {
            return;
        }
        let node = match (queue.asking().cloned(), key) {
            (Some(node), _) => node,
            (None, None) => match self.any_node.node.clone() {
                Some(node) => node,
                None => return,
            },
            (None, Some(slot)) => match self.cluster.topology().owner(slot).cloned() {
                Some(node) => node,
                None => return self.cluster.invalidate_topology(),
            },
        };
        match self.pool.availability(&node, now) {
            Availability::Ready(up) => {
                let up = up.clone();
                let (batch, generation) = (queue.next_batch(), up.generation);
                self.queued -= batch.requests.len();
                self.in_flight.push(Box::pin(async move {
                    let (requests, outcome) = send(up, batch).await;
                    ClusterEvent::Sent(key, node, generation, requests, outcome)
                }));
            }
            Availability::Dial => self.dial(node),
            Availability::Wait => {}
        }
    }

    fn dial(&mut self, node: NodeAddress) {
        let (cluster, generation) = (Arc::clone(&self.cluster), self.pool.next_generation());
        let end = notify_disconnect(self.disconnects.0.clone(), node.clone(), generation);
        self.in_flight.push(Box::pin(async move {
            let connection = cluster.dial(&node, "commands", end).await;
            ClusterEvent::Dialled(node, generation, connection)
        }));
    }

    /// Connects to a node for the commands that any node can execute.
    fn connect_any_node(&mut self) {
        if self.any_node.node.is_some() || self.any_node.dialling || self.any_node.not_before > Instant::now()
        {
            return;
        }
        self.any_node.dialling = true;
        let (cluster, generation) = (Arc::clone(&self.cluster), self.pool.next_generation());
        let disconnects = self.disconnects.0.clone();
        self.in_flight.push(Box::pin(async move {
            let end = |node: &NodeAddress| notify_disconnect(disconnects.clone(), node.clone(), generation);
            let found = cluster.dial_any("commands", end).await;
            ClusterEvent::DialledAnywhere(generation, found.map(|(node, connection, ..)| (node, connection)))
        }));
    }

    fn on_event(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::Sent(key, node, generation, requests, outcome) => {
                self.on_sent(key, &node, generation, requests, outcome);
                self.advance(key);
            }
            ClusterEvent::Dialled(node, generation, Ok(connection)) => {
                self.pool.dialled(&node, generation, connection);
                self.retry_waiting();
            }
            ClusterEvent::Dialled(node, _, Err(failure)) => {
                self.pool.dial_failed(&node, failure);
                self.cluster.invalidate_topology();
            }
            ClusterEvent::DialledAnywhere(generation, Ok((node, connection))) => {
                self.pool.dialled(&node, generation, connection);
                self.any_node.dialling = false;
                self.any_node.node = Some(node);
                self.any_node.down_since = None;
                self.advance(None);
            }
            ClusterEvent::DialledAnywhere(_, Err(failure)) => {
                self.any_node.dialling = false;
                self.any_node.not_before = Instant::now() + self.any_node.backoff.next(&failure);
                self.any_node.why = failure;
                self.cluster.invalidate_topology();
            }
            ClusterEvent::Checked(node, generation, Ok(())) => {
                self.pool.on_alive(&node, generation);
                self.any_node.backoff.reset();
            }
            ClusterEvent::Checked(node, generation, Err(failure)) => {
                self.on_connection_lost(&node, generation, failure)
            }
        }
        self.report();
    }

    fn on_sent(
        &mut self,
        key: QueueKey,
        node: &NodeAddress,
        generation: u64,
        requests: VecDeque<QueuedCommand>,
        outcome: SendOutcome,
    ) {
        let queue = self.queues.entry(key).or_default();
        let before = queue.len();
        let lost = match outcome {
            SendOutcome::Answered(values, scripts) => {
                let (moved, setback) = queue.on_replies(requests, values, node);
                self.pool.know_scripts(node, generation, scripts && !setback);
                if let Some(moved) = moved {
                    self.cluster.moved(moved.slot, &moved.node);
                }
                if setback {
                    self.cluster.invalidate_topology();
                }
                None
            }
            SendOutcome::Broken(failure) => {
                queue.busy = false;
                Some(fail_all(requests, failure))
            }
            SendOutcome::NotSent(failure) => {
                queue.requeue(requests);
                Some(failure)
            }
        };
        self.queued += queue.len() - before;
        if let Some(failure) = lost {
            self.on_connection_lost(node, generation, failure);
        }
    }

    /// Handles the end of a connection.
    fn on_connection_lost(&mut self, node: &NodeAddress, generation: u64, failure: LinkError) {
        if !self.pool.lost(node, generation, failure.clone().with_node(node)) {
            return;
        }
        self.cluster.invalidate_topology();
        if self.any_node.node.as_ref() == Some(node) {
            self.any_node.node = None;
            self.any_node.down_since = Some(Instant::now());
            self.any_node.not_before = Instant::now() + self.any_node.backoff.next(&failure);
            self.any_node.why = failure.with_node(node);
        }
        self.report();
    }

    /// Checks every connection by PING; the one for any-node commands by its bus.
    fn start_checks(&mut self) {
        // A node that was needed will be needed again, and its state is reported.
        self.pool.dial_due(Instant::now()).into_iter().for_each(|node| self.dial(node));
        let limit = self.settings.ping_timeout;
        for (node, up) in self.pool.take_for_check() {
            let (connection, generation) = (up.connection, up.generation);
            let any_node = self.any_node.node.as_ref() == Some(&node);
            self.in_flight.push(Box::pin(async move {
                let lives = match any_node {
                    true => BusSnapshot::read(connection, limit).await.map(drop),
                    false => ping(connection, limit).await.map(drop),
                };
                ClusterEvent::Checked(node, generation, lives)
            }));
        }
    }

    /// Drops the nodes that own no slot and are not in use.
    fn drop_unneeded_nodes(&mut self) {
        let topology = self.cluster.topology();
        let any_node = self.any_node.node.clone();
        let asked: Vec<_> = self.queues.values().filter_map(|queue| queue.asking().cloned()).collect();
        self.pool.retain(|node| {
            topology.is_primary(node) || any_node.as_ref() == Some(node) || asked.contains(node)
        });
        self.retry_waiting();
        self.report();
    }

    /// Reports the state of the link.
    fn report(&mut self) {
        let trouble = match self.any_node.node {
            Some(_) => self.pool.failure(),
            None => Some(self.any_node.why.clone()),
        };
        if trouble == self.reported {
            return;
        }
        match &trouble {
            Some(failure) => self.state.down(failure),
            None => {
                self.state.up();
            }
        }
        self.reported = trouble;
    }
}

fn connecting() -> LinkError {
    LinkError::Unreachable("connecting".to_owned())
}
