//! Replies of one connection that wait, in the order of the commands.
//!
//! Counts the memory that waiting commands hold: while it exceeds `limits.pending_command_bytes`, reading from the
//! client is paused.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Command, ConnectRequest, ErrorCode, PublishRequest, ReplyBody, Request, SubscribeRequest,
};

use super::pending_subscription::PendingSubscription;
use crate::auth::{Denial, Identity};
use crate::login::LoginOutcome;
use crate::node::namespace::ResolvedChannel;

/// A reply in the order of commands.
#[derive(Debug)]
pub(super) enum PendingReply {
    /// Ready to be written.
    Ready(Bytes),
    /// The connect command waits for these channels.
    AwaitingConnect { id: u32, pending_subscriptions: Vec<PendingSubscription> },
    /// A subscribe command waits for its channel and for missed publications.
    AwaitingSubscribe {
        id: u32,
        pending_subscription: PendingSubscription,
        reject_unrecovered: bool,
        failed: Option<ErrorCode>,
    },
    /// A command waits for a reply of the node.
    AwaitingNode { id: u32, reply: u32, awaited: AwaitedReply, body: Option<ReplyBody> },
    /// A command waits until the credentials of the client are checked.
    AwaitingLogin { id: u32, reply: u32, purpose: LoginPurpose, result: Option<Result<LoginOutcome, Denial>> },
    /// A command that must not be executed before its turn: after the connect command, or after earlier ones on the same
    /// channel; `resolved`: its channel, if the command needs the rules.
    Deferred { channel: Option<ChannelName>, resolved: Option<ResolvedChannel>, command: Command },
}

/// The command that waits for a credential check or a hook.
#[derive(Debug)]
pub(super) enum LoginPurpose {
    Connect(Box<ConnectRequest>),
    /// The subscriptions of the connect command of a client with this identity.
    ConnectSubscriptions(Box<ConnectRequest>, Arc<Identity>),
    Refresh {
        token_bytes: usize,
    },
    Subscribe(Box<SubscribeRequest>),
    RefreshSubscription {
        channel: ChannelName,
        token_bytes: usize,
    },
    Publish(Box<PublishRequest>),
    Rpc {
        bytes: usize,
    },
}

/// A request to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AwaitedReply {
    /// Publish a payload of this many bytes.
    Publish(usize),
    /// Read a page of history.
    History,
}

/// The replies that wait. Boxed, since an idle connection has none.
#[derive(Debug, Default)]
pub(super) struct PendingReplies(Option<Box<Queue>>);

/// At least one reply, and the bytes that all of them hold.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<PendingReply>,
    bytes: usize,
}

impl PendingReplies {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.slots.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that waiting commands and replies hold, approximately. The replies of the node are not counted: those to
    /// publish commands are small, and there is at most one page of history.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut PendingReply> {
        self.0.as_mut()?.slots.front_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PendingReply> {
        self.0.iter_mut().flat_map(|queue| queue.slots.iter_mut())
    }

    pub(super) fn push_back(&mut self, slot: PendingReply) {
        let queue = self.0.get_or_insert_default();
        queue.bytes += slot.bytes();
        queue.slots.push_back(slot);
    }

    pub(super) fn push_front(&mut self, slot: PendingReply) {
        let queue = self.0.get_or_insert_default();
        queue.bytes += slot.bytes();
        queue.slots.push_front(slot);
    }

    pub(super) fn pop_front(&mut self) -> Option<PendingReply> {
        let queue = self.0.as_mut()?;
        let slot = queue.slots.pop_front()?;
        queue.bytes -= slot.bytes();
        if queue.slots.is_empty() {
            self.0 = None;
        }
        Some(slot)
    }

    /// Whether the connect command waits for a credential check.
    pub(super) fn awaits_login(&mut self) -> bool {
        match self.front_mut() {
            Some(PendingReply::AwaitingLogin { purpose, .. }) => {
                matches!(purpose, LoginPurpose::Connect(_) | LoginPurpose::ConnectSubscriptions(..))
            }
            _ => false,
        }
    }

    /// The number of commands that wait for the check of credentials.
    pub(super) fn login_checks(&self) -> usize {
        self.iter().filter(|slot| matches!(slot, PendingReply::AwaitingLogin { .. })).count()
    }

    /// The number of `rpc` commands that wait for their response.
    pub(super) fn rpc_calls(&self) -> usize {
        let is_rpc = |slot: &&PendingReply| {
            matches!(slot, PendingReply::AwaitingLogin { purpose: LoginPurpose::Rpc { .. }, .. })
        };
        self.iter().filter(is_rpc).count()
    }

    /// The subscribe commands that wait for their turn.
    pub(super) fn subscribes(&self) -> impl Iterator<Item = &SubscribeRequest> {
        self.iter().filter_map(|slot| match slot {
            PendingReply::Deferred {
                command: Command { request: Request::Subscribe(request), .. }, ..
            } => Some(request),
            _ => None,
        })
    }

