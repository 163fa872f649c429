//! The state of one client connection.
//!
//! Holds the send queue, the subscriptions and the next timer. The protocols are in [`super::session`]
//! (WebSocket) and [`super::sse_stream`] (SSE).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};

use super::channels::{ChannelId, Channels};
use super::expiry;
use super::framing::Framing;
use super::pages::PagedRecovery;
use super::pending_subscription::PendingSubscription;
use super::send_queue::SendQueue;
use super::session::Session;
use super::sink::Sink;
use super::sse_stream::SseStream;
use super::subscription::{Status, Subscription, covers};
use super::timer_wheel::Tick;
use crate::admission::Permit;
use crate::auth::ClientNetwork;
use crate::auth::Identity;
use crate::metrics::ShardCounters;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;

/// A client connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sink: Sink,
    /// The network of the client, if limits per address apply to it.
    pub(super) network: Option<ClientNetwork>,
    /// Distinguishes this connection from an earlier one with the same index.
    pub(super) generation: u32,
    /// How publications are encoded. Kept here, so that a broadcast does not inspect the protocol.
    pub(super) framing: Framing,
    pub(super) send_queue: SendQueue,
    /// It is in the flush queue.
    pub(super) flush_scheduled: bool,
    /// It is in the queue of connections with unread bytes.
    pub(super) has_pending_read: bool,
    /// The sink accepts no more bytes.
    pub(super) blocked: bool,
    /// The poll reports when the socket is writable.
    pub(super) writable_registered: bool,
    /// Bytes were written since the timer was set.
    pub(super) wrote_since_timer: bool,
    pub(super) phase: Phase,
    pub(super) timer: TimerKind,
    /// When the timer fires.
    pub(super) due: Tick,
    /// When the timer wheel returns the connection.
    pub(super) armed: Tick,
    pub(super) subscriptions: Vec<Subscription>,
    /// Channels whose clients have not been unsubscribed by a push yet.
    pub(super) awaiting_resubscribe: Vec<ChannelName>,
    /// Events for channels already active, until the first reply or event is written.
    pub(super) deferred: Option<Box<DeferredEvents>>,
    /// Channels whose recovery continues.
    pub(super) paged_recovery: Option<Box<PagedRecovery>>,
    /// A reply waits until the client has read some of what was recovered before.
    pub(super) replies_paused: bool,
    /// The permit of the connection limit, released when this is dropped.
    pub(super) permit: Permit,
    pub(super) kind: ConnectionKind,
}

/// Events that wait for the first reply or event.
#[derive(Debug, Default)]
pub(super) struct DeferredEvents {
    pub(super) items: Vec<DeferredEvent>,
    pub(super) bytes: usize,
}

impl DeferredEvents {
    pub(super) fn push(&mut self, item: DeferredEvent) {
        self.bytes += size_of::<DeferredEvent>();
        if let DeferredEvent::Publication(publication) = &item {
            self.bytes += publication.cost();
        }
        self.items.push(item);
    }
}

/// One such event.
#[derive(Debug)]
pub(super) enum DeferredEvent {
    Publication(Arc<Publication>),
    Gap(ChannelGap),
}

impl DeferredEvent {
    pub(super) fn channel(&self) -> &ChannelName {
        match self {
            Self::Publication(publication) => &publication.channel,
            Self::Gap(gap) => &gap.channel,
        }
    }
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No input is accepted; queued data is written, then the sink is shut down.
    Draining,
    /// Everything has been written; the client has not closed its side yet.
    AwaitingPeerClose,
}

/// The action when the timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerKind {
    /// Disconnect unless the client has sent the connect command.
    Connect,
    /// Send a ping.
    Ping,
    /// Disconnect unless the client has sent the pong.
    Pong,
    /// Send a heartbeat.
    Heartbeat,
    /// Disconnect, since the gateway shuts down.
    Drain,
    /// Remove the connection.
    Close,
}

/// The protocol of a connection.
#[derive(Debug)]
pub(super) enum ConnectionKind {
    WebSocket(Box<Session>),
    Sse(Box<SseStream>),
}

