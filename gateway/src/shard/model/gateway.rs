//! The gateway under test: the real node, lanes and shards, of which nothing moves unless a step is taken.
//!
//! Must never decide which step is next, nor hold a thread or a task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::sync::mpsc;
use wildmatch::WildMatch;

use super::rules::{PUBLICATION_BYTES, Rules, Slow};
use crate::broker::{Broker, MemoryBroker, WhenUnavailable};
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::node::backpressure_policy::{BackpressurePolicy, TerminalStates};
use crate::node::history::HistoryBudget;
use crate::node::messages::{NodeRequest, NodeResponse};
use crate::node::namespace::{Access, ChannelPattern, Namespace, Namespaces};
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::requests::request_queue;
use crate::node::shard_queue::{ShardReceiver, shard_queue};
use crate::node::{BrokerBinding, Node};
use crate::shard::reactor::{Shard, key};
use crate::shard::{Arrival, Order};

/// Shards in a model: one may lag behind the other.
pub(super) const SHARDS: usize = 2;

/// Wakes of streams that may wait for a shard; a shard finds by itself what found no place.
const WAKES: usize = 4;

pub(super) struct Gateway {
    pub(super) registry: Arc<ChannelRegistry>,
    pub(super) shards: Vec<ShardSteps>,
}

/// A shard with its ways to and from the node.
pub(super) struct ShardSteps {
    pub(super) shard: Shard,
    inbox: ShardReceiver,
    pub(super) wakes: mpsc::Sender<u64>,
    woken: mpsc::Receiver<u64>,
    answers: mpsc::Receiver<NodeResponse>,
    /// What the shard asked for and the node has not seen yet.
    asked: mpsc::Receiver<NodeRequest>,
    asks: mpsc::Sender<NodeRequest>,
    /// The node's side, as it runs as a task elsewhere.
    lane: Pin<Box<dyn Future<Output = ()>>>,
}

impl Gateway {
    pub(super) fn new(rules: &Rules) -> Self {
        let metrics = Metrics::new(SHARDS);
        let (ports, inboxes): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| shard_queue(rules.port)).unzip();
        let (ports, budget) = (Arc::from(ports), HistoryBudget::new(rules.history_bytes));
        let limits = ChannelLimits {
            channels: 1000,
            idle_per_creator: 1000,
            unsubscribe_delay: rules.linger,
            publication_bytes: PUBLICATION_BYTES,
            recovery_publications: rules.recovery_publications,
        };
        let registry =
            ChannelRegistry::new(Arc::clone(&ports), limits, Arc::clone(&budget), Arc::clone(&metrics));
        let broker = Broker::Memory(Arc::new(MemoryBroker::new(Arc::<ChannelRegistry>::clone(&registry))));
        let binding = BrokerBinding {
            name: "memory".to_owned(),
            registry: Arc::clone(&registry),
            broker,
            affects_readiness: true,
        };
        let namespaces =
            Namespaces::new((0..rules.channels).map(|channel| namespace(rules, channel)).collect(), &[]);
        let node = Node::new(
            namespaces,
            vec![binding],
            ports,
            budget,
            PUBLICATION_BYTES,
            Drain::default(),
            Arc::clone(&metrics),
        );
        let shards = inboxes
            .into_iter()
            .enumerate()
            .map(|(id, inbox)| ShardSteps::new(id, inbox, &node, rules, &metrics))
            .collect();
        Self { registry, shards }
    }
}

fn namespace(rules: &Rules, channel: usize) -> Namespace {
    let glob = WildMatch::new(rules.name(channel));
    Namespace {
        sharded: false,
        name: String::new(),
        channels: vec![ChannelPattern { glob, is_exact: false, broker_pattern: None }],
        brokers: Box::new([0]),
        subscribe: Access::Anyone,
        publish: Access::Nobody,
        history: rules.history,
        log: None,
        when_unavailable: WhenUnavailable::Reject,
        replay_last: rules.delivers_last(channel),
        backpressure: slow(rules.slow[channel]).map(Arc::new),
    }
}

