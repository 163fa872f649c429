//! Shard channels: each is heard at the primary that owns its slot, over a link to that node.
//!
//! Owns which link a channel is on. A wish moves to another link only when its node does not hold it any more, with
//! its deaf spell and with those who wait for it; so what one link heard is handed on before the other one says the
//! loss and hears what follows. Must never lose a wish on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::outbox::Outbox;
use super::super::route::Route;
use super::super::settings::RedisSettings;
use super::super::status::LinkState;
use super::super::subscriber::{Subscriber, Wishes};
use super::super::table::{Confirmation, Stray};
use super::Cluster;
use super::topology::Topology;
use crate::broker::{BrokerEventHandler, LinkStatus, ProbeState, Topic};
use crate::drain::Drain;
use earshot_redis_link::NodeAddress;
use earshot_redis_link::slot::slot;

/// How often it is looked for which link a channel is on.
const LOOK: Duration = Duration::from_millis(200);
/// What the links are called together.
const LINK: &str = "sharded";
/// The shortest time between two placements: two nodes may each say for a while that the other one has a slot.
const PAUSE: Duration = Duration::from_millis(20);

/// The links to the nodes that carry shard channels.
pub(in crate::broker::redis) struct Shards {
    settings: Arc<RedisSettings>,
    cluster: Arc<Cluster>,
    says: Says,
    listener: Arc<dyn BrokerEventHandler>,
    drain: Drain,
    links: Mutex<Links>,
}

/// Where the links publish their probes, and whether that works.
type Says = (Outbox, Arc<LinkState>);

struct Links {
    /// Wishes whose slot has no owner that is known.
    unplaced: Arc<Wishes>,
    nodes: HashMap<NodeAddress, Arc<Wishes>>,
    /// What links counted that are no more.
    past: LinkStatus,
}

impl Shards {
    pub(in crate::broker::redis) fn new(
        settings: &Arc<RedisSettings>,
        cluster: &Arc<Cluster>,
        says: Says,
        listener: Arc<dyn BrokerEventHandler>,
        drain: &Drain,
    ) -> Arc<Self> {
        let unplaced = LinkState::new(&settings.instance.name, LINK, "no node yet".to_owned());
        let past = LinkStatus { up: true, error: None, downtime: Duration::ZERO, ..unplaced.status() };
        let unplaced = Arc::new(Wishes::new(unplaced));
        let links = Mutex::new(Links { unplaced, nodes: HashMap::new(), past });
        let (settings, cluster, drain) = (Arc::clone(settings), Arc::clone(cluster), drain.clone());
        Arc::new(Self { settings, cluster, says, listener, drain, links })
    }

    /// Places anew whenever the topology was read, until the gateway stops.
    pub(in crate::broker::redis) async fn run(self: Arc<Self>, drain: Drain) {
        let mut readings = self.cluster.readings();
        let follow = async {
            while readings.changed().await.is_ok() {
                self.place();
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = follow => {}
        }
        self.links().unplaced.table().clear();
    }

    /// Wants a channel. `None`: it is confirmed already.
    pub(in crate::broker::redis) fn want(&self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        let mut links = self.links();
        let wishes =
            links.of(topic).unwrap_or_else(|| self.home(&mut links, topic, &self.cluster.topology()));
        wishes.want(topic)
    }

    /// Resolves when the node of a channel has been away for so long that the channel is not waited for any more: see
    /// [`Wishes::go_without`].
    pub(in crate::broker::redis) async fn go_without(&self, topic: &Topic) {
        loop {
            let wishes = self.links().of(topic);
            if let Some(wishes) = wishes
                && tokio::time::timeout(LOOK, wishes.go_without(topic)).await.is_ok()
                && wishes.table().has(topic)
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// No longer wants a channel.
    pub(in crate::broker::redis) fn forget(&self, topic: &Topic) {
        if let Some(wishes) = self.links().of(topic) {
            wishes.forget(topic);
        }
    }

    /// How the links stand, as one; `None` when there is none.
    pub(in crate::broker::redis) fn status(&self) -> Option<LinkStatus> {
        let links = self.links();
        let unplaced = links.unplaced.status();
        if links.nodes.is_empty() && unplaced.desired == 0 {
            return None;
        }
        let mut all = links.past.clone();
        if unplaced.desired > 0 {
            all.up = false;
            all.error = Some(format!("no node is known for {} topics", unplaced.desired));
            all.desired = unplaced.desired;
        }
        for (node, wishes) in &links.nodes {
            add(&mut all, wishes.status(), node);
        }
        Some(all)
    }

    /// Moves the wishes whose place is not where they are.
    fn place(&self) {
        let topology = self.cluster.topology();
        let mut links = self.links();
        let mut strays: Vec<Stray> =
            links.unplaced.table().strays(|topic| owner(&topology, topic).is_none()).0;
        for (node, wishes) in &links.nodes {
            let (away, again) =
                wishes.table().strays(|topic| owner(&topology, topic).is_none_or(|owner| owner == node));
            strays.extend(away);
            if again {
                wishes.touch();
            }
        }
        for stray in strays {
            let home = self.home(&mut links, &stray.topic, &topology);
            home.table().adopt(stray);
            home.touch();
        }
        links.drop_idle();
    }

    /// The link that a channel belongs on.
    fn home(&self, links: &mut Links, topic: &Topic, topology: &Topology) -> Arc<Wishes> {
        let Some(node) = owner(topology, topic) else {
            self.cluster.doubt();
            return Arc::clone(&links.unplaced);
        };
        let wishes = links.nodes.entry(node.clone()).or_insert_with(|| self.link(node));
        Arc::clone(wishes)
    }

    fn link(&self, node: &NodeAddress) -> Arc<Wishes> {
        let state = LinkState::new(&self.settings.instance.name, LINK, node.to_string());
        let wishes = Arc::new(Wishes::new(state));
        let subscriber = Subscriber {
            settings: Arc::clone(&self.settings),
            route: Route::Node(Arc::clone(&self.cluster), node.clone()),
            wishes: Arc::clone(&wishes),
            listener: Arc::clone(&self.listener),
            outbox: self.says.0.clone(),
            commands: Arc::clone(&self.says.1),
            is_part: true,
        };
        self.drain.spawn(subscriber.run(self.drain.clone()));
        wishes
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    /// The link that a channel is on.
    fn of(&self, topic: &Topic) -> Option<Arc<Wishes>> {
        let mut all = self.nodes.values().chain([&self.unplaced]);
        all.find(|wishes| wishes.table().has(topic)).map(Arc::clone)
    }

    /// Ends the links that carry nothing.
    fn drop_idle(&mut self) {
        for (node, wishes) in self.nodes.extract_if(|_, wishes| wishes.table().is_empty()) {
            wishes.retire();
            // It carried nothing any more, so how it stood is nobody's trouble.
            add(&mut self.past, LinkStatus { up: true, probe: None, ..wishes.status() }, &node);
        }
    }
}

/// Adds a link to what is said of all together: counts are summed, and otherwise the worst one counts.
fn add(all: &mut LinkStatus, one: LinkStatus, node: &NodeAddress) {
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
    // A node that carries nothing is nobody's trouble.
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
