//! A WebSocket client's view of one channel: whether it hears it, and where it stands.
//!
//! Owns the check of each publication: its offset is the next, its number belongs to that offset, and the account
//! agrees. Must never send anything.

use earshot_protocol::{Publication, StreamPosition};

use super::client::Around;
use super::truth::{Account, Verdict, number_in};

/// A client's view of one channel.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) wanted: bool,
    pub(super) state: State,
    pub(super) position: Option<StreamPosition>,
    /// The gateway has said that it can be asked from there.
    pub(super) recoverable: bool,
    /// Unsubscribes that were not answered yet: what still comes before is of no interest.
    pub(super) leaving: usize,
    pub(super) begun: bool,
    pub(super) account: Account,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Away,
    Asked,
    Hearing,
}

impl Place {
    /// Where it asks from.
    pub(super) fn since(&self) -> Option<StreamPosition> {
        self.position.filter(|_| self.recoverable)
    }

    pub(super) fn publication(
        &mut self,
        channel: usize,
        publication: &Publication,
        around: &Around<'_>,
    ) -> Verdict {
        let number = number_in(publication.data.bytes())?;
        if around.rules.history.size == 0 {
            return match publication.offset {
                0 if around.rules.supersedes(channel) => {
                    self.account.deliver_latest(number, around.rules.slow[channel])
                }
                0 => self.account.deliver(number),
                offset => Err(format!("offset {offset} in a channel without history")),
            };
        }
        let last = self.position.ok_or("a publication without a position")?;
        // Where a channel has no positions, an SDK cannot see a hole; the account does.
        let supersedes = around.rules.supersedes(channel);
        if publication.offset != last.offset + 1 && !(supersedes && publication.offset > last.offset) {
            return Err(format!("offset {} follows on {}", publication.offset, last.offset));
        }
        let position = StreamPosition { offset: publication.offset, ..last };
        self.position = Some(position);
        let stamped = around.truth.number(channel, position)?;
        if stamped != number {
            return Err(format!("{number} has the position of {stamped}"));
        }
        if supersedes {
            return self.account.deliver_latest(number, around.rules.slow[channel]);
        }
        self.account.deliver(number)
    }
}
