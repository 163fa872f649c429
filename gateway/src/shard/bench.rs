//! A node and one shard of it, of which nothing moves unless it is told to: what the micro-benchmarks measure, piece by
//! piece. Must never be used by the gateway itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wildmatch::WildMatch;

use super::reactor::Shard;
use super::{Arrival, ArrivalKind, Link, ShardLimits, broadcast, link};
use crate::admission::Permit;
use crate::broker::{Broker, BrokerEventHandler, BrokerMessage, MemoryBroker, WhenUnavailable};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::history::{HistoryBudget, HistoryRules};
use crate::node::messages::NodeRequest;
use crate::node::namespace::{Access, ChannelPattern, Namespace, Namespaces};
use crate::node::publication::{FrameEncoding, Publication};
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::requests::request_queue;
use crate::node::shard_queue::{ShardQueueLimits, ShardReceiver, shard_queue};
use crate::node::{BrokerBinding, Node};

/// A bound that nothing here reaches.
const PLENTY: usize = 1 << 30;

/// A time that does not come.
const NEVER: Duration = Duration::from_secs(3600);

/// The frame or event of a publication, encoded anew.
pub fn encode(form: FrameEncoding, publication: &Publication) -> Bytes {
    broadcast::encode(form, publication)
}

/// A node with the memory broker, and its only shard.
pub struct Stage {
    registry: Arc<ChannelRegistry>,
    shard: Shard,
    inbox: ShardReceiver,
    wakes: mpsc::Sender<u64>,
    asked: mpsc::Receiver<NodeRequest>,
    asks: mpsc::Sender<NodeRequest>,
    /// The node's side of the lane, as it runs as a task elsewhere.
    lane: Pin<Box<dyn Future<Output = ()>>>,
    /// What is given to streams is not read.
    bodies: Vec<link::StreamBody>,
    _woken: mpsc::Receiver<u64>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Stage {
    /// A shard without connections.
    ///
    /// # Errors
    /// When there is no poll to be had.
    pub fn new() -> io::Result<Self> {
        let metrics = Metrics::new(1);
        let (port, inbox) = shard_queue(ShardQueueLimits { items: PLENTY >> 8, bytes: PLENTY });
        let (registry, node) = node(Arc::from([port]), &metrics);
        let (asks_first, asked) = mpsc::channel(1024);
        let (node_handle, request_server) = request_queue(1024);
        let (wakes, woken) = mpsc::channel(1024);
        let shard = Shard::new(Arc::clone(&node), limits(), asks_first, Arc::clone(&metrics.shards[0]))?;
        let lane = Box::pin(async move { request_server.run(&node, 0).await });
        let (asks, bodies) = (node_handle.requests, Vec::new());
        Ok(Self { registry, shard, inbox, wakes, asked, asks, lane, bodies, _woken: woken })
    }

    /// A client on a socket; `early` is what it has said already.
    pub fn take(&mut self, socket: mio::net::TcpStream, kind: ArrivalKind, early: Bytes) {
        self.arrive(Link::Socket(socket), kind, early);
    }

    /// A client that takes nothing.
    pub fn take_deaf(&mut self, kind: ArrivalKind, early: Bytes) {
        let (link, body) = link::stream(self.wakes.clone());
        self.bodies.push(body);
        self.arrive(Link::Stream(link), kind, early);
    }

    fn arrive(&mut self, link: Link, kind: ArrivalKind, early: Bytes) {
        let permit = Permit::unlimited();
        self.shard.arrive(Arrival { link, kind, permit, greeting: Bytes::new(), greeted: 0, early });
        self.settle();
    }

    /// Everything that was asked is answered, and everything that waits is written.
    pub fn settle(&mut self) {
        for _ in 0..3 {
            while let Ok(ask) = self.asked.try_recv() {
                // The lane has room for more than is ever asked here.
                let _ = self.asks.try_send(ask);
            }
            let _ = self.lane.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.dispatch();
            self.flush();
        }
    }

    /// Messages that a broker heard are stamped and put into the way to the shard.
    pub fn hear(&self, messages: &mut Vec<BrokerMessage>) {
        self.registry.on_messages(messages);
    }

    /// What is in the way to the shard is put into outboxes.
    pub fn dispatch(&mut self) {
        while let Some(delivery) = self.inbox.try_next() {
            self.shard.deliver(delivery);
        }
    }

    /// What is in outboxes is written.
    pub fn flush(&mut self) {
        while !self.shard.dirty.is_empty() {
            self.shard.flush_some();
        }
    }

    /// What is in outboxes is dropped; says of how many connections.
    pub fn forget(&mut self) -> usize {
        let waiting = self.shard.dirty.len();
        for at in std::mem::take(&mut self.shard.dirty) {
            if let Some(connection) = self.shard.connections.get_mut(at as usize) {
                connection.dirty = false;
                let bytes = connection.outbox.bytes();
                connection.outbox.advance(bytes);
            }
        }
        waiting
    }
}

fn node(
    ports: Arc<[crate::node::shard_queue::ShardSender]>,
    metrics: &Arc<Metrics>,
) -> (Arc<ChannelRegistry>, Arc<Node>) {
    let budget = HistoryBudget::new(PLENTY);
    let limits = ChannelLimits {
        channels: PLENTY,
        idle_per_creator: PLENTY,
        unsubscribe_delay: NEVER,
        publication_bytes: PLENTY,
        recovery_publications: 1,
    };
    let registry = ChannelRegistry::new(Arc::clone(&ports), limits, Arc::clone(&budget), Arc::clone(metrics));
    let broker = Broker::Memory(Arc::new(MemoryBroker::new(Arc::<ChannelRegistry>::clone(&registry))));
    let binding = BrokerBinding {
        name: "memory".to_owned(),
        registry: Arc::clone(&registry),
        broker,
        affects_readiness: true,
    };
    let all = Namespace {
        name: "all".to_owned(),
        channels: vec![ChannelPattern { glob: WildMatch::new("*"), is_exact: false, broker_pattern: None }],
        brokers: Box::new([0]),
        subscribe: Access::Anyone,
        publish: Access::Nobody,
        sharded: false,
        history: HistoryRules { size: 64, ttl: NEVER, bytes: PLENTY },
        log: None,
        when_unavailable: WhenUnavailable::Reject,
        replay_last: false,
        backpressure: None,
    };
    let namespaces = Namespaces::new(vec![all], &[]);
    (
        registry,
        Node::new(namespaces, vec![binding], ports, budget, PLENTY, Drain::default(), Arc::clone(metrics)),
    )
}

fn limits() -> ShardLimits {
    ShardLimits {
        message_bytes: 64 * 1024,
        client_queue_bytes: 1024 * 1024,
        pending_command_bytes: 1024 * 1024,
        client_queue_age: Some(NEVER),
        channels_per_connection: 128,
        commands_per_frame: 1024,
        recovery_publications: 300,
        recovery_page: super::RECOVERY_PAGE,
        inflight_requests: 1024,
        ping_interval: NEVER,
        pong_timeout: NEVER,
        connect_timeout: NEVER,
        close_timeout: NEVER,
        sse_heartbeat: NEVER,
        sse_max_age: None,
        sse_retry: NEVER,
    }
}
