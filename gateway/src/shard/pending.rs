//! Replies of one connection that wait for their turn, in the order of the commands.
//!
//! Owns what the waiting commands hold in memory: while that is more than `limits.pending_command_bytes`, nothing more
//! is read from the client. Must never know what a command does.

use std::collections::VecDeque;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Command, ErrorCode, ReplyBody, Request};

use super::connection::Opening;

/// A reply's place in the order of commands.
#[derive(Debug)]
pub(super) enum Slot {
    /// It can be written when its turn comes.
    Ready(Bytes),
    /// The connect command waits for these channels.
    Connect { id: u32, openings: Vec<Opening> },
    /// A subscribe command waits for its channel, and for what was missed.
    Subscribe { id: u32, opening: Opening, strict: bool, failed: Option<ErrorCode> },
    /// A command waits for the node's answer.
    Asked { id: u32, reply: u32, asked: Asked, body: Option<ReplyBody> },
    /// A command that must not be carried out before its turn comes.
    Deferred { channel: ChannelName, command: Command },
}

/// What the node was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To publish a payload of so many bytes.
    Publish(usize),
    /// For a page of history.
    History,
}

/// The replies that wait. Boxed, since an idle connection has none.
#[derive(Debug, Default)]
pub(super) struct PendingReplies(Option<Box<Queue>>);

/// At least one reply, and the bytes that all of them hold.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<Slot>,
    bytes: usize,
}

impl PendingReplies {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.slots.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that the waiting commands and replies hold, about. The answers of the node are not counted: those of
    /// publish commands are small, and there is at most one page of history.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Slot> {
        self.0.as_mut()?.slots.front_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.0.iter_mut().flat_map(|queue| queue.slots.iter_mut())
    }

    pub(super) fn push_back(&mut self, slot: Slot) {
        let queue = self.0.get_or_insert_default();
        queue.bytes += slot.bytes();
        queue.slots.push_back(slot);
    }

    pub(super) fn push_front(&mut self, slot: Slot) {
        let queue = self.0.get_or_insert_default();
        queue.bytes += slot.bytes();
        queue.slots.push_front(slot);
    }

    pub(super) fn pop_front(&mut self) -> Option<Slot> {
        let queue = self.0.as_mut()?;
        let slot = queue.slots.pop_front()?;
        queue.bytes -= slot.bytes();
        if queue.slots.is_empty() {
            self.0 = None;
        }
        Some(slot)
    }

    /// Whether a command on this channel was deferred, so that later ones must wait behind it.
    pub(super) fn defers(&self, channel: &ChannelName) -> bool {
        self.iter().any(|slot| matches!(slot, Slot::Deferred { channel: other, .. } if other == channel))
    }

    /// Whether a page of history waits. The next one is asked for after it was written: answers are large, and they are
    /// not counted.
    pub(super) fn has_history(&self) -> bool {
        self.iter().any(|slot| match slot {
            Slot::Asked { asked, .. } => *asked == Asked::History,
            Slot::Deferred { command, .. } => matches!(command.request, Request::History(_)),
            Slot::Ready(_) | Slot::Connect { .. } | Slot::Subscribe { .. } => false,
        })
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().flat_map(|queue| &queue.slots)
    }
}

impl Slot {
    /// What it holds in memory, about. Must not change while it waits.
    fn bytes(&self) -> usize {
        let held = match self {
            Self::Ready(frame) => frame.len(),
            Self::Asked { asked: Asked::Publish(payload), .. } => *payload,
            Self::Deferred { channel, command } => channel.as_str().len() + request_bytes(&command.request),
            Self::Asked { asked: Asked::History, .. } | Self::Connect { .. } | Self::Subscribe { .. } => 0,
        };
        size_of::<Self>() + held
    }
}

/// What a request that can be deferred holds on the heap.
fn request_bytes(request: &Request) -> usize {
    match request {
        Request::Publish(request) => request.channel.len() + request.data.len(),
        Request::Subscribe(request) => {
            let texts = [&request.channel, &request.token, &request.epoch, &request.delta];
            texts.map(String::len).iter().sum::<usize>() + request.data.as_ref().map_or(0, Bytes::len)
        }
        Request::Unsubscribe(request) => request.channel.len(),
        Request::History(request) => {
            request.channel.len() + request.since.as_ref().map_or(0, |since| since.epoch.len())
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use earshot_protocol::PublishRequest;

    #[test]
    fn the_bytes_of_waiting_commands_are_counted_and_given_back() {
        let channel = ChannelName::parse("c").unwrap();
        let data = Bytes::from(vec![b'1'; 60_000]);
        let request = Request::Publish(PublishRequest { channel: "c".to_owned(), data, kind: 0 });
        let mut pending = PendingReplies::default();
        pending.push_back(Slot::Asked { id: 1, reply: 1, asked: Asked::Publish(60_000), body: None });
        pending.push_back(Slot::Deferred { channel, command: Command { id: 2, request } });
        pending.push_front(Slot::Ready(Bytes::from_static(b"reply")));
        assert!((120_000..123_000).contains(&pending.bytes()), "{}", pending.bytes());
        while pending.pop_front().is_some() {}
        assert_eq!((pending.bytes(), pending.is_empty()), (0, true));
    }
}
