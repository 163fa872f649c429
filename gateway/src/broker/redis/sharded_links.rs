//! Sharded channels: each is subscribed at the primary that owns its slot, over a link to that node.
//!
//! Owns the mapping of channels to links. A subscription moves to another link only when its node does not carry it any
//! more, with its outage and its waiters. So messages of one link are delivered before the other one reports the gap
//! and receives what follows. Must never lose a subscription.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::cluster::Cluster;
use super::command_queue::CommandSender;
use super::desired_subscriptions::DesiredSubscriptions;
use super::link_target::LinkTarget;
use super::settings::RedisSettings;
use super::status::LinkState;
use super::subscriber_link::SubscriberLink;
use super::subscriber_task;
use super::subscription_table::{Confirmation, MigratingTopic};
use crate::broker::{BrokerEventHandler, LinkStatus, ProbeState, Topic};
use crate::drain::Drain;
use earshot_redis_link::NodeAddress;
use earshot_redis_link::Topology;
use earshot_redis_link::slot::slot;

/// How often the link of a channel is looked up.
const PLACEMENT_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The name of all these links together.
const LINK_NAME: &str = "sharded";
/// The shortest interval between two placements: two nodes may redirect to each other for a while.
const PLACEMENT_INTERVAL: Duration = Duration::from_millis(20);

/// The links to the nodes that carry sharded channels.
pub(super) struct ShardedLinks {
    settings: Arc<RedisSettings>,
    cluster: Arc<Cluster>,
    probe_publisher: ProbePublisher,
    handler: Arc<dyn BrokerEventHandler>,
    drain: Drain,
    links: Mutex<Links>,
}

/// Publishes the probes of the links; and the state of that link.
type ProbePublisher = (CommandSender, Arc<LinkState>);

struct Links {
    /// Subscriptions whose slot has no known owner.
    unplaced: Arc<DesiredSubscriptions>,
    nodes: HashMap<NodeAddress, Arc<DesiredSubscriptions>>,
    /// The totals of closed links.
    closed_totals: LinkStatus,
}

impl ShardedLinks {
    pub(super) fn new(
        settings: &Arc<RedisSettings>,
        cluster: &Arc<Cluster>,
        probe_publisher: ProbePublisher,
        handler: Arc<dyn BrokerEventHandler>,
        drain: &Drain,
    ) -> Arc<Self> {
        let unplaced = LinkState::new(&settings.instance.name, LINK_NAME, "no known node".to_owned());
        let closed_totals =
            LinkStatus { up: true, error: None, downtime: Duration::ZERO, ..unplaced.status() };
        let unplaced = Arc::new(DesiredSubscriptions::new(unplaced));
        let links = Mutex::new(Links { unplaced, nodes: HashMap::new(), closed_totals });
        let (settings, cluster, drain) = (Arc::clone(settings), Arc::clone(cluster), drain.clone());
        Arc::new(Self { settings, cluster, probe_publisher, handler, drain, links })
    }

