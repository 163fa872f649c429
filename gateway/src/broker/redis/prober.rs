//! One probe from its publication to its outcome: the rounds, and the checks between them.
//!
//! Owns the route of a probe, its timeouts, and the conclusions from its acknowledgement: see [`super::probe`]. Must
//! never report a loss on a slow server.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::command_queue::{CommandSender, RedisRequest};
use super::ping::ping;
use super::probe::{MISSES_MAX, ProbeOutcome, ProbePublish, ProbeReplies};
use super::probe_tracker::ProbeSent;
use super::status::LinkState;

/// The timeout of a probe between the rounds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a probe may take whose server, which has delivered others, counted no subscriber.
const UNCOUNTED_DELAY: Duration = Duration::from_millis(100);

/// How long after its acknowledgement a probe may take before a PING decides whether it was dropped.
const ARRIVAL_DELAY: Duration = Duration::from_millis(250);

/// Runs rounds on one connection.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    pub(super) connection: MultiplexedConnection,
    pub(super) probe_replies: Arc<ProbeReplies>,
    pub(super) command_sender: CommandSender,
    /// The state of the command link.
    pub(super) commands: Arc<LinkState>,
    /// The timeout of a round.
    pub(super) limit: Duration,
}

impl Prober {
    /// The first round: subscribes to the probe channel first. `is_replicated`: publications may reach the server of
    /// the subscription from another one.
    pub(super) async fn first_round(mut self, is_replicated: bool) -> ProbeOutcome {
        let subscribed = timeout(self.limit, self.connection.subscribe(self.probe_replies.channel())).await;
        if matches!(subscribed, Ok(Ok(()))) {
            self.probe_replies.tracker().confirm();
        }
        match subscribed.ok().and_then(Result::err).as_ref().and_then(ProbePublish::of_failure) {
            Some(ProbePublish::Forbidden(reason)) => ProbeOutcome::Forbidden(reason),
            Some(ProbePublish::Rejected(reason)) => ProbeOutcome::Rejected(reason),
            // The round detects any other failure.
            _ => self.round(is_replicated).await,
        }
    }

    /// One round.
    pub(super) async fn round(mut self, is_replicated: bool) -> ProbeOutcome {
        let probe_replies = Arc::clone(&self.probe_replies);
        let (last_before, pushes_before) = (probe_replies.last(), probe_replies.pushes());
        let ProbeSent { number, at: sent } = probe_replies.send();
        let deadline = sent + self.limit;
        tokio::select! {
            biased;
            // First, so that an available acknowledgement is also recorded.
            proof = self.publish_and_verify(number, Some(deadline), is_replicated) => return proof,
            arrived = probe_replies.wait_for(number) => return match arrived {
                true => ProbeOutcome::Received(probe_replies.verified(), sent.elapsed()),
                false => ProbeOutcome::Inconclusive,
            },
            () = sleep_until(deadline) => {}
        }
        let answers = async { ping(self.connection.clone(), self.limit).await.is_ok() };
        probe_replies.on_timeout(number, last_before, pushes_before, answers).await
    }

    /// One more probe over the command link, between the rounds. It proves a loss, or nothing.
    pub(super) async fn check(mut self, is_replicated: bool) -> Option<ProbeOutcome> {
        if !self.commands.is_up() {
            return None;
        }
        let probe_replies = Arc::clone(&self.probe_replies);
        let number = probe_replies.send().number;
        tokio::select! {
            biased;
            proof = self.publish_and_verify(number, None, is_replicated) => {
                matches!(proof, ProbeOutcome::Dropped | ProbeOutcome::OtherServer(_)).then_some(proof)
            }
            _ = probe_replies.wait_for(number) => None,
            () = sleep(CHECK_TIMEOUT) => None,
        }
    }

    /// Resolves with the outcome, unless only the arrival of the probe can decide it.
    async fn publish_and_verify(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
        is_replicated: bool,
    ) -> ProbeOutcome {
        match self.publish(number, deadline).await {
            ProbePublish::Acknowledged { counted } if !is_replicated => self.verify(number, counted).await,
            ProbePublish::Acknowledged { .. } | ProbePublish::Unknown => std::future::pending().await,
            ProbePublish::Forbidden(reason) => ProbeOutcome::Forbidden(reason),
            ProbePublish::Rejected(reason) => ProbeOutcome::Rejected(reason),
        }
    }

    /// Resolves when an acknowledged probe is lost for certain. The connection delivers earlier messages on another
    /// thread, so each decision checks again whether the probe is missing.
    async fn verify(&self, number: u64, counted: bool) -> ProbeOutcome {
        // The reply came just now, so this connection gave it.
        let (probe_replies, commands) = (&self.probe_replies, self.commands.connection());
        let is_local = probe_replies.tracker().is_local();
        if !counted {
            sleep(if is_local { UNCOUNTED_DELAY } else { ARRIVAL_DELAY }).await;
            let tracker = probe_replies.tracker();
            if tracker.needs_count() && tracker.is_missing(number) {
                return ProbeOutcome::OtherServer(commands);
            }
        } else if is_local {
            sleep(ARRIVAL_DELAY).await;
            let is_answered = ping(self.connection.clone(), self.limit).await.is_ok();
            let tracker = probe_replies.tracker();
            if is_answered && tracker.is_local() && tracker.is_missing(number) {
                return ProbeOutcome::Dropped;
            }
        }
        std::future::pending().await
    }

    /// Publishes over the command link, or, when that is not usable, over the subscriber connection until `fallback`.
    async fn publish(&mut self, number: u64, fallback: Option<Instant>) -> ProbePublish {
        let data = number.to_string();
        if self.commands.is_up()
            && let Ok(channel) = ChannelName::parse(self.probe_replies.channel())
        {
            let request = RedisRequest::Publish { channel, data: data.clone().into(), allow_local: false };
            let limit = if fallback.is_some() { self.limit / 2 } else { CHECK_TIMEOUT };
            if let Ok(answer) = timeout(limit, self.command_sender.submit(request)).await
                && let Some(published) = self.probe_replies.published(number, answer)
            {
                return published;
            }
        }
        let Some(deadline) = fallback else { return ProbePublish::Unknown };
        if self.probe_replies.tracker().rejections() >= MISSES_MAX {
            self.commands.request_reconnect(self.commands.connection());
        }
        self.probe_replies.publish_on_subscription(number);
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.probe_replies.channel()).arg(&data);
        let sent = timeout_at(deadline, self.connection.send_packed_command(&publish)).await;
        let failed = sent.ok().and_then(|answer| answer.and_then(Value::extract_error).err());
        failed.as_ref().and_then(ProbePublish::of_failure).unwrap_or(ProbePublish::Unknown)
    }
}
