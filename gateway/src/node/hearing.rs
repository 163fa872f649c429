//! What a broker heard, on its way to the shards.
//!
//! Owns the order: each message is stamped, or found to be the next of its log, and handed to the shards that listen;
//! what was missed is told before what follows it. Must never wait: a shard that is behind gets a gap, not the node's
//! time.

#[cfg(test)]
mod steps;

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use earshot_protocol::Payload;

use super::channel::{Channel, shards_of};
use super::log::Heard;
use super::messages::ChannelGap;
use super::publication::Publication;
use super::registry::ChannelRegistry;
use crate::broker::log::{CLEARED, LoggedMessage};
use crate::broker::{
    AffectedTopics, Attributes, BrokerEventHandler, BrokerMessage, GapCause, Topic, TopicGap,
};
use crate::metrics::GAP_CAUSES;

impl BrokerEventHandler for ChannelRegistry {
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
        self.metrics.control.messages.add(messages.len() as u64);
        let _aside = self.aside.read().unwrap_or_else(PoisonError::into_inner);
        self.take(messages);
    }

    fn on_message(&self, message: BrokerMessage, attributes: Attributes) {
        self.metrics.control.messages.add(1);
        let _aside = self.aside.read().unwrap_or_else(PoisonError::into_inner);
        let mut batches: Vec<Vec<Arc<Publication>>> = vec![Vec::new(); self.shard_senders.len()];
        self.stamp(message, attributes, &mut batches);
        self.flush(&mut batches);
    }

    fn on_local_publish(&self, message: BrokerMessage) {
        self.metrics.control.messages_local.add(1);
        let _aside = self.aside.write().unwrap_or_else(PoisonError::into_inner);
        self.take(&mut vec![message]);
    }

    fn on_gap(&self, gap: TopicGap) {
        let _aside = self.aside.read().unwrap_or_else(PoisonError::into_inner);
        let (logs, own): (Vec<_>, Vec<_>) =
            self.lost_channels(&gap.topics).into_iter().partition(|channel| channel.log.is_some());
        for channel in logs {
            let lost = channel.state().lose_log();
            if lost {
                self.must_fill(channel);
            }
        }
        self.tell_gap(&own, gap.cause);
    }
}

impl ChannelRegistry {
    fn take(&self, messages: &mut Vec<BrokerMessage>) {
        let mut batches: Vec<Vec<Arc<Publication>>> = vec![Vec::new(); self.shard_senders.len()];
        for message in messages.drain(..) {
            self.stamp(message, Attributes::default(), &mut batches);
        }
        self.flush(&mut batches);
    }

    pub(super) fn stamp(
        &self,
        message: BrokerMessage,
        attributes: Attributes,
        batches: &mut [Vec<Arc<Publication>>],
    ) {
        let Some(channel) = self.channels.get(message.channel.as_str()) else {
            self.metrics.control.messages_no_subscriber.add(1);
            return;
        };
        if channel.log.is_some() {
            let channel = Arc::clone(&channel);
            return self.follow(&channel, &message.data, batches);
        }
        if message.data.len() > self.limits.publication_bytes {
            let channel = Arc::clone(&channel);
            self.flush(batches);
            return self.tell_gap(&[channel], GapCause::TooLarge);
        }
        let stamped = channel.stamp(Payload::new(message.data), attributes, &self.budget);
        let Some((shards, publication)) = stamped else { return };
        for shard in shards_of(shards) {
            batches[shard].push(Arc::clone(&publication));
        }
    }

    pub(super) fn follow(&self, channel: &Arc<Channel>, data: &Bytes, batches: &mut [Vec<Arc<Publication>>]) {
        if data[..] == *CLEARED {
            return channel.state().forget_log(&self.budget);
        }
        let Some(envelope) = LoggedMessage::decode(data) else {
            return self.metrics.control.messages_outside_log.add(1);
        };
        let mut state = channel.state();
        let heard = state.follow(channel, envelope, &self.budget);
        let shards = state.shards();
        drop(state);
        match heard {
            Heard::Next(publication) => {
                for shard in shards_of(shards) {
                    batches[shard].push(Arc::clone(&publication));
                }
            }
            Heard::Nothing => {}
            Heard::Hole => {
                // What came before it must be in the shards' queues before the log is read.
                self.flush(batches);
                self.must_fill(Arc::clone(channel));
            }
        }
    }

    pub(super) fn flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        for (shard_queue, batch) in self.shard_senders.iter().zip(batches) {
            if !batch.is_empty()
                && let Err(full) = shard_queue.send_publications(std::mem::take(batch))
            {
                self.count_gaps(GapCause::QueueFull, full.channels);
            }
        }
    }

    pub(super) fn tell_gap(&self, channels: &[Arc<Channel>], cause: GapCause) {
        self.hand_gaps(self.interrupt(channels, cause));
    }

    /// Interrupts the sequences of channels, and says what each shard must be told.
    fn interrupt(&self, channels: &[Arc<Channel>], cause: GapCause) -> Vec<Vec<ChannelGap>> {
        let mut gaps: Vec<Vec<ChannelGap>> = vec![Vec::new(); self.shard_senders.len()];
        for channel in channels {
            let (position, shards) = {
                let mut state = channel.state();
                let position = match cause {
                    GapCause::TooLarge => state.skip(&self.budget),
                    _ => state.break_sequence(&self.budget),
                };
                (position, state.shards())
            };
            for shard in shards_of(shards) {
                gaps[shard].push(ChannelGap { channel: channel.name.clone(), cause, position });
            }
        }
        self.count_gaps(cause, channels.len());
        gaps
    }

    fn hand_gaps(&self, gaps: Vec<Vec<ChannelGap>>) {
        for (shard_queue, gaps) in self.shard_senders.iter().zip(gaps) {
            if !gaps.is_empty() {
                shard_queue.send_gaps(gaps);
            }
        }
    }

    pub(super) fn count_gaps(&self, cause: GapCause, channels: usize) {
        if let Some(place) = GAP_CAUSES.iter().position(|name| *name == cause.as_str()) {
            self.metrics.control.gaps[place].add(channels as u64);
        }
    }

    pub(super) fn lost_channels(&self, topics: &AffectedTopics) -> Vec<Arc<Channel>> {
        match topics {
            AffectedTopics::All => self.channels.iter().map(|entry| Arc::clone(entry.value())).collect(),
            AffectedTopics::Some(topics) => {
                if topics.iter().any(|topic| matches!(topic, Topic::Pattern(_))) {
                    return self.lost_channels(&AffectedTopics::All);
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
