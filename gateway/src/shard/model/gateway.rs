//! The gateway under test: the real node, request queues and shards, which advance only by explicit steps.
//!
//! Uses neither threads nor tasks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use earshot_protocol::ChannelName;
use tokio::sync::mpsc;

use super::parameters::{PUBLICATION_BYTES, Parameters, Slow};
use crate::auth::access::{Access, AccessRules, Grant};
use crate::broker::{MemoryBroker, WhenUnavailable};
use crate::drain::Drain;
use crate::login::Authenticator;
use crate::metrics::Metrics;
use crate::node::backpressure_policy::{BackpressurePolicy, TerminalStates};
use crate::node::channel_pattern::ChannelPattern;
use crate::node::channel_source::ChannelSource;
use crate::node::history::HistoryBudget;
use crate::node::messages::{NodeRequest, NodeResponse};
use crate::node::namespace::{Namespace, Namespaces, ResolvedChannel};
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::requests::request_queue;
use crate::node::shard_queue::{ShardReceiver, shard_queue};
use crate::node::{BrokerBinding, Node, NodeRules};
use crate::shard::event_loop::Shard;
use crate::shard::{NewConnection, ShardCommand};

/// Shards in a model, so that one may lag behind the other.
pub(super) const SHARDS: usize = 2;

/// Wake-ups of streams that may wait for a shard; a shard finds the others itself.
const WAKES: usize = 4;

pub(super) struct Gateway {
    pub(super) registry: Arc<ChannelRegistry>,
    pub(super) shards: Vec<ShardSteps>,
}

/// A shard with its queues to and from the node.
pub(super) struct ShardSteps {
    pub(super) shard: Shard,
    inbox: ShardReceiver,
    pub(super) wakes: mpsc::Sender<u64>,
    woken: mpsc::Receiver<u64>,
    responses: mpsc::Receiver<NodeResponse>,
    /// Requests of the shard that the node has not received yet.
    requested: mpsc::Receiver<NodeRequest>,
    node_requests: mpsc::Sender<NodeRequest>,
    /// The request server of the node; the gateway runs it in a task.
    server: Pin<Box<dyn Future<Output = ()>>>,
}

impl Gateway {
    pub(super) fn new(parameters: &Parameters) -> Self {
        let metrics = Metrics::new(SHARDS);
        let (queues, inboxes): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| shard_queue(parameters.port)).unzip();
        let (queues, budget) = (Arc::from(queues), HistoryBudget::new(parameters.history_bytes));
        let limits = ChannelLimits {
            channels: 1000,
            idle_per_creator: 1000,
            unsubscribe_delay: parameters.unsubscribe_delay,
            publication_bytes: PUBLICATION_BYTES,
            recovery_publications: parameters.recovery_publications,
        };
        let registry =
            ChannelRegistry::new(Arc::clone(&queues), limits, Arc::clone(&budget), Arc::clone(&metrics));
        let broker = Arc::new(MemoryBroker::new(Arc::<ChannelRegistry>::clone(&registry)));
        let binding = BrokerBinding {
            name: "memory".to_owned(),
            registry: Arc::clone(&registry),
            broker,
            affects_readiness: true,
        };
        let namespaces = Namespaces::new(
            (0..parameters.channels).map(|channel| namespace(parameters, channel)).collect(),
            &[],
        );
        let authenticator = Arc::new(Authenticator::anonymous());
        let rules = NodeRules { namespaces, authenticator, publication_bytes: PUBLICATION_BYTES };
        let node = Node::new(rules, vec![binding], queues, budget, Drain::default(), Arc::clone(&metrics));
        let shards = inboxes
            .into_iter()
            .enumerate()
            .map(|(id, inbox)| ShardSteps::new(id, inbox, &node, parameters, &metrics))
            .collect();
        Self { registry, shards }
    }
}

fn namespace(parameters: &Parameters, channel: usize) -> Namespace {
    Namespace {
        source: ChannelSource::PubSub,
        name: String::new(),
        channels: vec![ChannelPattern::parse(parameters.name(channel)).unwrap()],
        brokers: Box::new([0]),
        access: AccessRules {
            subscribe: Access::of(&[Grant::Anyone]),
            publish: Access::of(&[Grant::Anyone]),
            ..AccessRules::default()
        },
        history: parameters.history,
        when_unavailable: WhenUnavailable::Reject,
        replay_last: parameters.delivers_last(channel),
        backpressure: backpressure(parameters.slow[channel]).map(Arc::new),
        counters: Arc::default(),
    }
}

