//! The proof that the subscriber link receives: numbered publications of our own, on a channel of this very connection.
//!
//! A probe is published where all publications of the node go, over the command link, so it finds what an answered PING
//! does not: a server that publishers no longer reach, a right that was revoked, a subscription that is not there.
//!
//! # What each observation proves
//!
//! Let S be the server of the subscription and C the server of the command link. TCP keeps the order of a connection, and
//! a Redis server writes publications and answers to a connection in the order in which it executed the commands.
//!
//! 1. *Probe n arrives.* C reached S when n was published: whatever was published on C before n, and reached S by the same
//!    way, was received before n. It proves nothing about a probe or publication that took another way.
//! 2. *Probe m is acknowledged, n is sent after that and arrives, m does not.* m was executed before n. If both were
//!    executed on S, S wrote m before n: m is lost, and with it possibly everything since the last good probe.
//! 3. *Probe m is acknowledged, a PING on the subscription is sent after that and answered, m has not arrived.* The same
//!    proof without a later probe, again only if C is S.
//! 4. *The acknowledgement counts no receivers.* No subscription of C has the channel: C is not S.
//! 5. *A probe over the subscriber connection itself arrives.* The subscription works. It proves nothing about C, so it
//!    does not move the moment from which a gap is counted.
//! 6. *Nothing arrives and no PING is answered.* Nothing is proven: the answer may stand behind very many publications.
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
//! Where 2 to 4 do not apply, probes without an answer are counted: [`MISSES_MAX`] when nothing else arrives,
//! [`MISSES_WHILE_RECEIVING_MAX`] when other publications do, and [`MISSES_WHILE_BEHIND_MAX`] when besides no PING is
//! answered, which is what a long backlog looks like.
//!
//! Owns what has arrived, and what an answer to a `PUBLISH` means; [`super::prober`] publishes. Must never take trouble of
//! the command link for a loss.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error_reply::ErrorReply;
use super::outbox::{Answer, Told};
use super::probe_tracker::{ProbeSent, ProbeTracker, Skipped};
use super::status::LinkConnection;
use crate::broker::BrokerError;
use crate::random;

/// The least that a round waits for its probe, however often there is one: a moment in which a busy node or server does
/// nothing is no loss.
pub(super) const ROUND_TIMEOUT_MIN: Duration = Duration::from_millis(500);

/// Rounds in a row without an answer after which the link counts as deaf.
pub(super) const MISSES_MAX: u32 = 2;

/// The same although other publications arrive, while PINGs on the subscription are answered.
pub(super) const MISSES_WHILE_RECEIVING_MAX: u32 = 4;

/// The same although other publications arrive, while no PING is answered: the answer may stand behind very many.
pub(super) const MISSES_WHILE_BEHIND_MAX: u32 = 10;

/// The longest time between two probes over the command link, however long the interval of the rounds: a loss between
/// two probes that both arrive is not found.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// What came back, as the reading side of a connection notes it.
#[derive(Debug)]
pub(super) struct Echoes {
    channel: String,
    tracker: Mutex<ProbeTracker>,
    /// Things that were heard, confirmations included.
    heard: AtomicU64,
    /// How many probes have arrived.
    arrivals: watch::Sender<u64>,
}

impl Echoes {
    /// For a channel that no other connection has: its name begins with `prefix`.
    pub(super) fn new(prefix: &str) -> Arc<Self> {
        Arc::new(Self {
            channel: format!("{prefix}{:016x}", random::u64()),
            tracker: Mutex::new(ProbeTracker::new(Instant::now())),
            heard: AtomicU64::new(0),
            arrivals: watch::Sender::new(0),
        })
    }

    /// Takes the next number.
    pub(super) fn send(&self) -> ProbeSent {
        self.tracker().send(Instant::now())
    }

    /// The server has told something, whatever it is.
    pub(super) fn hears(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a publication is a probe of ours.
    pub(super) fn takes(&self, channel: &str, data: &[u8]) -> bool {
        if !channel.starts_with(&self.channel) {
            return false;
        }
        // What somebody else publishes there proves nothing.
        let number = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok());
        if number.is_some_and(|number| self.tracker().receive(number)) {
            self.arrivals.send_modify(|arrivals| *arrivals += 1);
        }
        true
    }

    /// What the names of its channels begin with.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// How many things were heard so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Changes with each probe that arrives.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Discards the probes that are under way; see [`ProbeTracker::clear`].
    pub(super) fn clear(&self) {
        self.tracker().clear();
        self.wake();
    }

