//! The probes on a connection that carries sharded channels: see [`super::super::probe`].
//!
//! Owns the choice of the channel: its slot must belong to the node, and a new channel is chosen when it has moved.
//! Must never take a moved slot for a link that does not receive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::time::{sleep_until, timeout};

use super::super::command_queue::{CommandSender, RedisRequest};
use super::super::probe::{ProbeOutcome, ProbePublish, ProbeReplies};
use super::super::probe_tracker::ProbeSent;
use super::super::status::LinkState;
use super::sharded_connection::ShardedConnection;
use earshot_redis_link::slot::{SLOT_COUNT, slot};

/// Names tried per slot: enough to find one for a node that owns a single slot.
const TRIES: u32 = 16 * SLOT_COUNT as u32;

/// Runs rounds on one connection.
#[derive(Clone, Debug)]
pub(in crate::broker::redis) struct ShardedProber {
    pub(in crate::broker::redis) connection: Arc<ShardedConnection>,
    pub(in crate::broker::redis) probe_replies: Arc<ProbeReplies>,
    pub(in crate::broker::redis) command_sender: CommandSender,
    /// The state of the command link.
    pub(in crate::broker::redis) commands: Arc<LinkState>,
    /// The timeout of a round.
    pub(in crate::broker::redis) limit: Duration,
    /// The present probe channel.
    pub(in crate::broker::redis) channel: Arc<Mutex<Option<ChannelName>>>,
}

impl ShardedProber {
    /// The first round: subscribes to the probe channel first.
    pub(in crate::broker::redis) async fn first_round(self) -> ProbeOutcome {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.round().await
    }

    /// One round.
    pub(in crate::broker::redis) async fn round(self) -> ProbeOutcome {
        let channel = match self.settled().await {
            Ok(channel) => channel,
            Err(proof) => return proof,
        };
        let (last_before, pushes_before) = (self.probe_replies.last(), self.probe_replies.pushes());
        let ProbeSent { number, at: sent } = self.probe_replies.send();
        let rejection = async {
            match self.publish(&channel, number).await {
                Some(ProbePublish::Forbidden(reason)) => ProbeOutcome::Forbidden(reason),
                Some(ProbePublish::Rejected(reason)) => ProbeOutcome::Rejected(reason),
                Some(ProbePublish::Acknowledged { .. } | ProbePublish::Unknown) | None => {
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            biased;
            arrived = self.probe_replies.wait_for(number) => return match arrived {
                true => ProbeOutcome::Received(self.probe_replies.verified(), sent.elapsed()),
                false => ProbeOutcome::Inconclusive,
            },
            proof = rejection => return proof,
            () = sleep_until(sent + self.limit) => {}
        }
        if !self.connection.owns(slot(channel.as_str())) {
            // Not conclusive; the next round uses another channel.
            *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let answers = async { Box::pin(self.connection.ping(self.limit)).await.is_ok() };
        self.probe_replies.on_timeout(number, last_before, pushes_before, answers).await
    }

    /// A channel of the node that is subscribed on this connection.
    async fn settled(&self) -> Result<ChannelName, ProbeOutcome> {
        let known = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(channel) = known.filter(|channel| self.connection.owns(slot(channel.as_str()))) {
            return Ok(channel);
        }
        self.probe_replies.clear();
        let Some(channel) = self.choose() else {
            return Err(ProbeOutcome::Forbidden(format!("{} owns no slot", self.connection.node())));
        };
        let rejection = async { self.connection.ssubscribe(&channel).await.and_then(ProbePublish::of_error) };
        match timeout(self.limit, rejection).await {
            Ok(Some(ProbePublish::Forbidden(reason))) => Err(ProbeOutcome::Forbidden(reason)),
            Ok(Some(ProbePublish::Rejected(reason))) => Err(ProbeOutcome::Rejected(reason)),
            // The round detects any other failure.
            Ok(_) | Err(_) => {
                *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
                Ok(channel)
            }
        }
    }

    fn choose(&self) -> Option<ChannelName> {
        let names = (0..TRIES).map(|number| format!("{}.{number}", self.probe_replies.channel()));
        let mut here = names.filter(|name| self.connection.owns(slot(name)));
        here.find_map(|name| ChannelName::parse(&name).ok())
    }

    /// Publishes over the command link, or, when that is not usable, over the subscriber connection itself.
    async fn publish(&self, channel: &ChannelName, number: u64) -> Option<ProbePublish> {
        let data = number.to_string();
        if self.commands.is_up() {
            let (channel, data) = (channel.clone(), data.clone().into());
            let request = RedisRequest::PublishSharded { channel, data, allow_local: false };
            if let Ok(answer) = timeout(self.limit / 2, self.command_sender.submit(request)).await
                && let Some(published) = self.probe_replies.published(number, answer)
            {
                return Some(published);
            }
        }
        self.probe_replies.publish_on_subscription(number);
        self.connection.spublish(channel, &data).await.and_then(ProbePublish::of_error)
    }
}