    /// Places subscriptions after each read of the topology, until the gateway stops.
    pub(super) async fn run(self: Arc<Self>, drain: Drain) {
        let mut readings = self.cluster.updates();
        let follow = async {
            while readings.changed().await.is_ok() {
                self.rebalance();
                tokio::time::sleep(PLACEMENT_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = follow => {}
        }
        self.links().unplaced.table().clear();
    }

    /// Subscribes to a channel. Returns `None` when it is active already.
    pub(super) fn subscribe(&self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        let mut links = self.links();
        let subscriptions =
            links.of(topic).unwrap_or_else(|| self.link_for(&mut links, topic, &self.cluster.topology()));
        subscriptions.subscribe(topic)
    }

    /// Resolves when the node of a channel has been down for so long that the channel is not waited for: see
    /// [`DesiredSubscriptions::wait_for_fallback`].
    pub(super) async fn wait_for_fallback(&self, topic: &Topic) {
        loop {
            let subscriptions = self.links().of(topic);
            if let Some(subscriptions) = subscriptions
                && tokio::time::timeout(PLACEMENT_POLL_INTERVAL, subscriptions.wait_for_fallback(topic))
                    .await
                    .is_ok()
                && subscriptions.table().has(topic)
            {
                return;
            }
            tokio::time::sleep(PLACEMENT_INTERVAL).await;
        }
    }

    /// Unsubscribes from a channel.
    pub(super) fn unsubscribe(&self, topic: &Topic) {
        if let Some(subscriptions) = self.links().of(topic) {
            subscriptions.unsubscribe(topic);
        }
    }

    /// The status of the links together; `None` without links.
    pub(super) fn status(&self) -> Option<LinkStatus> {
        let links = self.links();
        let unplaced = links.unplaced.status();
        if links.nodes.is_empty() && unplaced.desired == 0 {
            return None;
        }
        let mut all = links.closed_totals.clone();
        if unplaced.desired > 0 {
            all.up = false;
            all.error = Some(format!("no known node for {} topics", unplaced.desired));
            all.desired = unplaced.desired;
        }
        for (node, subscriptions) in &links.nodes {
            merge(&mut all, subscriptions.status(), node);
        }
        Some(all)
    }

    /// Moves the misplaced subscriptions to their links.
    fn rebalance(&self) {
        let topology = self.cluster.topology();
        let mut links = self.links();
        let mut misplaced_topics: Vec<MigratingTopic> =
            links.unplaced.table().take_misplaced(|topic| owner(&topology, topic).is_none()).0;
        for (node, subscriptions) in &links.nodes {
            let (away, again) = subscriptions
                .table()
                .take_misplaced(|topic| owner(&topology, topic).is_none_or(|owner| owner == node));
            misplaced_topics.extend(away);
            if again {
                subscriptions.notify();
            }
        }
        for migrating in misplaced_topics {
            let link = self.link_for(&mut links, &migrating.topic, &topology);
            link.table().adopt(migrating);
            link.notify();
        }
        links.drop_idle();
    }

    /// The link for a channel.
    fn link_for(&self, links: &mut Links, topic: &Topic, topology: &Topology) -> Arc<DesiredSubscriptions> {
        let Some(node) = owner(topology, topic) else {
            self.cluster.invalidate_topology();
            return Arc::clone(&links.unplaced);
        };
        let subscriptions = links.nodes.entry(node.clone()).or_insert_with(|| self.link(node));
        Arc::clone(subscriptions)
    }

    fn link(&self, node: &NodeAddress) -> Arc<DesiredSubscriptions> {
        let state = LinkState::new(&self.settings.instance.name, LINK_NAME, node.to_string());
        let subscriptions = Arc::new(DesiredSubscriptions::new(state));
        let subscriber = SubscriberLink {
            settings: Arc::clone(&self.settings),
            target: LinkTarget::Node(Arc::clone(&self.cluster), node.clone()),
            subscriptions: Arc::clone(&subscriptions),
            handler: Arc::clone(&self.handler),
            command_sender: self.probe_publisher.0.clone(),
            commands: Arc::clone(&self.probe_publisher.1),
            is_partial: true,
        };
        self.drain.spawn(subscriber_task::run(subscriber, self.drain.clone()));
        subscriptions
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    /// The link that a channel is on.
    fn of(&self, topic: &Topic) -> Option<Arc<DesiredSubscriptions>> {
        let mut all = self.nodes.values().chain([&self.unplaced]);
        all.find(|subscriptions| subscriptions.table().has(topic)).map(Arc::clone)
    }

    /// Closes the links without channels.
    fn drop_idle(&mut self) {
        for (node, subscriptions) in
            self.nodes.extract_if(|_, subscriptions| subscriptions.table().is_empty())
        {
            subscriptions.close();
            // An idle link does not affect the status.
            merge(
                &mut self.closed_totals,
                LinkStatus { up: true, probe: None, ..subscriptions.status() },
                &node,
            );
        }
    }
}

/// Merges the status of a link into the total: counts are added, otherwise the worst value is taken.
fn merge(all: &mut LinkStatus, one: LinkStatus, node: &NodeAddress) {
    all.desired += one.desired;
    all.active += one.active;
    all.receive_queue_bytes += one.receive_queue_bytes;
    all.reconnects += one.reconnects;
    for ((_, sum), (_, count)) in all.failures.iter_mut().zip(one.failures) {
        *sum += count;
    }
    all.downtime = all.downtime.max(one.downtime);
    all.probe = match (all.probe.take(), one.probe) {
        (Some(ProbeState::Verified { age, rtt }), Some(ProbeState::Verified { age: other, rtt: longer })) => {
            Some(ProbeState::Verified { age: age.max(other), rtt: rtt.max(longer) })
        }
        (Some(worse @ ProbeState::Unavailable(_)), _) | (_, Some(worse @ ProbeState::Unavailable(_))) => {
            Some(worse)
        }
        (one, other) => one.or(other),
    };
    // A node without channels does not affect the status.
    if !one.up && one.desired > 0 && all.up {
        let cause = one.error.unwrap_or_default();
        let shown = node.to_string();
        all.error = Some(if cause.starts_with(&shown) { cause } else { format!("{shown}: {cause}") });
        all.up = false;
    }
}

fn owner<'t>(topology: &'t Topology, topic: &Topic) -> Option<&'t NodeAddress> {
    match topic {
        Topic::Sharded(channel) => topology.owner(slot(channel.as_str())),
        Topic::Channel(_) | Topic::Pattern(_) => None,
    }
}