fn slow(slow: Slow) -> Option<BackpressurePolicy> {
    let key = match slow {
        Slow::Disconnect => return None,
        Slow::DropOldest => return Some(BackpressurePolicy::DropOldest),
        Slow::Latest => None,
        Slow::LatestOfKey => Some("/key".to_owned()),
    };
    let terminal = TerminalStates { key: "/last".to_owned(), values: vec!["true".to_owned()] };
    Some(BackpressurePolicy::Latest { key, terminal: Some(terminal) })
}

impl ShardSteps {
    fn new(id: usize, inbox: ShardReceiver, node: &Arc<Node>, rules: &Rules, metrics: &Metrics) -> Self {
        let (asks_first, asked) = mpsc::channel(rules.asks);
        let (node_handle, request_server) = request_queue(rules.lane);
        let (wakes, woken) = mpsc::channel(WAKES);
        let counters = Arc::clone(&metrics.shards[id]);
        let mut shard = Shard::new(Arc::clone(node), rules.shard(), asks_first, counters).unwrap();
        shard.has_siblings = true;
        let node = Arc::clone(node);
        let lane = Box::pin(async move { request_server.run(&node, id).await });
        Self {
            shard,
            inbox,
            wakes,
            woken,
            answers: node_handle.responses,
            asked,
            asks: node_handle.requests,
            lane,
        }
    }

    /// A connection arrives; the key by which the shard knows it.
    pub(super) fn take(&mut self, arrival: Arrival) -> u64 {
        let at = u32::try_from(self.shard.connections.vacant_key()).unwrap();
        self.shard.order(Order::Take(Box::new(arrival)));
        self.shard.finish_turn();
        key(at, self.shard.generation)
    }

    /// Whether a client's bytes stay in its socket for now.
    pub(super) fn is_paused(&self, key: u64) -> bool {
        self.shard.find(key).is_some_and(|at| self.shard.is_paused(at))
    }

    /// What a client sent has arrived.
    pub(super) fn receive(&mut self, key: u64, bytes: &mut [u8]) {
        if let Some(at) = self.shard.find(key)
            && self.shard.is_open(at)
        {
            self.shard.received(at, bytes);
        }
        self.shard.finish_turn();
    }

    /// The next delivery alone, as at the end of a turn.
    pub(super) fn deliver_one(&mut self) {
        if let Some(delivery) = self.inbox.try_next() {
            self.shard.deliver(delivery);
        }
        self.shard.finish_turn();
    }

    /// Everything that was delivered, and then what could not be.
    pub(super) fn deliver_all(&mut self) -> bool {
        let first = self.inbox.try_next();
        let some = first.is_some();
        self.shard.deliveries(first, &mut self.inbox);
        self.shard.finish_turn();
        some
    }

    /// The queue was found empty, and then something was put into it before the shard went on.
    pub(super) fn deliver_late(&mut self) {
        self.shard.deliveries(None, &mut self.inbox);
        self.shard.finish_turn();
    }

    /// A stream has room again, or its client has gone.
    pub(super) fn wake(&mut self) -> bool {
        let Ok(key) = self.woken.try_recv() else { return false };
        if let Some(at) = self.shard.find(key) {
            self.shard.stream_woken(at);
        }
        self.shard.finish_turn();
        true
    }

    pub(super) fn tick(&mut self) {
        self.shard.tick();
        self.shard.finish_turn();
    }

    /// Other connections have used up the notices of this tick.
    pub(super) fn use_up_notices(&mut self) {
        self.shard.notices_left = 0;
    }

    /// The node works on what it was asked, up to where it must wait.
    pub(super) fn work(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        // The futures under way give others a turn now and then: once is not always as far as it can go.
        for _ in 0..3 {
            assert!(self.lane.as_mut().poll(&mut context).is_pending(), "the lane has ended");
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.shard.answered(answer);
        }
        self.shard.finish_turn();
    }

    /// The node is asked for one thing more.
    pub(super) fn ask_one(&mut self) -> bool {
        self.work();
        let Ok(place) = self.asks.clone().try_reserve_owned() else { return false };
        let Ok(ask) = self.asked.try_recv() else { return false };
        place.send(ask);
        self.work();
        true
    }
}