    /// Whether any probe was acknowledged and has not arrived.
    pub(super) fn has_missing(&self) -> bool {
        self.tracker().has_missing()
    }

    /// The number of the newest probe that has arrived; 0: none.
    pub(super) fn last(&self) -> u64 {
        self.tracker().newest_received().map_or(0, |probe| probe.number)
    }

    /// Everything published until this moment, where the command link publishes, was received.
    pub(super) fn verified(&self) -> Instant {
        self.tracker().verified()
    }

    /// Enters what the command link answered to a `PUBLISH`; `None`: it is not known whether the probe was published, or
    /// it was not, for a reason that says nothing about the subscription.
    pub(super) fn published(&self, number: u64, answer: Answer) -> Option<Published> {
        match answer {
            Ok(Told::Value(value)) => {
                let counted = matches!(value, Value::Int(receivers) if receivers > 0);
                self.tracker().acknowledge(number, counted, Instant::now());
                Some(Published::Acknowledged { counted })
            }
            Err(BrokerError::Refused(reason)) => match Published::of_error(reason) {
                Some(Published::Rejected(_)) => {
                    self.tracker().reject();
                    None
                }
                published => published,
            },
            Ok(Told::ThisNode) | Err(BrokerError::Unavailable(_) | BrokerError::Busy) => None,
        }
    }

    /// The probe is published over the subscriber connection, too.
    pub(super) fn publish_on_subscription(&self, number: u64) {
        self.tracker().publish_on_subscription(number);
    }

    /// Takes out what is lost for certain; see [`ProbeTracker::take_skipped`].
    pub(super) fn take_skipped(&self, is_replicated: bool) -> Option<Skipped> {
        let skipped = self.tracker().take_skipped(Instant::now(), is_replicated);
        if skipped.is_some() {
            self.wake();
        }
        skipped
    }

    /// Resolves when a probe has arrived (`true`) or was discarded (`false`).
    pub(super) async fn came_back(&self, number: u64) -> bool {
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

    /// What a round has shown whose own probe did not arrive in time. Another one may have: what was published before
    /// that was received. `answers` asks whether the connection answers a PING.
    pub(super) async fn late(
        &self,
        number: u64,
        last_before: u64,
        heard_before: u64,
        answers: impl Future<Output = bool>,
    ) -> Proof {
        let proof = || {
            let newest = self.tracker().newest_received().filter(|probe| probe.number > last_before)?;
            Some(Proof::Heard(self.verified(), newest.at.elapsed()))
        };
        if let Some(proof) = proof() {
            return proof;
        }
        let heard_others = self.heard() > heard_before;
        let behind = heard_others && !answers.await;
        let missed = Proof::Missed { heard_others, behind };
        proof().unwrap_or(if self.tracker().is_discarded(number) { Proof::Inconclusive } else { missed })
    }

    /// The probes, for less than an await.
    pub(super) fn tracker(&self) -> MutexGuard<'_, ProbeTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a round has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The subscription receives: everything published until this moment, where the command link publishes; and how long
    /// the probe took.
    Heard(Instant, Duration),
    /// It did not come back. Whether anything else was heard meanwhile, and whether the connection is behind: it did not
    /// answer a PING either.
    Missed { heard_others: bool, behind: bool },
    /// The server published it on this subscription, and it was lost on the way.
    Dropped,
    /// The server of this command connection does not have the subscription.
    OtherServer(LinkConnection),
    /// The probe was discarded while it was under way: nothing follows from it.
    Inconclusive,
    /// The server denies to publish or to receive it: nothing can be proven this way.
    Forbidden(String),
    /// The server answered with an error that says nothing about a right.
    Rejected(String),
}

/// What became of a `PUBLISH`.
pub(super) enum Published {
    /// Executed; `counted`: the server delivered it to somebody.
    Acknowledged {
        counted: bool,
    },
    /// Sent over the subscriber connection, or nobody knows.
    Unknown,
    Forbidden(String),
    Rejected(String),
}

impl Published {
    /// What an error reply says about a probe; `None` when it will pass.
    pub(super) fn of_error(reason: String) -> Option<Self> {
        match ErrorReply::of(&reason) {
            ErrorReply::Forbidden | ErrorReply::UnknownCommand => Some(Self::Forbidden(reason)),
            ErrorReply::Passing => None,
            ErrorReply::Rejected => Some(Self::Rejected(reason)),
        }
    }

    /// The same of a failed request; `None`, too, when the connection failed.
    pub(super) fn of_failure(error: &RedisError) -> Option<Self> {
        ErrorReply::text(error).and_then(Self::of_error)
    }
}
