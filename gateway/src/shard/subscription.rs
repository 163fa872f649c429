//! The subscription of a connection to a channel.

use earshot_protocol::StreamPosition;

use super::channels::ChannelId;

/// The subscription of one connection to one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) channel: ChannelId,
    pub(super) status: Status,
    /// The position up to which a recovery delivered everything, while the channel in this shard has not reached it.
    pub(super) recovered_up_to: Option<StreamPosition>,
}

/// The state of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The channel is not attached yet.
    Waiting,
    /// The channel is attached; the reply is not written yet.
    Ready,
    /// The reply is written; live publications follow when the recovery is complete.
    Recovering,
    /// The connection receives publications, with this index in the channel's list.
    Joined(u32),
}

/// Whether `recovered_up_to` includes a position.
pub(super) fn covers(recovered_up_to: Option<StreamPosition>, position: StreamPosition) -> bool {
    recovered_up_to.is_some_and(|recovered_up_to| {
        recovered_up_to.epoch == position.epoch && position.offset <= recovered_up_to.offset
    })
}
