//! What the broker's calls do, cut into steps, so that a test can let other things happen between two of them, as other
//! threads do. Must never do what the whole call would not.

use std::sync::Arc;

use earshot_protocol::{ChannelName, StreamPosition};
use tokio::time::Instant;

use crate::broker::{Attributes, GapCause, LostTopics, Message};
use crate::node::port::Gap;
use crate::node::publication::Publication;
use crate::node::registry::Registry;

impl Registry {
    /// `heard`: the step for each message.
    pub(crate) fn step_stamp(&self, message: Message, batches: &mut [Vec<Arc<Publication>>]) {
        self.stamp(message, Attributes::default(), batches);
    }

    /// `heard`: the last step.
    pub(crate) fn step_flush(&self, batches: &mut [Vec<Arc<Publication>>]) {
        self.flush(batches);
    }

    /// `lost`: the first step.
    pub(crate) fn step_interrupt(&self, topics: &LostTopics, cause: GapCause) -> Vec<Vec<Gap>> {
        self.interrupt(&self.lost_channels(topics), cause)
    }

    /// `lost`: the last step.
    pub(crate) fn step_tell(&self, gaps: Vec<Vec<Gap>>) {
        self.hand_gaps(gaps);
    }

    /// What the node does by itself now and then.
    pub(crate) fn step_let_go(&self) {
        self.forget_old(Instant::now());
        self.expire(Instant::now(), |_| {});
    }

    /// Where a channel stands.
    pub(crate) fn top(&self, name: &ChannelName) -> Option<StreamPosition> {
        self.channels.get(name).map(|channel| channel.state().position())
    }
}
