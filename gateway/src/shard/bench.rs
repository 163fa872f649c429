//! A node and one shard that advance only step by step, for the micro-benchmarks. The gateway does not use it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::event_loop::Shard;
use super::{NewConnection, NewConnectionKind, ShardLimits, Sink, framing, sink};
use crate::admission::Permit;
use crate::auth::access::{Access, AccessRules, Grant};
use crate::broker::{BrokerEventHandler, BrokerMessage, MemoryBroker, WhenUnavailable};
use crate::drain::Drain;
use crate::login::Authenticator;
use crate::metrics::Metrics;
use crate::node::channel_pattern::ChannelPattern;
use crate::node::channel_source::ChannelSource;
use crate::node::history::HistoryBudget;
use crate::node::history_rules::HistoryRules;
use crate::node::messages::NodeRequest;
use crate::node::namespace::{Namespace, Namespaces};
use crate::node::publication::{FrameEncoding, Publication};
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::requests::request_queue;
use crate::node::shard_queue::{ShardQueueLimits, ShardReceiver, shard_queue};
use crate::node::{BrokerBinding, Node, NodeRules};

/// A limit that no benchmark reaches.
const UNLIMITED: usize = 1 << 30;

/// A timeout that no benchmark reaches.
const NEVER: Duration = Duration::from_secs(3600);

/// Encodes a publication without using the shared frame.
pub fn encode(form: FrameEncoding, publication: &Publication) -> Bytes {
    framing::encode(form, publication)
}

/// A node with the memory broker, and its only shard.
pub struct BenchShard {
    registry: Arc<ChannelRegistry>,
    shard: Shard,
    inbox: ShardReceiver,
    wakes: mpsc::Sender<u64>,
    requested: mpsc::Receiver<NodeRequest>,
    node_requests: mpsc::Sender<NodeRequest>,
    /// The request server of the node; the gateway runs it in a task.
    server: Pin<Box<dyn Future<Output = ()>>>,
    /// The bodies of streams, which nothing reads.
    bodies: Vec<sink::HyperBody>,
    _woken: mpsc::Receiver<u64>,
}

impl std::fmt::Debug for BenchShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BenchShard").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl BenchShard {
    /// A shard without connections.
    ///
    /// # Errors
    /// If the poll cannot be created.
    pub fn new() -> io::Result<Self> {
        let metrics = Metrics::new(1);
        let (queue, inbox) = shard_queue(ShardQueueLimits { items: UNLIMITED >> 8, bytes: UNLIMITED });
        let (registry, node) = node(Arc::from([queue]), &metrics);
        let (requests, requested) = mpsc::channel(1024);
        let (node_handle, request_server) = request_queue(1024);
        let (wakes, woken) = mpsc::channel(1024);
        let counters = Arc::clone(&metrics.shards[0]);
        let shard = Shard::new(Arc::clone(&node), limits(), requests, counters, false)?;
        let server = Box::pin(async move { request_server.run(&node, 0).await });
        let (node_requests, bodies) = (node_handle.requests, Vec::new());
        Ok(Self { registry, shard, inbox, wakes, requested, node_requests, server, bodies, _woken: woken })
    }

    /// Adds a client on a socket; `prefetched` is what it has already sent.
    pub fn accept(&mut self, socket: mio::net::TcpStream, kind: NewConnectionKind, prefetched: Bytes) {
        self.insert(Sink::Socket(socket), kind, prefetched);
    }

    /// Adds a client that reads nothing.
    pub fn accept_idle(&mut self, kind: NewConnectionKind, prefetched: Bytes) {
        let (sink, body) = sink::hyper(self.wakes.clone());
        self.bodies.push(body);
        self.insert(Sink::Hyper(sink), kind, prefetched);
    }

    fn insert(&mut self, sink: Sink, kind: NewConnectionKind, prefetched: Bytes) {
        let permit = Permit::unlimited();
        self.shard.insert(NewConnection {
            sink,
            network: None,
            kind,
            permit,
            response_head: Bytes::new(),
            response_head_written: 0,
            prefetched,
        });
        self.settle();
    }

    /// Answers all requests and writes everything that is queued.
    pub fn settle(&mut self) {
        for _ in 0..3 {
            while let Ok(request) = self.requested.try_recv() {
                // The queue has room for all requests of a benchmark.
                let _ = self.node_requests.try_send(request);
            }
            let _ = self.server.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.dispatch();
            self.flush();
        }
    }

    /// Assigns positions to messages of a broker and queues them for the shard.
    pub fn receive(&self, messages: &mut Vec<BrokerMessage>) {
        self.registry.on_messages(messages);
    }

    /// Moves queued publications into outboxes.
    pub fn dispatch(&mut self) {
        while let Some(delivery) = self.inbox.try_next() {
            self.shard.on_node_event(delivery);
        }
    }

    /// Writes all outboxes.
    pub fn flush(&mut self) {
        while self.shard.state.delivery().has_scheduled() {
            self.shard.flush_batch();
        }
    }

    /// Discards all outboxes; returns the number of connections that had anything to write.
    pub fn discard(&mut self) -> usize {
        self.shard.state.delivery().discard_outboxes()
    }
}

fn node(
    queues: Arc<[crate::node::shard_queue::ShardSender]>,
    metrics: &Arc<Metrics>,
) -> (Arc<ChannelRegistry>, Arc<Node>) {
    let budget = HistoryBudget::new(UNLIMITED);
    let limits = ChannelLimits {
        channels: UNLIMITED,
        idle_per_creator: UNLIMITED,
        unsubscribe_delay: NEVER,
        publication_bytes: UNLIMITED,
        recovery_publications: 1,
    };
    let registry =
        ChannelRegistry::new(Arc::clone(&queues), limits, Arc::clone(&budget), Arc::clone(metrics));
    let broker = Arc::new(MemoryBroker::new(Arc::<ChannelRegistry>::clone(&registry)));
    let binding = BrokerBinding {
        name: "memory".to_owned(),
        registry: Arc::clone(&registry),
        broker,
        affects_readiness: true,
    };
    let all = Namespace {
        name: "all".to_owned(),
        channels: ChannelPattern::parse("*").into_iter().collect(),
        brokers: Box::new([0]),
        access: AccessRules { subscribe: Access::of(&[Grant::Anyone]), ..AccessRules::default() },
        source: ChannelSource::PubSub,
        history: HistoryRules { size: 64, ttl: NEVER, bytes: UNLIMITED },
        when_unavailable: WhenUnavailable::Reject,
        replay_last: false,
        backpressure: None,
        counters: Arc::default(),
    };
    let namespaces = Namespaces::new(vec![all], &[]);
    let authenticator = Arc::new(Authenticator::anonymous());
    let rules = NodeRules { namespaces, authenticator, publication_bytes: UNLIMITED };
    let node = Node::new(rules, vec![binding], queues, budget, Drain::default(), Arc::clone(metrics));
    (registry, node)
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
