//! The command link of a cluster: each request to a node that may answer it.
//!
//! Owns the connections and the answers. A plain `PUBLISH` goes to one node, any, so that the order is kept; what
//! belongs to a slot goes to the slot's owner, one batch at a time for each slot, so that a node that hangs holds up
//! nothing but its own slots. Must never do anything twice: see [`super::lane`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use redis::aio::{MultiplexedConnection, SendError};
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::super::alone::PATIENCE;
use super::super::commands::fail;
use super::super::log_script::{By, Loading};
use super::super::outbox::{Inbox, Request, Waiting};
use super::super::ping::{clock, ping};
use super::super::settings::RedisSettings;
use super::super::status::LinkState;
use super::Cluster;
use super::bus::Bus;
use super::lane::{Batch, Lane};
use super::nodes::{Nodes, Reach, Up};
use crate::drain::Drain;
use earshot_redis_link::{Backoff, LinkError, NodeAddress};

/// How often what had to wait is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Connections whose end may be told at one time; the others are found by their next use.
const ENDS: usize = 64;

/// What a lane is for: a slot, or whatever any node can do.
type Place = Option<u16>;

/// The task of the link.
pub(in crate::broker::redis) struct ClusterCommands {
    settings: Arc<RedisSettings>,
    cluster: Arc<Cluster>,
    state: Arc<LinkState>,
    inbox: Inbox,
    lanes: HashMap<Place, Lane>,
    /// Requests in all lanes, those on their way not counted.
    waiting: usize,
    nodes: Nodes,
    anywhere: Anywhere,
    under_way: FuturesUnordered<BoxFuture<'static, Event>>,
    ends: (mpsc::Sender<End>, mpsc::Receiver<End>),
    /// How it stands, as it was told last: `None`: it works.
    told: Option<LinkError>,
}

/// The node to which everything goes that any node can do.
struct Anywhere {
    node: Option<NodeAddress>,
    dialling: bool,
    not_before: Instant,
    down_since: Option<Instant>,
    backoff: Backoff,
    why: LinkError,
}

/// A connection has ended.
type End = (NodeAddress, u64);

enum Event {
    Sent(Place, NodeAddress, u64, VecDeque<Waiting>, Sent),
    Dialled(NodeAddress, u64, Result<MultiplexedConnection, LinkError>),
    DialledAnywhere(u64, Result<(NodeAddress, MultiplexedConnection), LinkError>),
    Checked(NodeAddress, u64, Result<(), LinkError>),
}

enum Sent {
    /// And whether the server knows the scripts.
    Answered(Vec<Value>, bool),
    /// Nobody knows what became of it.
    Broken(LinkError),
    /// The scripts could not be given to the server: nothing was sent.
    Held(LinkError),
}

impl ClusterCommands {
    pub(in crate::broker::redis) fn new(
        settings: &Arc<RedisSettings>,
        cluster: &Arc<Cluster>,
        state: &Arc<LinkState>,
        inbox: Inbox,
    ) -> Self {
        Self {
            settings: Arc::clone(settings),
            cluster: Arc::clone(cluster),
            state: Arc::clone(state),
            inbox,
            lanes: HashMap::new(),
            waiting: 0,
            nodes: Nodes::new(&settings.instance),
            anywhere: Anywhere {
                node: None,
                dialling: false,
                not_before: Instant::now(),
                down_since: Some(Instant::now()),
                backoff: Backoff::new(&settings.instance),
                why: connecting(),
            },
            under_way: FuturesUnordered::new(),
            ends: mpsc::channel(ENDS),
            told: Some(connecting()),
        }
    }

