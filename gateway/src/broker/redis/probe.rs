//! Proof that the subscriber link receives: numbered publications on a channel of this connection.
//!
//! A probe is published where all publications of the node go, over the command link. So it detects what an answered
//! PING does not: a server that publishers no longer reach, a revoked permission, a missing subscription.
//!
//! # What each observation proves
//!
//! Let S be the server of the subscription and C the server of the command link. TCP keeps the order of a connection, and
//! a Redis server writes publications and replies to a connection in the order in which it executed the commands.
//!
//! 1. *Probe n arrives.* C reached S when n was published: everything published on C before n that took the same way
//!    to S was received before n. It proves nothing about a probe or publication that took another way.
//! 2. *Probe m is acknowledged, n is sent after that and arrives, m does not.* m was executed before n. If both were
//!    executed on S, S wrote m before n: m is lost, and with it possibly everything since the last good probe.
//! 3. *Probe m is acknowledged, a PING on the subscription is sent after that and answered, m has not arrived.* The same
//!    proof without a later probe, again only if C is S.
//! 4. *The acknowledgement counts no receivers.* No subscription of C has the channel: C is not S.
//! 5. *A probe over the subscriber connection itself arrives.* The subscription works. It proves nothing about C, so
//!    it does not move the start of a gap.
//! 6. *Nothing arrives and PING is not answered.* Nothing is proven: the reply may be queued after many publications.
//!
//! Per topology:
//!
//! - *One server, or the primary of Sentinels*: C is S unless a name, balancer or VIP led the two connections to different
//!   servers. An earlier probe that was counted by C and arrived shows that C was S (`local`); then 2 and 3 decide.
//!   Once the subscription to the probe channel is confirmed, 4 decides after a short wait, which is for a replica that
//!   does not say that it is one. If an uncounted probe has arrived (`forwarded`), S is such a replica.
//! - *A replica*: C (often the primary) replicates publications to S, one ordered stream, but late. 2 decides after a
//!   grace period, since C may have changed between the probes; 3 and 4 prove nothing.
//! - *Cluster, plain pub/sub*: the bus from C to S is one ordered stream; the node C may change between the probes. As for
//!   a replica.
//! - *Cluster, sharded pub/sub*: the channel's slot may move between C and S. As for a replica, and a probe counts only
//!   while S owns the slot.
//! - *Several `urls`*: each is a server with links and probes of its own.
//!
//! Where 2 to 4 do not apply, probes that do not return are counted: [`MISSES_MAX`] when nothing else arrives,
//! [`MISSES_WHILE_RECEIVING_MAX`] when other publications do, and [`MISSES_WHILE_BEHIND_MAX`] when also PING is not
//! answered, as with a long backlog.
//!
//! Owns the record of arrivals, and the meaning of a reply to `PUBLISH`; [`super::prober`] publishes. Must never take a
//! failure of the command link for a loss.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::command_queue::{CommandReply, CommandResult};
use super::error_reply::ErrorReply;
use super::probe_tracker::{ProbeSent, ProbeTracker, Skipped};
use super::status::LinkConnection;
use crate::broker::BrokerError;
use crate::random;

/// The shortest timeout of a round, whatever the interval: a busy node or server may pause for a moment.
pub(super) const ROUND_TIMEOUT_MIN: Duration = Duration::from_millis(500);

/// Consecutive rounds without a returned probe after which the link counts as not receiving.
pub(super) const MISSES_MAX: u32 = 2;

/// The same while other publications arrive and PING is answered.
pub(super) const MISSES_WHILE_RECEIVING_MAX: u32 = 4;

/// The same while other publications arrive and PING is not answered: the reply may be queued after many publications.
pub(super) const MISSES_WHILE_BEHIND_MAX: u32 = 10;

/// The longest interval between two probes over the command link, whatever the interval of the rounds: a loss between
/// two probes that both arrive is not detected.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The probes of one connection, as its reader updates them.
#[derive(Debug)]
pub(super) struct ProbeReplies {
    channel: String,
    tracker: Mutex<ProbeTracker>,
    /// The number of pushes received, confirmations included.
    pushes: AtomicU64,
    /// The number of probes that have arrived.
    arrivals: watch::Sender<u64>,
}

impl ProbeReplies {
    /// Creates a unique channel name with this prefix.
    pub(super) fn new(prefix: &str) -> Arc<Self> {
        Arc::new(Self {
            channel: format!("{prefix}{:016x}", random::u64()),
            tracker: Mutex::new(ProbeTracker::new(Instant::now())),
            pushes: AtomicU64::new(0),
            arrivals: watch::Sender::new(0),
        })
    }

    /// Takes the next number.
    pub(super) fn send(&self) -> ProbeSent {
        self.tracker().send(Instant::now())
    }

    /// Counts a push of the server.
    pub(super) fn on_push(&self) {
        self.pushes.fetch_add(1, Ordering::Relaxed);
    }

