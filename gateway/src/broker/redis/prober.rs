//! One probe from its publication to its proof: the rounds, and the checks between them.
//!
//! Owns where a probe is published, how long it is waited for, and which proof its acknowledgement is: see
//! [`super::probe`]. Must never report a loss on a server that is only slow.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::outbox::{Outbox, Request};
use super::ping::ping;
use super::probe::{Echoes, MISSES_MAX, Proof, Published};
use super::probe_tracker::ProbeSent;
use super::status::LinkState;

/// The longest that a probe between the rounds is waited for.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a probe may take that its server, which has delivered others, delivered to no subscriber.
const UNCOUNTED_DELAY: Duration = Duration::from_millis(100);

/// How long after its acknowledgement a probe may take before a PING decides whether it was dropped.
const ARRIVAL_DELAY: Duration = Duration::from_millis(250);

/// Carries out rounds on one connection.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    pub(super) connection: MultiplexedConnection,
    pub(super) echoes: Arc<Echoes>,
    pub(super) outbox: Outbox,
    /// The state of the link that the outbox leads to.
    pub(super) commands: Arc<LinkState>,
    /// The longest that a round may take.
    pub(super) limit: Duration,
}

impl Prober {
    /// The first round: before it, the connection begins to hear what the rounds publish. `is_replicated`: publications
    /// may reach the server of the subscription from another one.
    pub(super) async fn first_round(mut self, is_replicated: bool) -> Proof {
        let subscribed = timeout(self.limit, self.connection.subscribe(self.echoes.channel())).await;
        if matches!(subscribed, Ok(Ok(()))) {
            self.echoes.tracker().confirm();
        }
        match subscribed.ok().and_then(Result::err).as_ref().and_then(Published::of_failure) {
            Some(Published::Forbidden(reason)) => Proof::Forbidden(reason),
            Some(Published::Rejected(reason)) => Proof::Rejected(reason),
            // Whatever else goes wrong, the round will show.
            _ => self.round(is_replicated).await,
        }
    }

    /// One round.
    pub(super) async fn round(mut self, is_replicated: bool) -> Proof {
        let echoes = Arc::clone(&self.echoes);
        let (last_before, heard_before) = (echoes.last(), echoes.heard());
        let ProbeSent { number, at: sent } = echoes.send();
        let deadline = sent + self.limit;
        tokio::select! {
            biased;
            // First, so that an acknowledgement that is there is entered, too.
            proof = self.publish_and_verify(number, Some(deadline), is_replicated) => return proof,
            arrived = echoes.came_back(number) => return match arrived {
                true => Proof::Heard(echoes.verified(), sent.elapsed()),
                false => Proof::Inconclusive,
            },
            () = sleep_until(deadline) => {}
        }
        let answers = async { ping(self.connection.clone(), self.limit).await.is_ok() };
        echoes.late(number, last_before, heard_before, answers).await
    }

    /// One more probe over the command link, between the rounds. It shows a loss for certain, or nothing.
    pub(super) async fn check(mut self, is_replicated: bool) -> Option<Proof> {
        if !self.commands.is_up() {
            return None;
        }
        let echoes = Arc::clone(&self.echoes);
        let number = echoes.send().number;
        tokio::select! {
            biased;
            proof = self.publish_and_verify(number, None, is_replicated) => {
                matches!(proof, Proof::Dropped | Proof::OtherServer(_)).then_some(proof)
            }
            _ = echoes.came_back(number) => None,
            () = sleep(CHECK_TIMEOUT) => None,
        }
    }

    /// Resolves with what the round has shown, unless only the arrival of the probe can show it.
    async fn publish_and_verify(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
        is_replicated: bool,
    ) -> Proof {
        match self.publish(number, deadline).await {
            Published::Acknowledged { counted } if !is_replicated => self.verify(number, counted).await,
            Published::Acknowledged { .. } | Published::Unknown => std::future::pending().await,
            Published::Forbidden(reason) => Proof::Forbidden(reason),
            Published::Rejected(reason) => Proof::Rejected(reason),
        }
    }

    /// Resolves when an acknowledged probe is lost for certain. The connection delivers what came before a delay or an
    /// answer on another thread: so each verdict looks once more whether the probe is missing.
    async fn verify(&self, number: u64, counted: bool) -> Proof {
        // The answer came just now, so this connection gave it.
        let (echoes, commands) = (&self.echoes, self.commands.connection());
        let is_local = echoes.tracker().is_local();
        if !counted {
            sleep(if is_local { UNCOUNTED_DELAY } else { ARRIVAL_DELAY }).await;
            let tracker = echoes.tracker();
            if tracker.needs_count() && tracker.is_missing(number) {
                return Proof::OtherServer(commands);
            }
        } else if is_local {
            sleep(ARRIVAL_DELAY).await;
            let is_answered = ping(self.connection.clone(), self.limit).await.is_ok();
            let tracker = echoes.tracker();
            if is_answered && tracker.is_local() && tracker.is_missing(number) {
                return Proof::Dropped;
            }
        }
        std::future::pending().await
    }

    /// Publishes over the command link, or, when that is of no use at the moment, over the listening connection itself
    /// until `fallback`.
    async fn publish(&mut self, number: u64, fallback: Option<Instant>) -> Published {
        let data = number.to_string();
        if self.commands.is_up()
            && let Ok(channel) = ChannelName::parse(self.echoes.channel())
        {
            let request = Request::Publish { channel, data: data.clone().into(), alone: false };
            let limit = if fallback.is_some() { self.limit / 2 } else { CHECK_TIMEOUT };
            if let Ok(answer) = timeout(limit, self.outbox.ask(request)).await
                && let Some(published) = self.echoes.published(number, answer)
            {
                return published;
            }
        }
        let Some(deadline) = fallback else { return Published::Unknown };
        if self.echoes.tracker().rejections() >= MISSES_MAX {
            self.commands.request_reconnect(self.commands.connection());
        }
        self.echoes.publish_on_subscription(number);
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.echoes.channel()).arg(&data);
        let sent = timeout_at(deadline, self.connection.send_packed_command(&publish)).await;
        let failed = sent.ok().and_then(|answer| answer.and_then(Value::extract_error).err());
        failed.as_ref().and_then(Published::of_failure).unwrap_or(Published::Unknown)
    }
}
