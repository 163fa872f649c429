//! The calls of a broker, divided into steps, so that a test can interleave other work between them, as threads do.
//! Must never do anything that the whole call does not.

use std::sync::Arc;

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::time::Instant;

use crate::broker::{AffectedTopics, Attributes, BrokerMessage, GapCause};
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::node::registry::ChannelRegistry;

/// The steps of the calls of a broker.
pub(crate) trait IngestSteps {
    /// `on_messages`: the step for each message.
    fn step_sequence(&self, message: BrokerMessage, batches: &mut [Vec<Arc<Publication>>]);

    /// `on_messages`: the last step.
    fn step_flush(&self, batches: &mut [Vec<Arc<Publication>>]);

    /// `on_gap`: the first step.
    fn step_start_gap(&self, topics: &AffectedTopics, cause: GapCause) -> Vec<Vec<ChannelGap>>;

    /// `on_gap`: the last step.
    fn step_send_gaps(&self, gaps: Vec<Vec<ChannelGap>>);

    /// The periodic work of the node.
    fn step_expire(&self);

    /// The position of a channel.
    fn top(&self, name: &ChannelName) -> Option<StreamPosition>;
}

impl IngestSteps for ChannelRegistry {
    fn step_sequence(&self, message: BrokerMessage, batches: &mut [Vec<Arc<Publication>>]) {
        self.ingest(message, Attributes::default(), batches);
    }

    fn step_flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        self.send_batches(batches);
    }

    fn step_start_gap(&self, topics: &AffectedTopics, cause: GapCause) -> Vec<Vec<ChannelGap>> {
        self.start_gap(&self.affected_channels(topics), cause)
    }

    fn step_send_gaps(&self, gaps: Vec<Vec<ChannelGap>>) {
        super::send_gaps(&self.shard_senders, gaps);
    }

    fn step_expire(&self) {
        self.expire_history(Instant::now());
        self.unsubscribe_idle(Instant::now(), |_| {});
    }

    fn top(&self, name: &ChannelName) -> Option<StreamPosition> {
        self.channels.get(name).map(|channel| channel.state().position())
    }
}