    /// Whether a command on this channel is deferred, or waits for the check of its token or for a hook, so that later
    /// ones must wait.
    pub(super) fn defers(&self, channel: &ChannelName) -> bool {
        self.iter().any(|slot| match slot {
            PendingReply::Deferred { channel: Some(other), .. } => other == channel,
            PendingReply::AwaitingLogin { purpose: LoginPurpose::Subscribe(request), .. } => {
                request.channel == channel.as_str()
            }
            PendingReply::AwaitingLogin { purpose: LoginPurpose::Publish(request), .. } => {
                request.channel == channel.as_str()
            }
            _ => false,
        })
    }

    /// Whether a page of history waits. The next one is requested after it was written, since pages are large and not
    /// counted.
    pub(super) fn has_history(&self) -> bool {
        self.iter().any(|slot| match slot {
            PendingReply::AwaitingNode { awaited, .. } => *awaited == AwaitedReply::History,
            PendingReply::Deferred { command, .. } => matches!(command.request, Request::History(_)),
            PendingReply::Ready(_)
            | PendingReply::AwaitingConnect { .. }
            | PendingReply::AwaitingLogin { .. }
            | PendingReply::AwaitingSubscribe { .. } => false,
        })
    }

    fn iter(&self) -> impl Iterator<Item = &PendingReply> {
        self.0.iter().flat_map(|queue| &queue.slots)
    }
}

impl PendingReply {
    /// Bytes of memory that it holds, approximately. Must not change while it waits.
    fn bytes(&self) -> usize {
        let deferred = match self {
            Self::Ready(frame) => frame.len(),
            Self::AwaitingNode { awaited: AwaitedReply::Publish(payload), .. } => *payload,
            Self::Deferred { channel, command, .. } => {
                channel.as_ref().map_or(0, |name| name.as_str().len()) + request_bytes(&command.request)
            }
            Self::AwaitingLogin { purpose, .. } => purpose.bytes(),
            Self::AwaitingNode { awaited: AwaitedReply::History, .. }
            | Self::AwaitingConnect { .. }
            | Self::AwaitingSubscribe { .. } => 0,
        };
        size_of::<Self>() + deferred
    }
}

impl PendingReply {
    /// Whether it waits for the node's reply with this number.
    pub(super) fn awaits(&self, number: u32) -> bool {
        matches!(self, Self::AwaitingNode { reply, .. } | Self::AwaitingLogin { reply, .. } if *reply == number)
    }
}

impl LoginPurpose {
    fn bytes(&self) -> usize {
        match self {
            Self::Connect(request) | Self::ConnectSubscriptions(request, _) => connect_bytes(request),
            Self::Refresh { token_bytes } => *token_bytes,
            Self::Subscribe(request) => subscribe_bytes(request),
            Self::RefreshSubscription { channel, token_bytes } => channel.as_str().len() + token_bytes,
            Self::Publish(request) => request.channel.len() + request.data.len(),
            Self::Rpc { bytes } => *bytes,
        }
    }
}

fn connect_bytes(request: &ConnectRequest) -> usize {
    let headers = request.headers.iter().map(|(name, value)| name.len() + value.len());
    let subs = request.subs.iter().map(|(name, sub)| name.len() + subscribe_bytes(sub));
    let own = request.token.len() + request.data.as_ref().map_or(0, Bytes::len);
    own + headers.chain(subs).sum::<usize>() + size_of::<SubscribeRequest>() * request.subs.len()
}

fn subscribe_bytes(request: &SubscribeRequest) -> usize {
    let texts = [&request.channel, &request.token, &request.epoch, &request.delta];
    texts.map(String::len).iter().sum::<usize>() + request.data.as_ref().map_or(0, Bytes::len)
}

/// Bytes of memory that a deferred request holds.
fn request_bytes(request: &Request) -> usize {
    match request {
        Request::Publish(request) => request.channel.len() + request.data.len(),
        Request::Subscribe(request) => subscribe_bytes(request),
        Request::Connect(request) => connect_bytes(request),
        Request::Rpc(request) => request.method.len() + request.data.len(),
        Request::Send(request) => request.data.len(),
        Request::Refresh(request) => request.token.len(),
        Request::SubRefresh(request) => request.channel.len() + request.token.len(),
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

    #[test]
    fn counts_the_bytes_of_waiting_commands() {
        let channel = ChannelName::parse("c").unwrap();
        let data = Bytes::from(vec![b'1'; 60_000]);
        let request = Request::Publish(PublishRequest { channel: "c".to_owned(), data, kind: 0 });
        let mut pending = PendingReplies::default();
        pending.push_back(PendingReply::AwaitingNode {
            id: 1,
            reply: 1,
            awaited: AwaitedReply::Publish(60_000),
            body: None,
        });
        pending.push_back(PendingReply::Deferred {
            channel: Some(channel),
            resolved: None,
            command: Command { id: 2, request },
        });
        pending.push_front(PendingReply::Ready(Bytes::from_static(b"reply")));
        assert!((120_000..123_000).contains(&pending.bytes()), "{}", pending.bytes());
        while pending.pop_front().is_some() {}
        assert_eq!((pending.bytes(), pending.is_empty()), (0, true));
    }
}