impl Connection {
    /// Creates an open connection; its generation is set when it is inserted.
    pub(super) fn new(
        sink: Sink,
        network: Option<ClientNetwork>,
        framing: Framing,
        kind: ConnectionKind,
        permit: Permit,
    ) -> Self {
        Self {
            sink,
            network,
            generation: 0,
            framing,
            send_queue: SendQueue::default(),
            flush_scheduled: false,
            has_pending_read: false,
            blocked: false,
            writable_registered: false,
            wrote_since_timer: false,
            phase: Phase::Open,
            timer: TimerKind::Connect,
            due: 0,
            armed: Tick::MAX,
            subscriptions: Vec::new(),
            awaiting_resubscribe: Vec::new(),
            deferred: None,
            paged_recovery: None,
            replies_paused: false,
            permit,
            kind,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The time until the login or a subscription expires; `None` if none does. A stream ends at once, since its client can
    /// present another token only with a new request.
    pub(super) fn time_left(&self) -> Option<Duration> {
        match &self.kind {
            ConnectionKind::WebSocket(session) => session.expiry.time_left(),
            ConnectionKind::Sse(stream) => stream.expires_at().map(expiry::time_left),
        }
    }

    /// Whether the login of the connection has ended.
    pub(super) fn is_login_over(&self) -> bool {
        let has_expired = match &self.kind {
            ConnectionKind::WebSocket(session) => session.expiry.is_login_over(),
            ConnectionKind::Sse(_) => self.time_left().is_some_and(|left| left.is_zero()),
        };
        has_expired || self.identity().has_ended()
    }

    /// The identity of the client.
    pub(super) fn identity(&self) -> &Identity {
        match &self.kind {
            ConnectionKind::WebSocket(session) => session.identity(),
            ConnectionKind::Sse(stream) => stream.identity(),
        }
    }

    pub(super) fn subscription(&self, channel: ChannelId) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.channel == channel)
    }

    pub(super) fn subscription_mut(&mut self, channel: ChannelId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.channel == channel)
    }

    /// Whether the client received everything up to a position of a channel by a recovery.
    pub(super) fn already_has(&self, channel: ChannelId, position: StreamPosition) -> bool {
        self.subscription(channel).is_some_and(|subscription| covers(subscription.recovered_up_to, position))
    }

    /// Removes a subscription and returns its state.
    pub(super) fn remove(&mut self, channel: ChannelId) -> Option<Status> {
        let at = self.subscriptions.iter().position(|subscription| subscription.channel == channel)?;
        let status = self.subscriptions.remove(at).status;
        if self.subscriptions.is_empty() {
            self.subscriptions = Vec::new();
        }
        if let ConnectionKind::WebSocket(session) = &mut self.kind {
            session.expiry.remove_subscription(channel);
        }
        if let Some(paged) = &mut self.paged_recovery {
            paged.remove(channel);
            if paged.is_empty() {
                self.paged_recovery = None;
            }
        }
        Some(status)
    }

    /// Appends a publication to the outbox, and the cursor after it if the framing has one.
    #[inline]
    pub(super) fn write_publication(
        &mut self,
        channels: &Channels,
        publication: &Publication,
        counters: &ShardCounters,
    ) {
        let Self { send_queue, framing, kind, subscriptions, .. } = self;
        send_queue.append(counters, |outbox| {
            outbox.push(framing.publication(publication));
            if framing.has_cursor()
                && let ConnectionKind::Sse(stream) = kind
            {
                let subscribed = || subscriptions.iter().map(|s| channels.get(s.channel));
                let place = subscribed().position(|channel| channel.name == publication.channel);
                let cursor = stream.on_publication(
                    place,
                    publication.position,
                    subscribed().map(|channel| channel.tag),
                );
                outbox.push(framing.event(&cursor));
            }
        });
    }

    /// The encoded event of a gap in the sequence of a channel, which continues after a position; `None` unless the
    /// connection is an event stream.
    pub(super) fn gap_frame(
        &mut self,
        channels: &Channels,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) -> Option<Bytes> {
        let ConnectionKind::Sse(stream) = &mut self.kind else { return None };
        let subscribed = || self.subscriptions.iter().map(|s| channels.get(s.channel));
        let place = subscribed().position(|other| other.name == *channel);
        let event = stream.on_gap(place, channel, reason, position, subscribed().map(|other| other.tag));
        Some(self.framing.event(&event))
    }

    /// Whether reading from the client is paused.
    pub(super) fn is_paused(&self) -> bool {
        matches!(&self.kind, ConnectionKind::WebSocket(session) if session.is_paused())
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.kind {
            ConnectionKind::WebSocket(session) => Some(session),
            ConnectionKind::Sse(_) => None,
        }
    }
}

impl Connection {
    /// The subscriptions that the next reply or event contains.
    pub(super) fn pending_subscriptions(&mut self) -> &mut [PendingSubscription] {
        match &mut self.kind {
            ConnectionKind::WebSocket(session) => session.pending_subscriptions(),
            ConnectionKind::Sse(stream) => stream.pending_subscriptions(),
        }
    }
}
