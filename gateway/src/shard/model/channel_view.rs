//! A WebSocket client's view of one channel: its subscription and its position.
//!
//! Verifies each publication: its offset is the next one, its number belongs to that offset, and the record of
//! deliveries accepts it.

use earshot_protocol::{Publication, StreamPosition};

use super::client::Context;
use super::truth::{CheckResult, DeliveryRecord, number_in};

/// A client's view of one channel.
#[derive(Debug, Default)]
pub(super) struct ChannelView {
    pub(super) wanted: bool,
    pub(super) state: State,
    pub(super) position: Option<StreamPosition>,
    /// The server reported that the position can be recovered.
    pub(super) recoverable: bool,
    /// Unsubscribe commands that are not answered yet: until then publications are ignored.
    pub(super) pending_unsubscribes: usize,
    pub(super) begun: bool,
    pub(super) record_of_deliveries: DeliveryRecord,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Unsubscribed,
    Requested,
    Subscribed,
}

impl ChannelView {
    /// The position from which it recovers.
    pub(super) fn since(&self) -> Option<StreamPosition> {
        self.position.filter(|_| self.recoverable)
    }

    pub(super) fn publication(
        &mut self,
        channel: usize,
        publication: &Publication,
        context: &Context<'_>,
    ) -> CheckResult {
        let number = number_in(publication.data.bytes())?;
        if context.parameters.history.size == 0 {
            return match publication.offset {
                0 if context.parameters.is_conflated(channel) => {
                    self.record_of_deliveries.deliver_latest(number, context.parameters.slow[channel])
                }
                0 => self.record_of_deliveries.deliver(number),
                offset => Err(format!("offset {offset} in a channel without history")),
            };
        }
        let last = self.position.ok_or("a publication without a position")?;
        // Without positions, an SDK cannot detect a gap; the record of deliveries does.
        let is_conflated = context.parameters.is_conflated(channel);
        if publication.offset != last.offset + 1 && !(is_conflated && publication.offset > last.offset) {
            return Err(format!("offset {} follows on {}", publication.offset, last.offset));
        }
        let position = StreamPosition { offset: publication.offset, ..last };
        self.position = Some(position);
        let stamped = context.truth.number(channel, position)?;
        if stamped != number {
            return Err(format!("{number} has the position of {stamped}"));
        }
        if is_conflated {
            return self.record_of_deliveries.deliver_latest(number, context.parameters.slow[channel]);
        }
        self.record_of_deliveries.deliver(number)
    }
}
