//! One connection of a subscriber link, from its first subscription until it fails.
//!
//! Owns the order of the events of this connection. Must never wait for a single event: messages, confirmations,
//! subscriptions and PING are awaited together.

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::cluster::bus::BusSnapshot;
use super::cluster::sharded_connection::ShardedConnection;
use super::cluster::sharded_prober::ShardedProber;
use super::link_target::SubscriberSocket;
use super::ping::{clock, ping};
use super::probe::{CHECK_INTERVAL, ProbeOutcome, ROUND_TIMEOUT_MIN};
use super::prober::Prober;
use super::receive_queue::{Dequeued, ReceiveQueue};
use super::subscribe_commands;
use super::subscriber_link::SubscriberLink;
use super::subscription_table::SyncResult;
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic, TopicGap};
use earshot_redis_link::{FailoverWatch, LinkError};

mod verification;

use verification::StaleCommands;

/// Messages in one call of the handler.
const MESSAGE_BATCH: usize = 256;

type PendingCommand<T> = Option<BoxFuture<'static, Result<T, LinkError>>>;

/// The connection.
pub(super) struct SubscriberConnection<'a> {
    link: &'a SubscriberLink,
    connection: MultiplexedConnection,
    /// Resolves when the server is no longer the right one.
    watch: FailoverWatch,
    receive_queue: Arc<ReceiveQueue>,
    /// Everything published until this moment on an active topic was received.
    verified_until: Instant,
    /// The subscribe commands in flight, one batch at a time.
    sync: PendingCommand<SyncResult>,
    /// While topics are resubscribed after an outage: no message is dispatched until the gap was reported.
    replaying: bool,
    established: bool,
    prober: Prober,
    /// Replaces `prober` on a node that carries sharded channels.
    sharded_prober: Option<ShardedProber>,
    probe: Option<BoxFuture<'static, ProbeOutcome>>,
    /// Probes between the rounds.
    checks: FuturesUnordered<BoxFuture<'static, Option<ProbeOutcome>>>,
    /// When the connection was established.
    since: Instant,
    /// Whether a probe has arrived.
    has_received_probe: bool,
    /// Consecutive probes that did not return.
    misses: u32,
    /// Consecutive dropped probes, without an arrival in between.
    dropped_probes: u32,
    /// The command connection to another server, until it has ended.
    stale_commands: Option<StaleCommands>,
    /// Whether probes are possible. If not, PING is used.
    can_probe: bool,
    ping: PendingCommand<Instant>,
    /// The last state of the cluster bus.
    bus: Option<BusSnapshot>,
    bus_check: PendingCommand<BusSnapshot>,
    /// The connection for sharded channels.
    sharded_connection: Option<Arc<ShardedConnection>>,
    batch: Vec<BrokerMessage>,
}

impl<'a> SubscriberConnection<'a> {
    pub(super) fn new(link: &'a SubscriberLink, socket: SubscriberSocket) -> Self {
        let SubscriberSocket { connection, watch, receive_queue, probe_replies, bus, sharded_connection } =
            socket;
        let prober = Prober {
            connection: connection.clone(),
            probe_replies,
            command_sender: link.command_sender.clone(),
            commands: Arc::clone(&link.commands),
            limit: link.settings.probe_interval.unwrap_or_default().max(ROUND_TIMEOUT_MIN),
        };
        let sharded_prober = sharded_connection.clone().map(|connection| ShardedProber {
            connection,
            probe_replies: Arc::clone(&prober.probe_replies),
            command_sender: prober.command_sender.clone(),
            commands: Arc::clone(&prober.commands),
            limit: prober.limit,
            channel: Arc::default(),
        });
        Self {
            link,
            connection,
            watch,
            receive_queue,
            verified_until: Instant::now(),
            sync: None,
            replaying: false,
            established: false,
            prober,
            sharded_prober,
            probe: None,
            checks: FuturesUnordered::new(),
            since: Instant::now(),
            has_received_probe: false,
            misses: 0,
            dropped_probes: 0,
            stale_commands: None,
            can_probe: link.settings.probe_interval.is_some(),
            ping: None,
            bus,
            bus_check: None,
            sharded_connection,
            batch: Vec::with_capacity(MESSAGE_BATCH),
        }
    }

    /// Runs until the connection fails.
    pub(super) async fn run(&mut self) -> LinkError {
        let failure = self.run_until_failure().await;
        self.receive_queue.end();
        // While replaying, waiting messages are dropped: they belong to the gap that is not reported yet.
        while !self.replaying && self.dispatch().is_ok() {
            tokio::task::yield_now().await;
        }
        self.link.subscriptions.table().on_link_lost(self.gap_from());
        failure
    }

