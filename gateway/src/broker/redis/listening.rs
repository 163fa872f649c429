//! One connection of the subscriber link, from its first subscription until it fails.
//!
//! Owns the order of what the listener is told about this connection. Must never wait for one thing alone: messages,
//! confirmations, wishes and PING are awaited together, so none can starve another.

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::cluster::bus::Bus;
use super::cluster::shard_line::ShardLine;
use super::cluster::shard_probe::ShardProber;
use super::handover::{Handover, Taken};
use super::ping::{clock, ping};
use super::probe::{CHECK_INTERVAL, Proof, ROUND_TIMEOUT_MIN};
use super::prober::Prober;
use super::requests;
use super::route::Line;
use super::subscriber::Subscriber;
use super::table::Outcome;
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic, TopicGap};
use earshot_redis_link::{FailoverWatch, LinkError};

mod verification;

use verification::StaleCommands;

/// Messages handed on in one call.
const BATCH: usize = 256;

type Pending<T> = Option<BoxFuture<'static, Result<T, LinkError>>>;

/// A connection that is listened to.
pub(super) struct Listening<'a> {
    link: &'a Subscriber,
    connection: MultiplexedConnection,
    /// Whether the server is still the one to listen to.
    watch: FailoverWatch,
    handover: Arc<Handover>,
    /// Whatever was published until this moment on a confirmed topic has been heard.
    proven: Instant,
    /// The subscriptions on their way to the server, one round at a time.
    round: Pending<Outcome>,
    /// While topics are on their way that were heard before: nothing is handed on until their loss was said.
    gated: bool,
    established: bool,
    prober: Prober,
    /// In the place of that one, on a node that carries shard channels.
    shard_prober: Option<ShardProber>,
    probe: Option<BoxFuture<'static, Proof>>,
    /// Probes between the rounds.
    checks: FuturesUnordered<BoxFuture<'static, Option<Proof>>>,
    /// When the connection was established.
    since: Instant,
    /// Whether a probe has arrived.
    receives: bool,
    /// Probes in a row that did not come back.
    misses: u32,
    /// Losses in a row on this connection that no arrival of a probe came between.
    drops: u32,
    /// The command connection that leads to another server, until it has ended.
    stale_commands: Option<StaleCommands>,
    /// Whether probes may be published and heard. Where they may not, the server is pinged.
    provable: bool,
    ping: Pending<Instant>,
    /// How the node heard the other nodes of its cluster the last time.
    bus: Option<Bus>,
    look: Pending<Bus>,
    /// How a node is spoken to that carries shard channels.
    shard_line: Option<Arc<ShardLine>>,
    batch: Vec<BrokerMessage>,
}

impl<'a> Listening<'a> {
    pub(super) fn new(link: &'a Subscriber, line: Line) -> Self {
        let Line { connection, watch, handover, echoes, bus, shard_line } = line;
        let prober = Prober {
            connection: connection.clone(),
            echoes,
            outbox: link.outbox.clone(),
            commands: Arc::clone(&link.commands),
            limit: link.settings.probe_interval.unwrap_or_default().max(ROUND_TIMEOUT_MIN),
        };
        let shard_prober = shard_line.clone().map(|line| ShardProber {
            line,
            echoes: Arc::clone(&prober.echoes),
            outbox: prober.outbox.clone(),
            commands: Arc::clone(&prober.commands),
            limit: prober.limit,
            channel: Arc::default(),
        });
        Self {
            link,
            connection,
            watch,
            handover,
            proven: Instant::now(),
            round: None,
            gated: false,
            established: false,
            prober,
            shard_prober,
            probe: None,
            checks: FuturesUnordered::new(),
            since: Instant::now(),
            receives: false,
            misses: 0,
            drops: 0,
            stale_commands: None,
            provable: link.settings.probe_interval.is_some(),
            ping: None,
            bus,
            look: None,
            shard_line,
            batch: Vec::with_capacity(BATCH),
        }
    }

    /// Listens until the connection is of no use any more.
    pub(super) async fn listen(&mut self) -> LinkError {
        let failure = self.attend().await;
        self.handover.end();
        // What waits behind the gate is dropped: it belongs to the spell whose loss is yet to be said.
        while !self.gated && self.hand_on().is_ok() {
            tokio::task::yield_now().await;
        }
        self.link.wishes.table().link_lost(self.lost_from());
        failure
    }

