//! The proof of hearing on a connection that carries shard channels: see [`super::super::probe`].
//!
//! Owns the choice of the channel: one whose slot the node owns, chosen anew when that slot has moved. Must never take
//! a slot that has moved for deafness.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::time::{sleep_until, timeout};

use super::super::outbox::{Outbox, Request};
use super::super::probe::{Echoes, Proof, Published};
use super::super::probe_tracker::ProbeSent;
use super::super::status::LinkState;
use super::shard_line::ShardLine;
use earshot_redis_link::slot::{SLOT_COUNT, slot};

/// Names that are tried for each slot that there is: enough for a node that owns one of thousands.
const TRIES: u32 = 16 * SLOT_COUNT as u32;

/// Carries out rounds on one connection.
#[derive(Clone, Debug)]
pub(in crate::broker::redis) struct ShardProber {
    pub(in crate::broker::redis) line: Arc<ShardLine>,
    pub(in crate::broker::redis) echoes: Arc<Echoes>,
    pub(in crate::broker::redis) outbox: Outbox,
    /// The state of the link that the outbox leads to.
    pub(in crate::broker::redis) commands: Arc<LinkState>,
    /// The longest that a round may take.
    pub(in crate::broker::redis) limit: Duration,
    /// Where the rounds publish at present.
    pub(in crate::broker::redis) channel: Arc<Mutex<Option<ChannelName>>>,
}

impl ShardProber {
    /// The first round: before it, the connection begins to hear what the rounds publish.
    pub(in crate::broker::redis) async fn first_round(self) -> Proof {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.round().await
    }

    /// One round.
    pub(in crate::broker::redis) async fn round(self) -> Proof {
        let channel = match self.settled().await {
            Ok(channel) => channel,
            Err(proof) => return proof,
        };
        let (last_before, heard_before) = (self.echoes.last(), self.echoes.heard());
        let ProbeSent { number, at: sent } = self.echoes.send();
        let refused = async {
            match self.publish(&channel, number).await {
                Some(Published::Forbidden(reason)) => Proof::Forbidden(reason),
                Some(Published::Rejected(reason)) => Proof::Rejected(reason),
                Some(Published::Acknowledged { .. } | Published::Unknown) | None => {
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            biased;
            arrived = self.echoes.came_back(number) => return match arrived {
                true => Proof::Heard(self.echoes.verified(), sent.elapsed()),
                false => Proof::Inconclusive,
            },
            proof = refused => return proof,
            () = sleep_until(sent + self.limit) => {}
        }
        if !self.line.owns(slot(channel.as_str())) {
            // Nothing is proven either way; the next round is on another channel.
            *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let answers = async { Box::pin(self.line.ping(self.limit)).await.is_ok() };
        self.echoes.late(number, last_before, heard_before, answers).await
    }

    /// A channel that the node carries and that is heard on this connection.
    async fn settled(&self) -> Result<ChannelName, Proof> {
        let known = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(channel) = known.filter(|channel| self.line.owns(slot(channel.as_str()))) {
            return Ok(channel);
        }
        self.echoes.clear();
        let Some(channel) = self.choose() else {
            return Err(Proof::Forbidden(format!("{} owns no slot", self.line.node())));
        };
        let refused = async { self.line.hear(&channel).await.and_then(Published::of_error) };
        match timeout(self.limit, refused).await {
            Ok(Some(Published::Forbidden(reason))) => Err(Proof::Forbidden(reason)),
            Ok(Some(Published::Rejected(reason))) => Err(Proof::Rejected(reason)),
            // Whatever else goes wrong, the round will show.
            Ok(_) | Err(_) => {
                *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
                Ok(channel)
            }
        }
    }

    fn choose(&self) -> Option<ChannelName> {
        let names = (0..TRIES).map(|number| format!("{}.{number}", self.echoes.channel()));
        let mut here = names.filter(|name| self.line.owns(slot(name)));
        here.find_map(|name| ChannelName::parse(&name).ok())
    }

    /// Publishes over the command link, or, when that is of no use at the moment, over the listening connection itself.
    async fn publish(&self, channel: &ChannelName, number: u64) -> Option<Published> {
        let data = number.to_string();
        if self.commands.is_up() {
            let (channel, data) = (channel.clone(), data.clone().into());
            let request = Request::PublishSharded { channel, data, alone: false };
            if let Ok(answer) = timeout(self.limit / 2, self.outbox.ask(request)).await
                && let Some(published) = self.echoes.published(number, answer)
            {
                return Some(published);
            }
        }
        self.echoes.publish_on_subscription(number);
        self.line.say(channel, &data).await.and_then(Published::of_error)
    }
}
