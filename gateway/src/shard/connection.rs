//! One client connection as its shard keeps it.
//!
//! Owns nothing but the state: what waits to be written, what it subscribes to, when it is to be looked at again.
//! The rules are in [`super::session`] (WebSocket), [`super::stream`] (SSE) and [`super::reactor`].

use std::collections::VecDeque;
use std::sync::Arc;

use earshot_protocol::{ChannelName, Encoding, StreamPosition};
use uuid::Uuid;

use super::Resume;
use super::backlog::Backlog;
use super::channels::ChannelId;
use super::link::Link;
use super::outbox::Outbox;
use super::paged_recovery::PagedRecovery;
use super::pending::{PendingReplies, Slot};
use super::websocket::Inbound;
use super::wheel::Tick;
use crate::admission::Permit;
use crate::node::messages::{ChannelGap, RecoverFrom, Recovery};
use crate::node::publication::{FrameEncoding, Publication};

/// A client connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Link,
    /// Tells this connection from an earlier one in the same place.
    pub(super) generation: u32,
    /// How publications are written onto it. Here, so that a broadcast need not look at what is particular to transports.
    pub(super) form: FrameEncoding,
    pub(super) outbox: Outbox,
    /// It is in the queue of those to be flushed.
    pub(super) dirty: bool,
    /// It is in the queue of those with bytes left to read.
    pub(super) unread: bool,
    /// The other side takes no more for now.
    pub(super) blocked: bool,
    /// The poll tells when it takes more.
    pub(super) watched: bool,
    /// Something was written since the deadline was last looked at.
    pub(super) progress: bool,
    pub(super) phase: Phase,
    pub(super) deadline: Deadline,
    /// When the deadline is reached.
    pub(super) due: Tick,
    /// When the wheel will hand it out.
    pub(super) armed: Tick,
    pub(super) subscriptions: Vec<Subscription>,
    /// Channels of which the client does not know yet that it no longer hears them.
    pub(super) gapped: Vec<ChannelName>,
    /// What came in for channels already joined, while the first reply or event is being put together.
    pub(super) held: Option<Box<Held>>,
    /// What waits behind the outbox, where something may give way.
    pub(super) backlog: Option<Box<Backlog>>,
    /// Weight of a recovery in the outbox: it does not count against the bound, since nobody was slow yet.
    pub(super) allowance: usize,
    /// Channels whose recovery goes on.
    pub(super) paged_recovery: Option<Box<PagedRecovery>>,
    /// A reply waits until some of what was recovered before it has been read.
    pub(super) unread_replies: bool,
    /// Its place among the connections of the gateway, free again when this is dropped.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(super) permit: Permit,
    pub(super) kind: Kind,
}

/// What must wait behind the first reply or event.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) items: Vec<HeldItem>,
    pub(super) bytes: usize,
}

impl Held {
    pub(super) fn push(&mut self, item: HeldItem) {
        self.bytes += size_of::<HeldItem>();
        if let HeldItem::Publication(publication) = &item {
            self.bytes += publication.cost();
        }
        self.items.push(item);
    }
}

/// One thing that waits.
#[derive(Debug)]
pub(super) enum HeldItem {
    Publication(Arc<Publication>),
    Gap(ChannelGap),
}

impl HeldItem {
    pub(super) fn channel(&self) -> &ChannelName {
        match self {
            Self::Publication(publication) => &publication.channel,
            Self::Gap(gap) => &gap.channel,
        }
    }
}

/// A subscription on its way to its first reply or event.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) channel: ChannelId,
    /// Where the client stood.
    pub(super) since: Option<RecoverFrom>,
    /// The newest publication is wanted in any case.
    pub(super) last: bool,
    /// The number of the request that asked the node what was missed.
    pub(super) asked: Option<u32>,
    /// What it said: the part that is written with the reply or event.
    pub(super) recovery: Option<Recovery>,
    /// The part that follows.
    pub(super) rest: VecDeque<Arc<Publication>>,
}

/// Where a connection stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Nothing more is accepted; what waits is written, then the link is finished.
    Ending,
    /// Everything is written; the peer's end is awaited.
    Finished,
}

/// What happens when the time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The connect command must have come.
    Connect,
    /// A ping is to be sent.
    Ping,
    /// The pong must have come.
    Pong,
    /// A heartbeat is to be sent.
    Heartbeat,
    /// The connection leaves with the gateway.
    Leave,
    /// The peer must be gone.
    Close,
}