    /// Keeps the link until the gateway stops.
    pub(in crate::broker::redis) async fn run(mut self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.keep() => {}
        }
        self.state.stopped();
    }

    /// Ends when nobody can ask any more.
    async fn keep(&mut self) {
        let mut checks = clock(self.settings.ping_interval);
        let mut looks = clock(LOOK);
        let mut readings = self.cluster.readings();
        let mut open = true;
        while open || !self.lanes.is_empty() {
            self.find_anywhere();
            let room = self.waiting < self.settings.queue_items;
            tokio::select! {
                some = self.inbox.ready(), if open && room => {
                    open = some;
                    self.take_in();
                }
                Some(event) = self.under_way.next() => self.enter(event),
                Some((node, generation)) = self.ends.1.recv() => {
                    self.lose(&node, generation, LinkError::Unreachable("the connection was closed".to_owned()));
                }
                Ok(()) = readings.changed() => self.forget_nodes(),
                _ = checks.tick() => self.check(),
                _ = looks.tick(), if self.waiting > 0 || !open => self.look(),
            }
        }
    }

    /// Puts what waits into the lanes, and sends what can be sent.
    fn take_in(&mut self) {
        let mut places = Vec::new();
        for waiting in self.inbox.batch() {
            let place = waiting.request.slot();
            self.lanes.entry(place).or_default().push(waiting);
            self.waiting += 1;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places.into_iter().for_each(|place| self.advance(place));
    }

    /// Looks at every lane that had to wait.
    fn look(&mut self) {
        let waiting: Vec<Place> =
            self.lanes.iter().filter(|(_, lane)| !lane.busy).map(|(place, _)| *place).collect();
        for place in waiting {
            let is_without = self.is_without(place);
            if let Some(lane) = self.lanes.get_mut(&place) {
                self.waiting -= lane.drop_late();
                if is_without {
                    self.waiting -= lane.hand_on(self.inbox.alone());
                }
            }
            self.advance(place);
        }
    }

    /// Whether whoever could do a lane's work has been away for so long that the gateway does without. That another
    /// node is away is no reason.
    fn is_without(&self, place: Place) -> bool {
        let owner = place.and_then(|slot| self.cluster.topology().owner(slot).cloned());
        let since = match owner {
            Some(owner) => self.nodes.down_since(&owner),
            None => self.anywhere.down_since,
        };
        since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Sends what a lane holds, when its node can be reached.
    fn advance(&mut self, place: Place) {
        let now = Instant::now();
        let Some(lane) = self.lanes.get_mut(&place) else { return };
        if lane.is_idle() {
            self.lanes.remove(&place);
            return;
        }
        if !lane.is_due(now) {
            return;
        }
        let node = match (lane.asking().cloned(), place) {
            (Some(node), _) => node,
            (None, None) => match self.anywhere.node.clone() {
                Some(node) => node,
                None => return,
            },
            (None, Some(slot)) => match self.cluster.topology().owner(slot).cloned() {
                Some(node) => node,
                None => return self.cluster.doubt(),
            },
        };
        match self.nodes.reach(&node, now) {
            Reach::Up(up) => {
                let up = up.clone();
                let batch = lane.take();
                self.waiting -= batch.requests.len();
                self.under_way.push(Box::pin(send(place, node, up, batch)));
            }
            Reach::Dial => self.dial(node),
            Reach::Wait => {}
        }
    }

    fn dial(&mut self, node: NodeAddress) {
        let (cluster, generation) = (Arc::clone(&self.cluster), self.nodes.next_generation());
        let end = tell_end(self.ends.0.clone(), node.clone(), generation);
        self.under_way.push(Box::pin(async move {
            let connection = cluster.dial(&node, "commands", end).await;
            Event::Dialled(node, generation, connection)
        }));
    }

    /// Sees to it that there is a node for what any node can do.
    fn find_anywhere(&mut self) {
        if self.anywhere.node.is_some() || self.anywhere.dialling || self.anywhere.not_before > Instant::now()
        {
            return;
        }
        self.anywhere.dialling = true;
        let (cluster, generation) = (Arc::clone(&self.cluster), self.nodes.next_generation());
        let ends = self.ends.0.clone();
        self.under_way.push(Box::pin(async move {
            let end = |node: &NodeAddress| tell_end(ends.clone(), node.clone(), generation);
            let found = cluster.dial_any("commands", end).await;
            Event::DialledAnywhere(generation, found.map(|(node, connection, ..)| (node, connection)))
        }));
    }

    fn enter(&mut self, event: Event) {
        match event {
            Event::Sent(place, node, generation, requests, outcome) => {
                self.settle(place, &node, generation, requests, outcome);
                self.advance(place);
            }
            Event::Dialled(node, generation, Ok(connection)) => {
                self.nodes.dialled(&node, generation, connection);
                self.look();
            }
            Event::Dialled(node, _, Err(failure)) => {
                self.nodes.not_dialled(&node, failure);
                self.cluster.doubt();
            }
            Event::DialledAnywhere(generation, Ok((node, connection))) => {
                self.nodes.dialled(&node, generation, connection);
                self.anywhere.dialling = false;
                self.anywhere.node = Some(node);
                self.anywhere.down_since = None;
                self.advance(None);
            }
            Event::DialledAnywhere(_, Err(failure)) => {
                self.anywhere.dialling = false;
                self.anywhere.not_before = Instant::now() + self.anywhere.backoff.next(&failure);
                self.anywhere.why = failure;
                self.cluster.doubt();
            }
            Event::Checked(node, generation, Ok(())) => {
                self.nodes.lives(&node, generation);
                self.anywhere.backoff.reset();
            }
            Event::Checked(node, generation, Err(failure)) => self.lose(&node, generation, failure),
        }
        self.tell();
    }

    fn settle(
        &mut self,
        place: Place,
        node: &NodeAddress,
        generation: u64,
        requests: VecDeque<Waiting>,
        outcome: Sent,
    ) {
        let lane = self.lanes.entry(place).or_default();
        let before = lane.len();
        let lost = match outcome {
            Sent::Answered(values, scripts) => {
                let (moved, setback) = lane.settle(requests, values, node);
                self.nodes.know_scripts(node, generation, scripts && !setback);
                if let Some(moved) = moved {
                    self.cluster.moved(moved.slot, &moved.node);
                }
                if setback {
                    self.cluster.doubt();
                }
                None
            }
            Sent::Broken(failure) => {
                lane.busy = false;
                Some(fail(requests, failure))
            }
            Sent::Held(failure) => {
                lane.give_back(requests);
                Some(failure)
            }
        };
        self.waiting += lane.len() - before;
        if let Some(failure) = lost {
            self.lose(node, generation, failure);
        }
    }

    /// A connection is of no use any more.
    fn lose(&mut self, node: &NodeAddress, generation: u64, failure: LinkError) {
        if !self.nodes.lost(node, generation, failure.clone().with_node(node)) {
            return;
        }
        self.cluster.doubt();
        if self.anywhere.node.as_ref() == Some(node) {
            self.anywhere.node = None;
            self.anywhere.down_since = Some(Instant::now());
            self.anywhere.not_before = Instant::now() + self.anywhere.backoff.next(&failure);
            self.anywhere.why = failure.with_node(node);
        }
        self.tell();
    }

    /// Asks every connection whether it lives; the one that everything goes to, whether it is heard, too.
    fn check(&mut self) {
        // One that was needed will be needed again, and whoever asks how the link stands wants to know.
        self.nodes.dial_out(Instant::now()).into_iter().for_each(|node| self.dial(node));
        let limit = self.settings.ping_timeout;
        for (node, up) in self.nodes.check_out() {
            let (connection, generation) = (up.connection, up.generation);
            let anywhere = self.anywhere.node.as_ref() == Some(&node);
            self.under_way.push(Box::pin(async move {
                let lives = match anywhere {
                    true => Bus::look(connection, limit).await.map(drop),
                    false => ping(connection, limit).await.map(drop),
                };
                Event::Checked(node, generation, lives)
            }));
        }
    }

    /// A node that owns nothing any more is not kept for its own sake.
    fn forget_nodes(&mut self) {
        let topology = self.cluster.topology();
        let anywhere = self.anywhere.node.clone();
        let asked: Vec<_> = self.lanes.values().filter_map(|lane| lane.asking().cloned()).collect();
        self.nodes.keep(|node| {
            topology.is_primary(node) || anywhere.as_ref() == Some(node) || asked.contains(node)
        });
        self.look();
        self.tell();
    }

    /// Says how the link stands.
    fn tell(&mut self) {
        let trouble = match self.anywhere.node {
            Some(_) => self.nodes.trouble(),
            None => Some(self.anywhere.why.clone()),
        };
        if trouble == self.told {
            return;
        }
        match &trouble {
            Some(failure) => self.state.down(failure),
            None => {
                self.state.up();
            }
        }
        self.told = trouble;
    }
}

fn connecting() -> LinkError {
    LinkError::Unreachable("connecting".to_owned())
}

/// Without this a connection that nobody uses would learn of its end from the next request, which would be lost.
fn tell_end(
    ends: mpsc::Sender<End>,
    node: NodeAddress,
    generation: u64,
) -> impl Fn(PushInfo) -> Result<(), SendError> + Clone + Send + Sync + 'static {
    move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            // Too many at once: its next use or check finds it.
            let _ = ends.try_send((node.clone(), generation));
        }
        Ok(())
    }
}

async fn send(place: Place, node: NodeAddress, up: Up, batch: Batch) -> Event {
    let Up { mut connection, generation, scripts, .. } = up;
    let Batch { requests, asking, careful } = batch;
    let has_script = requests.iter().any(|waiting| matches!(waiting.request, Request::Script(_)));
    let event = |requests, outcome| Event::Sent(place, node, generation, requests, outcome);
    let load = has_script && !scripts && !careful;
    if load && let Err(failure) = Loading::default().load(&mut connection).await {
        return event(requests, Sent::Held(failure));
    }
    // A script that the server may not know goes as text: it is the only request of its batch.
    let by = if careful { By::Text } else { By::Hash };
    let mut pipeline = Pipeline::with_capacity(requests.len() + 1);
    let skipped = usize::from(asking.is_some());
    if asking.is_some() {
        pipeline.cmd("ASKING");
    }
    requests.iter().for_each(|waiting| waiting.request.write(by, &mut pipeline));
    match connection.send_packed_commands(&pipeline, skipped, requests.len()).await {
        Ok(values) => event(requests, Sent::Answered(values, scripts || load)),
        Err(error) => event(requests, Sent::Broken(LinkError::Unreachable(error.to_string()))),
    }
}
