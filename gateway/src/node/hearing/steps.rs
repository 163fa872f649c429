//! What the broker's calls do, cut into steps, so that a test can let other things happen between two of them, as other
//! threads do. Must never do what the whole call would not.

use std::sync::Arc;

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::time::Instant;

use crate::broker::{AffectedTopics, Attributes, BrokerMessage, GapCause};
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::node::registry::ChannelRegistry;

impl ChannelRegistry {
    /// `heard`: the step for each message.
    pub(crate) fn step_sequence(&self, message: BrokerMessage, batches: &mut [Vec<Arc<Publication>>]) {
        self.stamp(message, Attributes::default(), batches);
    }

    /// `heard`: the last step.
    pub(crate) fn step_flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        self.flush(batches);
    }

    /// `lost`: the first step.
    pub(crate) fn step_start_gap(&self, topics: &AffectedTopics, cause: GapCause) -> Vec<Vec<ChannelGap>> {
        self.interrupt(&self.lost_channels(topics), cause)
    }

    /// `lost`: the last step.
    pub(crate) fn step_send_gaps(&self, gaps: Vec<Vec<ChannelGap>>) {
        self.hand_gaps(gaps);
    }

    /// What the node does by itself now and then.
    pub(crate) fn step_expire(&self) {
        self.forget_old(Instant::now());
        self.expire(Instant::now(), |_| {});
    }

    /// Where a channel stands.
    pub(crate) fn top(&self, name: &ChannelName) -> Option<StreamPosition> {
        self.channels.get(name).map(|channel| channel.state().position())
    }
}