    /// Accepts a publication that is a probe. Returns `false` for any other.
    pub(super) fn accept(&self, channel: &str, data: &[u8]) -> bool {
        if !channel.starts_with(&self.channel) {
            return false;
        }
        // A publication of another program on this channel is ignored.
        let number = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok());
        if number.is_some_and(|number| self.tracker().receive(number)) {
            self.arrivals.send_modify(|arrivals| *arrivals += 1);
        }
        true
    }

    /// The prefix of its channels.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// The number of pushes received so far.
    pub(super) fn pushes(&self) -> u64 {
        self.pushes.load(Ordering::Relaxed)
    }

    /// Changes with each probe that arrives.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Discards the probes in flight; see [`ProbeTracker::clear`].
    pub(super) fn clear(&self) {
        self.tracker().clear();
        self.wake();
    }

    /// Whether any probe was acknowledged and has not arrived.
    pub(super) fn has_missing(&self) -> bool {
        self.tracker().has_missing()
    }

    /// The number of the newest probe that has arrived; 0 if none.
    pub(super) fn last(&self) -> u64 {
        self.tracker().newest_received().map_or(0, |probe| probe.number)
    }

    /// Everything published on the command link until this moment was received.
    pub(super) fn verified(&self) -> Instant {
        self.tracker().verified()
    }

    /// Records the reply of the command link to a `PUBLISH`. Returns `None` when it is unknown whether the probe was
    /// published, or when it was not for a reason that does not concern the subscription.
    pub(super) fn published(&self, number: u64, answer: CommandResult) -> Option<ProbePublish> {
        match answer {
            Ok(CommandReply::Value(value)) => {
                let counted = matches!(value, Value::Int(receivers) if receivers > 0);
                self.tracker().acknowledge(number, counted, Instant::now());
                Some(ProbePublish::Acknowledged { counted })
            }
            Err(BrokerError::Rejected(reason)) => match ProbePublish::of_error(reason) {
                Some(ProbePublish::Rejected(_)) => {
                    self.tracker().reject();
                    None
                }
                published => published,
            },
            Ok(CommandReply::DeliveredLocally) | Err(BrokerError::Unavailable(_) | BrokerError::Busy) => None,
        }
    }

    /// Records that the probe is also published over the subscriber connection.
    pub(super) fn publish_on_subscription(&self, number: u64) {
        self.tracker().publish_on_subscription(number);
    }

    /// Takes the probes that are lost for certain; see [`ProbeTracker::take_skipped`].
    pub(super) fn take_skipped(&self, is_replicated: bool) -> Option<Skipped> {
        let skipped = self.tracker().take_skipped(Instant::now(), is_replicated);
        if skipped.is_some() {
            self.wake();
        }
        skipped
    }

    /// Resolves when a probe has arrived (`true`) or was discarded (`false`).
    pub(super) async fn wait_for(&self, number: u64) -> bool {
        let mut arrivals = self.arrivals();
        let is_settled = |_: &u64| {
            let tracker = self.tracker();
            tracker.is_received(number) || tracker.is_discarded(number)
        };
        // The sender lives as long as `self`.
        let _ = arrivals.wait_for(is_settled).await;
        self.tracker().is_received(number)
    }

    /// Wakes the rounds and checks whose probes were discarded.
    fn wake(&self) {
        self.arrivals.send_modify(|_| ());
    }

    /// The outcome of a round whose own probe did not arrive in time. Another probe may have arrived: then everything
    /// before that was received. `answers` checks whether the connection answers a PING.
    pub(super) async fn on_timeout(
        &self,
        number: u64,
        last_before: u64,
        pushes_before: u64,
        answers: impl Future<Output = bool>,
    ) -> ProbeOutcome {
        let proof = || {
            let newest = self.tracker().newest_received().filter(|probe| probe.number > last_before)?;
            Some(ProbeOutcome::Received(self.verified(), newest.at.elapsed()))
        };
        if let Some(proof) = proof() {
            return proof;
        }
        let received_others = self.pushes() > pushes_before;
        let behind = received_others && !answers.await;
        let missed = ProbeOutcome::Missed { received_others, behind };
        proof().unwrap_or(if self.tracker().is_discarded(number) {
            ProbeOutcome::Inconclusive
        } else {
            missed
        })
    }

    /// The probes. The lock must not be held across an await.
    pub(super) fn tracker(&self) -> MutexGuard<'_, ProbeTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a round.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// The subscription receives: everything published on the command link until this moment was received. With the
    /// round-trip time of the probe.
    Received(Instant, Duration),
    /// The probe did not return. Whether other messages were received meanwhile, and whether PING was not answered
    /// either.
    Missed { received_others: bool, behind: bool },
    /// The server published it on this subscription, and it was lost in transit.
    Dropped,
    /// The server of this command connection does not have the subscription.
    OtherServer(LinkConnection),
    /// The probe was discarded while it was in flight: it proves nothing.
    Inconclusive,
    /// The server denies publishing or receiving it: probes are not possible.
    Forbidden(String),
    /// The server replied with an error that is not about permissions.
    Rejected(String),
}

/// The result of a `PUBLISH`.
pub(super) enum ProbePublish {
    /// Executed; `counted`: the server delivered it to a subscriber.
    Acknowledged {
        counted: bool,
    },
    /// Sent over the subscriber connection, or unknown.
    Unknown,
    Forbidden(String),
    Rejected(String),
}

impl ProbePublish {
    /// The meaning of an error reply for a probe; `None` when it is temporary.
    pub(super) fn of_error(reason: String) -> Option<Self> {
        match ErrorReply::of(&reason) {
            ErrorReply::Forbidden | ErrorReply::UnknownCommand => Some(Self::Forbidden(reason)),
            ErrorReply::Passing => None,
            ErrorReply::Rejected => Some(Self::Rejected(reason)),
        }
    }

    /// The same for a failed request; also `None` when the connection failed.
    pub(super) fn of_failure(error: &RedisError) -> Option<Self> {
        ErrorReply::text(error).and_then(Self::of_error)
    }
}