    async fn run_until_failure(&mut self) -> LinkError {
        let mut pings = clock(self.link.settings.ping_interval);
        let probe_interval = self.link.settings.probe_interval;
        let mut probes = clock(probe_interval.unwrap_or(self.link.settings.ping_interval));
        if self.can_probe {
            self.start_first_probe();
        }
        let mut checks = clock(probe_interval.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL));
        let mut retries = clock(self.link.settings.instance.rejected_retry_max);
        let mut arrivals = self.prober.probe_replies.arrivals();
        let mut connections = self.link.commands.connections();
        self.start_sync();
        loop {
            let step = tokio::select! {
                () = self.receive_queue.ready(), if !self.replaying => {
                    let step = self.dispatch();
                    // A queue that never empties must not starve the other tasks of the runtime.
                    tokio::task::yield_now().await;
                    step
                }
                outcome = completed(&mut self.sync) => self.on_sync(outcome),
                answer = completed(&mut self.ping) => self.on_pong(answer),
                proof = probe_outcome(&mut self.probe) => self.on_probe(proof),
                Some(proof) = self.checks.next(), if !self.checks.is_empty() => proof.map_or(Ok(()), |proof| self.on_lost_probe(&proof)),
                Ok(()) = arrivals.changed() => { self.report_skipped_probes(); Ok(()) }
                // The command link may have connected to another server.
                Ok(()) = connections.changed() => { self.report_stale_commands(); self.verify(); Ok(()) }
                _ = checks.tick() => { self.report_stale_commands(); self.start_check(); Ok(()) }
                bus = completed(&mut self.bus_check), if !self.replaying => self.on_bus_snapshot(bus),
                moved = &mut self.watch => Err(moved),
                () = self.link.subscriptions.changed(), if self.sync.is_none() => { self.start_sync(); Ok(()) }
                _ = pings.tick() => { self.start_checks(); Ok(()) }
                _ = probes.tick(), if self.probe.is_none() && self.can_probe => { self.start_probe(); Ok(()) }
                _ = retries.tick() => { self.retry_rejected_topics(); Ok(()) }
            };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    fn start_sync(&mut self) {
        let Some(sync) = self.link.subscriptions.table().next_batch() else { return self.establish() };
        if sync.subscribe.iter().any(|topic| matches!(topic, Topic::Pattern(_))) {
            self.receive_queue.expect_patterns();
        }
        self.replaying = sync.has_outage;
        let chunk = self.link.settings.subscribe_chunk;
        self.sync = Some(match self.sharded_connection.clone() {
            Some(connection) => Box::pin(async move { connection.execute(sync, chunk).await }),
            None => Box::pin(subscribe_commands::execute(self.connection.clone(), sync, chunk)),
        });
    }

    fn on_sync(&mut self, outcome: Result<SyncResult, LinkError>) -> Result<(), LinkError> {
        self.sync = None;
        let outcome = outcome?;
        let gap = self.link.subscriptions.table().outage_to_report(&outcome);
        if let Some(gap) = gap {
            self.link.report_gap(gap);
        }
        self.replaying = false;
        let is_away = !outcome.misplaced.is_empty();
        self.link.subscriptions.table().apply(outcome);
        if is_away {
            self.link.target.request_placement();
        }
        self.establish();
        self.start_sync();
        Ok(())
    }

    /// The link is up when everything that was desired at the time of the connection is resolved.
    fn establish(&mut self) {
        if !self.established {
            self.established = true;
            self.link.subscriptions.state().up();
        }
    }

    fn start_checks(&mut self) {
        // A node with sharded channels is also checked for being cut off.
        if self.ping.is_none() && (!self.can_probe || self.sharded_connection.is_some()) {
            self.start_ping();
        }
        if self.bus.is_some() && self.bus_check.is_none() {
            self.bus_check =
                Some(Box::pin(BusSnapshot::read(self.connection.clone(), self.link.settings.ping_timeout)));
        }
    }

    fn start_ping(&mut self) {
        let limit = self.link.settings.ping_timeout;
        self.ping = Some(match self.sharded_connection.clone() {
            Some(connection) => Box::pin(async move { connection.ping(limit).await }),
            None => Box::pin(ping(self.connection.clone(), limit)),
        });
    }

    /// A node of a cluster that lost another one may have lost its messages.
    fn on_bus_snapshot(&mut self, bus: Result<BusSnapshot, LinkError>) -> Result<(), LinkError> {
        self.bus_check = None;
        let bus = bus?;
        if let Some(before) = self.bus.replace(bus.clone())
            && !bus.same_links(&before)
        {
            let gap = TopicGap { topics: AffectedTopics::All, cause: GapCause::LinkDown, from: before.asked };
            self.link.report_gap(gap);
        }
        Ok(())
    }

    /// The server wrote all earlier publications before the reply, and TCP keeps the order.
    fn on_pong(&mut self, answer: Result<Instant, LinkError>) -> Result<(), LinkError> {
        self.ping = None;
        self.mark_verified_until(answer?);
        Ok(())
    }

    /// Messages that wait while replaying may still be dropped.
    fn mark_verified_until(&mut self, moment: Instant) {
        if !self.replaying {
            self.verified_until = self.verified_until.max(moment);
        }
    }

    /// Retries rejected topics, and probes that were not permitted.
    fn retry_rejected_topics(&mut self) {
        if !self.can_probe && self.probe.is_none() && self.link.settings.probe_interval.is_some() {
            self.can_probe = true;
            self.start_first_probe();
        }
        if self.sync.is_none() {
            self.link.subscriptions.table().retry_rejected();
            self.start_sync();
        }
    }

    fn dispatch(&mut self) -> Result<(), LinkError> {
        match self.receive_queue.dequeue(&mut self.batch, MESSAGE_BATCH) {
            Dequeued::Messages => {
                self.link.handler.on_messages(&mut self.batch);
                self.batch.clear();
            }
            Dequeued::Gap(gap) => self.link.report_gap(gap),
            Dequeued::Unsubscribed(topic) => {
                self.link.subscriptions.table().on_server_unsubscribe(&topic, Instant::now());
                self.link.subscriptions.notify();
                self.link.target.invalidate_topology();
            }
            Dequeued::Nothing => {}
            Dequeued::Ended => return Err(LinkError::Unreachable("the connection was closed".to_owned())),
        }
        Ok(())
    }
}

/// The outcome of the round in flight; pending without one.
async fn probe_outcome(sync: &mut Option<BoxFuture<'static, ProbeOutcome>>) -> ProbeOutcome {
    match sync {
        Some(sync) => sync.await,
        None => pending().await,
    }
}

/// The result of the command in flight; pending without one.
async fn completed<T>(waiting: &mut PendingCommand<T>) -> Result<T, LinkError> {
    match waiting {
        Some(answer) => answer.await,
        None => pending().await,
    }
}