    async fn attend(&mut self) -> LinkError {
        let mut pings = clock(self.link.settings.ping_interval);
        let probe_interval = self.link.settings.probe_interval;
        let mut probes = clock(probe_interval.unwrap_or(self.link.settings.ping_interval));
        if self.provable {
            self.start_first_probe();
        }
        let mut checks = clock(probe_interval.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL));
        let mut mending = clock(self.link.settings.instance.rejected_retry_max);
        let mut arrivals = self.prober.echoes.arrivals();
        let mut connections = self.link.commands.connections();
        self.start_round();
        loop {
            let step = tokio::select! {
                () = self.handover.ready(), if !self.gated => {
                    let step = self.hand_on();
                    // A queue that never empties must not keep the runtime from its other tasks.
                    tokio::task::yield_now().await;
                    step
                }
                outcome = answered(&mut self.round) => self.settle(outcome),
                answer = answered(&mut self.ping) => self.pinged(answer),
                proof = proven(&mut self.probe) => self.judge(proof),
                Some(proof) = self.checks.next(), if !self.checks.is_empty() => proof.map_or(Ok(()), |proof| self.judge_loss(&proof)),
                Ok(()) = arrivals.changed() => { self.find_skipped(); Ok(()) }
                // The command link may have come to another server.
                Ok(()) = connections.changed() => { self.report_stale_commands(); self.verify(); Ok(()) }
                _ = checks.tick() => { self.report_stale_commands(); self.start_check(); Ok(()) }
                bus = answered(&mut self.look), if !self.gated => self.compare(bus),
                moved = &mut self.watch => Err(moved),
                () = self.link.wishes.changed(), if self.round.is_none() => { self.start_round(); Ok(()) }
                _ = pings.tick() => { self.start_checks(); Ok(()) }
                _ = probes.tick(), if self.probe.is_none() && self.provable => { self.start_probe(); Ok(()) }
                _ = mending.tick() => { self.mend(); Ok(()) }
            };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    fn start_round(&mut self) {
        let Some(round) = self.link.wishes.table().round() else { return self.establish() };
        if round.subscribe.iter().any(|topic| matches!(topic, Topic::Pattern(_))) {
            self.handover.expect_patterns();
        }
        self.gated = round.heals;
        let chunk = self.link.settings.subscribe_chunk;
        self.round = Some(match self.shard_line.clone() {
            Some(line) => Box::pin(async move { line.carry_out(round, chunk).await }),
            None => Box::pin(requests::carry_out(self.connection.clone(), round, chunk)),
        });
    }

    fn settle(&mut self, outcome: Result<Outcome, LinkError>) -> Result<(), LinkError> {
        self.round = None;
        let outcome = outcome?;
        let loss = self.link.wishes.table().loss(&outcome);
        if let Some(loss) = loss {
            self.link.tell_loss(loss);
        }
        self.gated = false;
        let is_away = !outcome.away.is_empty();
        self.link.wishes.table().settle(outcome);
        if is_away {
            self.link.route.misplaced();
        }
        self.establish();
        self.start_round();
        Ok(())
    }

    /// The link counts as up when everything that was wanted at the time of the connection is settled.
    fn establish(&mut self) {
        if !self.established {
            self.established = true;
            self.link.wishes.state().up();
        }
    }

    fn start_checks(&mut self) {
        // A node that carries shard channels is also asked whether it is cut off.
        if self.ping.is_none() && (!self.provable || self.shard_line.is_some()) {
            self.start_ping();
        }
        if self.bus.is_some() && self.look.is_none() {
            self.look = Some(Box::pin(Bus::look(self.connection.clone(), self.link.settings.ping_timeout)));
        }
    }

    fn start_ping(&mut self) {
        let limit = self.link.settings.ping_timeout;
        self.ping = Some(match self.shard_line.clone() {
            Some(line) => Box::pin(async move { line.ping(limit).await }),
            None => Box::pin(ping(self.connection.clone(), limit)),
        });
    }

    /// A node of a cluster that lost another one may have lost what that one sent.
    fn compare(&mut self, bus: Result<Bus, LinkError>) -> Result<(), LinkError> {
        self.look = None;
        let bus = bus?;
        if let Some(before) = self.bus.replace(bus.clone())
            && !bus.is_as_before(&before)
        {
            let loss =
                TopicGap { topics: AffectedTopics::All, cause: GapCause::LinkDown, from: before.asked };
            self.link.tell_loss(loss);
        }
        Ok(())
    }

    /// The server wrote all earlier publications before its answer, and TCP keeps the order.
    fn pinged(&mut self, answer: Result<Instant, LinkError>) -> Result<(), LinkError> {
        self.ping = None;
        self.heard_until(answer?);
        Ok(())
    }

    /// What waits behind the gate may yet be dropped, and then it was not heard.
    fn heard_until(&mut self, moment: Instant) {
        if !self.gated {
            self.proven = self.proven.max(moment);
        }
    }

    /// Asks again for what was heard once and is refused now, and for leave to prove that we hear.
    fn mend(&mut self) {
        if !self.provable && self.probe.is_none() && self.link.settings.probe_interval.is_some() {
            self.provable = true;
            self.start_first_probe();
        }
        if self.round.is_none() {
            self.link.wishes.table().retry_refused();
            self.start_round();
        }
    }

    fn hand_on(&mut self) -> Result<(), LinkError> {
        match self.handover.take(&mut self.batch, BATCH) {
            Taken::Messages => {
                self.link.listener.on_messages(&mut self.batch);
                self.batch.clear();
            }
            Taken::TopicGap(loss) => self.link.tell_loss(loss),
            Taken::Gone(topic) => {
                self.link.wishes.table().gone(&topic, Instant::now());
                self.link.wishes.touch();
                self.link.route.doubt();
            }
            Taken::Nothing => {}
            Taken::Ended => return Err(LinkError::Unreachable("the connection was closed".to_owned())),
        }
        Ok(())
    }
}

/// What the round under way has shown; never, when none is.
async fn proven(round: &mut Option<BoxFuture<'static, Proof>>) -> Proof {
    match round {
        Some(round) => round.await,
        None => pending().await,
    }
}

/// The answer to what is on its way; never, when nothing is.
async fn answered<T>(waiting: &mut Pending<T>) -> Result<T, LinkError> {
    match waiting {
        Some(answer) => answer.await,
        None => pending().await,
    }
}
