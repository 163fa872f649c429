//! Ingests messages of a broker and sends them to the shards.
//!
//! Owns the order: each message gets its position, or is matched with its log, and goes to the attached shards; a gap
//! is sent before the messages that follow it. Must never wait: a shard that is behind gets a gap.

#[cfg(test)]
pub(crate) mod steps;

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use earshot_protocol::Payload;

use super::channel::Channel;
use super::log_sequence::Ingest;
use super::messages::ChannelGap;
use super::publication::Publication;
use super::registry::ChannelRegistry;
use super::shard_queue::ShardSender;
use crate::broker::log::{CLEARED_MESSAGE, LoggedMessage};
use crate::broker::{
    AffectedTopics, Attributes, BrokerEventHandler, BrokerMessage, GapCause, Topic, TopicGap,
};

impl BrokerEventHandler for ChannelRegistry {
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
        self.metrics.control.messages.add(messages.len() as u64);
        let _gate = self.local_publish_gate.read().unwrap_or_else(PoisonError::into_inner);
        self.ingest_batch(messages);
    }

    fn on_message(&self, message: BrokerMessage, attributes: Attributes) {
        self.metrics.control.messages.add(1);
        let _gate = self.local_publish_gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut batches: Vec<Vec<Arc<Publication>>> = vec![Vec::new(); self.shard_senders.len()];
        self.ingest(message, attributes, &mut batches);
        self.send_batches(&mut batches);
    }

    fn on_local_publish(&self, message: BrokerMessage) {
        self.metrics.control.messages_local.add(1);
        let _gate = self.local_publish_gate.write().unwrap_or_else(PoisonError::into_inner);
        self.ingest_batch(&mut vec![message]);
    }

    fn on_gap(&self, gap: TopicGap) {
        let _gate = self.local_publish_gate.read().unwrap_or_else(PoisonError::into_inner);
        let (logs, own): (Vec<_>, Vec<_>) =
            self.affected_channels(&gap.topics).into_iter().partition(|channel| channel.log().is_some());
        for channel in logs {
            let was_in_sync = channel.state().mark_behind();
            if was_in_sync {
                self.catch_up.push(channel);
            }
        }
        self.report_gap(&own, gap.cause);
    }
}

impl ChannelRegistry {
    fn ingest_batch(&self, messages: &mut Vec<BrokerMessage>) {
        let mut batches: Vec<Vec<Arc<Publication>>> = vec![Vec::new(); self.shard_senders.len()];
        for message in messages.drain(..) {
            self.ingest(message, Attributes::default(), &mut batches);
        }
        self.send_batches(&mut batches);
    }

    pub(super) fn ingest(
        &self,
        message: BrokerMessage,
        attributes: Attributes,
        batches: &mut [Vec<Arc<Publication>>],
    ) {
        let Some(channel) = self.channels.get(message.channel.as_str()) else {
            self.metrics.control.messages_no_subscriber.add(1);
            return;
        };
        channel.rules.namespace.counters.messages.add(1);
        if channel.log().is_some() {
            let channel = Arc::clone(&channel);
            return self.ingest_logged(&channel, &message.data, batches);
        }
        if message.data.len() > self.limits.publication_bytes {
            let channel = Arc::clone(&channel);
            self.send_batches(batches);
            return self.report_gap(&[channel], GapCause::TooLarge);
        }
        let sequenced = channel.sequence(Payload::new(message.data), attributes, &self.budget);
        let Some((shards, publication)) = sequenced else { return };
        for shard in shards.iter() {
            batches[shard].push(Arc::clone(&publication));
        }
    }

    pub(super) fn ingest_logged(
        &self,
        channel: &Arc<Channel>,
        data: &Bytes,
        batches: &mut [Vec<Arc<Publication>>],
    ) {
        if data[..] == *CLEARED_MESSAGE {
            return channel.state().clear_log_history(&self.budget);
        }
        let Some(envelope) = LoggedMessage::decode(data) else {
            return self.metrics.control.messages_outside_log.add(1);
        };
        let mut state = channel.state();
        let outcome = state.follow(channel, envelope, &self.budget);
        let shards = state.shards();
        drop(state);
        match outcome {
            Ingest::InOrder(publication) => {
                for shard in shards.iter() {
                    batches[shard].push(Arc::clone(&publication));
                }
            }
            Ingest::Duplicate => {}
            Ingest::Gap => {
                // The publications before the gap must be in the shards' queues before the log is read.
                self.send_batches(batches);
                self.catch_up.push(Arc::clone(channel));
            }
        }
    }

    pub(super) fn send_batches(&self, batches: &mut [Vec<Arc<Publication>>]) {
        for (shard_queue, batch) in self.shard_senders.iter().zip(batches) {
            if !batch.is_empty()
                && let Err(full) = shard_queue.send_publications(std::mem::take(batch))
            {
                self.metrics.control.count_gaps(GapCause::QueueFull.as_str(), full.channels);
            }
        }
    }

    pub(super) fn report_gap(&self, channels: &[Arc<Channel>], cause: GapCause) {
        send_gaps(&self.shard_senders, self.start_gap(channels, cause));
    }

    /// Starts a new sequence or skips a position in each channel. Returns the gaps of each shard.
    fn start_gap(&self, channels: &[Arc<Channel>], cause: GapCause) -> Vec<Vec<ChannelGap>> {
        let mut gaps: Vec<Vec<ChannelGap>> = vec![Vec::new(); self.shard_senders.len()];
        for channel in channels {
            let (position, shards) = {
                let mut state = channel.state();
                let position = match cause {
                    GapCause::TooLarge => state.skip_one(&self.budget),
                    _ => state.start_new_epoch(&self.budget),
                };
                (position, state.shards())
            };
            for shard in shards.iter() {
                gaps[shard].push(ChannelGap { channel: channel.name.clone(), cause, position });
            }
        }
        self.metrics.control.count_gaps(cause.as_str(), channels.len());
        gaps
    }

    pub(super) fn affected_channels(&self, topics: &AffectedTopics) -> Vec<Arc<Channel>> {
        match topics {
            AffectedTopics::All => self.channels.iter().map(|entry| Arc::clone(entry.value())).collect(),
            AffectedTopics::Some(topics) => {
                if topics.iter().any(|topic| matches!(topic, Topic::Pattern(_))) {
                    return self.affected_channels(&AffectedTopics::All);
                }
                let find = |topic: &Topic| match topic {
                    Topic::Channel(name) | Topic::Sharded(name) => {
                        self.channels.get(name).map(|entry| Arc::clone(&entry))
                    }
                    Topic::Pattern(_) => None,
                };
                topics.iter().filter_map(find).collect()
            }
        }
    }
}

fn send_gaps(shard_senders: &[ShardSender], gaps: Vec<Vec<ChannelGap>>) {
    for (shard_queue, gaps) in shard_senders.iter().zip(gaps) {
        if !gaps.is_empty() {
            shard_queue.send_gaps(gaps);
        }
    }
}