fn backpressure(slow: Slow) -> Option<BackpressurePolicy> {
    let key = match slow {
        Slow::Disconnect => return None,
        Slow::DropOldest => return Some(BackpressurePolicy::DropOldest),
        Slow::Latest => None,
        Slow::LatestOfKey => Some("/key".to_owned()),
    };
    let terminal = TerminalStates { key: "/last".to_owned(), values: vec!["true".to_owned()] };
    Some(BackpressurePolicy::Latest { key, terminal: Some(terminal) })
}

impl Gateway {
    /// The channel with its rules.
    pub(super) fn resolve(&self, name: ChannelName) -> ResolvedChannel {
        self.shards[0].shard.node.resolve(name).unwrap()
    }
}

impl ShardSteps {
    fn new(
        id: usize,
        inbox: ShardReceiver,
        node: &Arc<Node>,
        parameters: &Parameters,
        metrics: &Metrics,
    ) -> Self {
        let (requests, requested) = mpsc::channel(parameters.pending_requests);
        let (node_handle, request_server) = request_queue(parameters.inflight_requests);
        let (wakes, woken) = mpsc::channel(WAKES);
        let counters = Arc::clone(&metrics.shards[id]);
        let shard = Shard::new(Arc::clone(node), parameters.shard(), requests, counters, true).unwrap();
        let node = Arc::clone(node);
        let server = Box::pin(async move { request_server.run(&node, id).await });
        Self {
            shard,
            inbox,
            wakes,
            woken,
            responses: node_handle.responses,
            requested,
            node_requests: node_handle.requests,
            server,
        }
    }

    /// Accepts a connection and returns its key.
    pub(super) fn accept(&mut self, connection: NewConnection) -> u64 {
        let key = self.shard.state.connections().next_key();
        self.shard.on_command(ShardCommand::Accept(Box::new(connection)));
        self.shard.finish_turn();
        key
    }

    /// Whether reading from the client is paused.
    pub(super) fn is_paused(&self, key: u64) -> bool {
        self.shard.state.connections().find(key).is_some_and(|at| self.shard.is_paused(at))
    }

    /// Delivers bytes of a client.
    pub(super) fn receive(&mut self, key: u64, bytes: &mut [u8]) {
        if let Some(at) = self.shard.state.connections().find(key)
            && self.shard.state.connections().is_open(at)
        {
            self.shard.session(at).on_bytes(bytes);
        }
        self.shard.finish_turn();
    }

    /// Handles one delivery and ends the turn.
    pub(super) fn deliver_one(&mut self) {
        if let Some(delivery) = self.inbox.try_next() {
            self.shard.on_node_event(delivery);
        }
        self.shard.finish_turn();
    }

    /// Handles all deliveries, and then the overflow.
    pub(super) fn deliver_all(&mut self) -> bool {
        let first = self.inbox.try_next();
        let some = first.is_some();
        self.shard.take_deliveries(first, &mut self.inbox);
        self.shard.finish_turn();
        some
    }

    /// The queue was empty when the shard looked, and filled before it continued.
    pub(super) fn deliver_after_empty(&mut self) {
        self.shard.take_deliveries(None, &mut self.inbox);
        self.shard.finish_turn();
    }

    /// A stream is writable again, or its client has disconnected.
    pub(super) fn wake(&mut self) -> bool {
        let Ok(key) = self.woken.try_recv() else { return false };
        if let Some(at) = self.shard.state.connections().find(key) {
            self.shard.on_hyper_wake(at);
        }
        self.shard.finish_turn();
        true
    }

    pub(super) fn on_tick(&mut self) {
        self.shard.on_tick();
        self.shard.finish_turn();
    }

    /// Other connections have used the unsubscribes of this tick.
    pub(super) fn use_up_resubscribes(&mut self) {
        self.shard.state.subscriptions().use_up_resubscribes();
    }

    /// The node handles its requests as far as it can.
    pub(super) fn work(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        // The futures yield now and then, so one poll may not be enough.
        for _ in 0..3 {
            assert!(self.server.as_mut().poll(&mut context).is_pending(), "the server has ended");
        }
        while let Ok(response) = self.responses.try_recv() {
            self.shard.on_node_reply(response);
        }
        self.shard.finish_turn();
    }

    /// The node receives one more request.
    pub(super) fn forward_request(&mut self) -> bool {
        self.work();
        let Ok(permit) = self.node_requests.clone().try_reserve_owned() else { return false };
        let Ok(request) = self.requested.try_recv() else { return false };
        permit.send(request);
        self.work();
        true
    }
}