/// A connection's view of a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) channel: ChannelId,
    pub(super) status: Status,
    /// The position up to which a recovery gave it everything, while the shard is not there yet.
    pub(super) covered: Option<StreamPosition>,
}

/// How far a subscription has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The channel is not live yet.
    Waiting,
    /// The channel is live; the reply has not been written yet.
    Ready,
    /// The reply has been written; it hears the channel once its recovery has come to its end.
    Recovering,
    /// It hears the channel, at this place in the channel's list.
    Joined(u32),
}

/// What is particular to a transport.
#[derive(Debug)]
pub(super) enum Kind {
    WebSocket(Box<Session>),
    Sse(Box<Stream>),
}

/// A WebSocket client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) encoding: Encoding,
    /// Its id, once it has connected.
    pub(super) client: Option<Uuid>,
    pub(super) inbound: Inbound,
    /// A ping was sent and not answered yet.
    pub(super) pong_due: bool,
    /// Replies that wait for their turn; empty unless one waits for the node.
    pub(super) pending: PendingReplies,
    /// Nothing more is read from the client until fewer of its commands wait.
    pub(super) paused: bool,
    /// Names the next reply that waits for an answer.
    pub(super) next_reply: u32,
    /// Channels that came with the connect command: their client cannot subscribe to one again by itself.
    pub(super) server_side: Vec<ChannelName>,
}

/// An SSE client's stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// What is to be known before the `subscribed` event; nothing after it.
    pub(super) openings: Vec<Opening>,
    /// The `subscribed` event was sent.
    pub(super) began: bool,
    /// Heartbeats are `ping` events instead of comments.
    pub(super) ping: bool,
    /// Where the client stood when it was here before; taken when the stream is opened.
    pub(super) resume: Resume,
    /// Where the client stands in each of its channels, in their order; only of a stream of several.
    pub(super) positions: Vec<StreamPosition>,
    /// When it is ended, so that its client comes back elsewhere.
    pub(super) ends: Option<Tick>,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// What waits to be written weighs this much against the bound.
    pub(super) fn weight(&self) -> usize {
        self.outbox.weight() + self.backlog_bytes()
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    pub(super) fn subscription(&self, channel: ChannelId) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.channel == channel)
    }

    pub(super) fn subscription_mut(&mut self, channel: ChannelId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.channel == channel)
    }

    /// Forgets a subscription, and says how far it had come.
    pub(super) fn forget(&mut self, channel: ChannelId) -> Option<Status> {
        let at = self.subscriptions.iter().position(|subscription| subscription.channel == channel)?;
        let status = self.subscriptions.remove(at).status;
        if self.subscriptions.is_empty() {
            self.subscriptions = Vec::new();
        }
        if let Some(paged) = &mut self.paged_recovery {
            paged.forget(channel);
            if paged.is_empty() {
                self.paged_recovery = None;
            }
        }
        Some(status)
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.kind {
            Kind::WebSocket(session) => Some(session),
            Kind::Sse(_) => None,
        }
    }
}

impl Opening {
    pub(super) fn new(channel: ChannelId, since: Option<RecoverFrom>, last: bool) -> Self {
        Self { channel, since, last, asked: None, recovery: None, rest: VecDeque::new() }
    }

    /// Whether it cannot begin before the node has said what was missed.
    pub(super) fn lacks_recovery(&self) -> bool {
        (self.since.is_some() || self.last) && self.recovery.is_none()
    }
}

impl Connection {
    /// The subscriptions that are on their way to a reply or event whose turn has come.
    pub(super) fn openings(&mut self) -> &mut [Opening] {
        match &mut self.kind {
            Kind::WebSocket(session) => match session.pending.front_mut() {
                Some(Slot::Connect { openings, .. }) => openings,
                Some(Slot::Subscribe { opening, .. }) => std::slice::from_mut(opening),
                _ => &mut [],
            },
            Kind::Sse(stream) => &mut stream.openings,
        }
    }
}

impl Session {
    pub(super) fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            client: None,
            inbound: Inbound::default(),
            pong_due: false,
            pending: PendingReplies::default(),
            paused: false,
            next_reply: 0,
            server_side: Vec::new(),
        }
    }
}
