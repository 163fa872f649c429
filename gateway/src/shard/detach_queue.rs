//! The channels of a shard that no connection needs, until their detach requests are sent.
//!
//! Owns the rule that a channel that is needed again is not detached.

use tokio::sync::mpsc;

use super::channels::Channels;
use crate::node::messages::NodeRequest;
use crate::node::namespace::ResolvedChannel;

#[derive(Debug, Default)]
pub(super) struct DetachQueue(Vec<PendingDetach>);

#[derive(Debug)]
struct PendingDetach {
    channel: ResolvedChannel,
    shared: bool,
}

impl DetachQueue {
    /// Adds a channel. `shared`: clients of several addresses have subscribed to it.
    pub(super) fn push(&mut self, channel: ResolvedChannel, shared: bool) {
        self.0.push(PendingDetach { channel, shared });
    }

    /// Sends requests while the queue of the node has room.
    pub(super) fn send(&mut self, channels: &Channels, node_requests: &mpsc::Sender<NodeRequest>) {
        while let Some(PendingDetach { channel, shared }) = self.0.pop() {
            // A connection needs the channel again: a detach after the new attach request would remove it.
            if channels.find(&channel.name).is_some() {
                continue;
            }
            if let Err(error) = node_requests.try_send(NodeRequest::Detach { channel, shared }) {
                if let NodeRequest::Detach { channel, shared } = error.into_inner() {
                    self.push(channel, shared);
                }
                return;
            }
        }
    }
}
