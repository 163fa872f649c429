//! The calls of a broker, divided into steps, so that a test can interleave other work between them, as threads do.
//! Must never do anything that the whole call does not.

use std::sync::Arc;

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::time::Instant;

use crate::broker::{AffectedTopics, Attributes, BrokerMessage, GapCause};
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::node::registry::ChannelRegistry;

impl ChannelRegistry {
    /// `on_messages`: the step for each message.
    pub(crate) fn step_sequence(&self, message: BrokerMessage, batches: &mut [Vec<Arc<Publication>>]) {
        self.ingest(message, Attributes::default(), batches);
    }

    /// `on_messages`: the last step.
    pub(crate) fn step_flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        self.send_batches(batches);
    }

    /// `on_gap`: the first step.
    pub(crate) fn step_start_gap(&self, topics: &AffectedTopics, cause: GapCause) -> Vec<Vec<ChannelGap>> {
        self.start_gap(&self.affected_channels(topics), cause)
    }

    /// `on_gap`: the last step.
    pub(crate) fn step_send_gaps(&self, gaps: Vec<Vec<ChannelGap>>) {
        self.send_gaps(gaps);
    }

    /// The periodic work of the node.
    pub(crate) fn step_expire(&self) {
        self.expire_history(Instant::now());
        self.unsubscribe_idle(Instant::now(), |_| {});
    }

    /// The position of a channel.
    pub(crate) fn top(&self, name: &ChannelName) -> Option<StreamPosition> {
        self.channels.get(name).map(|channel| channel.state().position())
    }
}
