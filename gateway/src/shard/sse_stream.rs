//! The protocol of an SSE stream: its first event, gaps and errors.
//!
//! The order of events is the order of the outbox.

use std::sync::Arc;

use earshot_protocol::{ChannelName, ChannelTag, CursorPosition, Disconnect, ErrorCode, StreamPosition};

use super::channels::ConnectionId;
use super::connection::{Connection, ConnectionKind, PendingSubscription, SseStream};
use super::event_loop::Shard;
use super::{Resume, sse};
use crate::node::messages::{ChannelGap, RecoverFrom, Recovery};
use crate::node::publication::Publication;

/// The reason of a gap if a channel cannot be resumed from the client's position.
pub(super) const UNRECOVERABLE: &str = "unrecoverable";

impl SseStream {
    /// Sets the position of the channel at an index. Returns the end of its event: the cursor over all channels.
    pub(super) fn advance(
        &mut self,
        place: Option<usize>,
        position: StreamPosition,
        tags: impl Iterator<Item = ChannelTag>,
    ) -> Vec<u8> {
        if let Some(current) = place.and_then(|place| self.positions.get_mut(place)) {
            *current = position;
        }
        sse::id_line(tags.zip(self.positions.iter().copied()))
    }
}

impl Shard {
    /// Requests the channels of a stream; [`Shard::start_stream_if_ready`] follows when all are attached.
    pub(super) fn open_stream(
        &mut self,
        connection_id: ConnectionId,
        channels: Vec<ChannelName>,
        rejection: Option<Disconnect>,
    ) {
        if let Some(rejection) = rejection {
            return self.disconnect(connection_id, rejection);
        }
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            connection.deferred = Some(Box::default());
        }
        for name in channels {
            if let Err(code) = self.open_channel(connection_id, name) {
                return self.reject_stream(connection_id, code);
            }
        }
        self.set_positions(connection_id);
        self.start_stream_if_ready(connection_id);
    }

    /// The delay before a client reconnects, at random, so that clients do not reconnect at the same time.
    pub(super) fn retry_ms(&self) -> u32 {
        let factor = 0.5 + fastrand::f64();
        u32::try_from(self.limits.sse_retry.mul_f64(factor).as_millis()).unwrap_or(u32::MAX)
    }

    fn open_channel(&mut self, connection_id: ConnectionId, name: ChannelName) -> Result<(), ErrorCode> {
        let last = self.node.namespace(&name).is_some_and(|namespace| namespace.replay_last);
        let channel = self.request_subscription(connection_id, name)?;
        if let Some(stream) = self.stream(connection_id) {
            stream.pending_subscriptions.push(PendingSubscription::new(channel, None, last));
        }
        Ok(())
    }

    /// Looks up the client's position in each channel of the request.
    fn set_positions(&mut self, connection_id: ConnectionId) {
        let Some(Connection { kind: ConnectionKind::Sse(stream), .. }) =
            self.connections.get_mut(connection_id as usize)
        else {
            return;
        };
        // Not kept: a cursor may be as long as a request head.
        let resume = std::mem::replace(&mut stream.resume, Resume::New);
        let tags: Vec<_> = stream
            .pending_subscriptions
            .iter()
            .map(|pending_subscription| self.channels.get(pending_subscription.channel).tag)
            .collect();
        for (pending_subscription, since) in
            stream.pending_subscriptions.iter_mut().zip(since(&resume, &tags))
        {
            pending_subscription.since = since;
        }
    }

    fn stream(&mut self, connection_id: ConnectionId) -> Option<&mut SseStream> {
        match self.connections.get_mut(connection_id as usize).map(|connection| &mut connection.kind) {
            Some(ConnectionKind::Sse(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Writes the `subscribed` event and missed publications, once everything is available.
    pub(super) fn start_stream_if_ready(&mut self, connection_id: ConnectionId) {
        // A stream that has ended meanwhile is unsubscribed.
        if !self.is_open(connection_id)
            || self.stream(connection_id).is_none_or(|stream| stream.started)
            || !self.is_ready_to_reply(connection_id)
        {
            return;
        }
        let Some(stream) = self.stream(connection_id) else { return };
        stream.started = true;
        let mut pending_subscriptions = std::mem::take(&mut stream.pending_subscriptions);
        for pending_subscription in &mut pending_subscriptions {
            self.start_delivery(connection_id, pending_subscription);
        }
        let states: Vec<InitialState> = pending_subscriptions
            .into_iter()
            .map(|pending_subscription| self.initial_state(pending_subscription))
            .collect();
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && let ConnectionKind::Sse(stream) = &mut connection.kind
            && connection.framing.has_cursor()
        {
            stream.positions = states.iter().map(|state| state.position).collect();
        }
        let recovered = states.iter().map(|state| (&state.name, state.recovered));
        let positions = || states.iter().map(|state| (state.tag, state.position));
        self.send_event(connection_id, &sse::subscribed(recovered, positions(), self.retry_ms()));
        for state in states.iter().filter(|state| state.gap) {
            self.send_event(connection_id, &sse::gap(&state.name, UNRECOVERABLE, positions()));
        }
        for publication in states.iter().flat_map(|state| &state.missed) {
            self.enqueue_recovered(connection_id, publication);
        }
        if self.stream(connection_id).is_some_and(|stream| stream.ping) {
            self.send_event(connection_id, &self.stream_ping());
        }
        self.send_deferred(connection_id);
        self.queue_page(connection_id);
    }

    fn initial_state(&self, pending_subscription: PendingSubscription) -> InitialState {
        let channel = self.channels.get(pending_subscription.channel);
        let (name, tag, now) = (channel.name.clone(), channel.tag, channel.position);
        let resumes = pending_subscription.since.is_some();
        let Some(recovery) = pending_subscription.recovery else {
            return InitialState {
                name,
                tag,
                position: now,
                recovered: false,
                gap: false,
                missed: Vec::new(),
            };
        };
        let Recovery { start: position, publications, recovered, .. } = recovery;
        InitialState { name, tag, position, recovered, gap: resumes && !recovered, missed: publications }
    }

    /// Reports a gap in the sequence of a channel, which continues after a position.
    pub(super) fn stream_gap(
        &mut self,
        connection_id: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) {
        if let Some(event) = self.gap_event(connection_id, channel, reason, position) {
            self.send_event(connection_id, &event);
        }
    }

    /// Reports a gap ahead of the backlog.
    pub(super) fn write_gap(&mut self, connection_id: ConnectionId, gap: &ChannelGap) {
        if let Some(event) = self.gap_event(connection_id, &gap.channel, gap.cause.as_str(), gap.position) {
            self.enqueue_control_event(connection_id, &event);
        }
    }

    fn gap_event(
        &mut self,
        connection_id: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        is_continuation: StreamPosition,
    ) -> Option<Vec<u8>> {
        let connection = self.connections.get_mut(connection_id as usize)?;
        let ConnectionKind::Sse(stream) = &mut connection.kind else { return None };
        let place = connection
            .subscriptions
            .iter()
            .position(|subscription| self.channels.get(subscription.channel).name == *channel);
        Some(match place.and_then(|place| stream.positions.get_mut(place)) {
            None => sse::gap(channel, reason, [(ChannelTag::of(channel), is_continuation)]),
            Some(position) => {
                *position = is_continuation;
                let tags = connection.subscriptions.iter().map(|s| self.channels.get(s.channel).tag);
                sse::gap(channel, reason, tags.zip(stream.positions.iter().copied()))
            }
        })
    }

    /// Ends the stream because a channel is not available. The client reconnects after a while.
    pub(super) fn reject_stream(&mut self, connection_id: ConnectionId, code: ErrorCode) {
        self.send_event(connection_id, &sse::error(code.code(), code.message(), self.retry_ms()));
        self.end_stream(connection_id);
    }

    /// Queues a frame of the event stream.
    pub(super) fn send_event(&mut self, connection_id: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        if connection.framing.is_event_stream() {
            let frame = connection.framing.event(event);
            self.enqueue(connection_id, frame);
        }
    }
}

/// The state of one channel when a stream starts.
struct InitialState {
    name: ChannelName,
    tag: ChannelTag,
    position: StreamPosition,
    recovered: bool,
    gap: bool,
    missed: Vec<Arc<Publication>>,
}

/// The position from which a client resumes in each channel; `None` if it starts at the newest publication.
fn since(resume: &Resume, tags: &[ChannelTag]) -> Vec<Option<RecoverFrom>> {
    // An epoch that no channel has: the client reconnects, so it receives a gap.
    let unknown = || Some(RecoverFrom::parse("?", 0));
    match resume {
        Resume::New => vec![None; tags.len()],
        Resume::Unreadable => vec![unknown(); tags.len()],
        Resume::From(cursor) => cursor
            .positions(tags)
            .into_iter()
            .map(|position| match position {
                CursorPosition::Absent => None,
                CursorPosition::At(position) => Some(RecoverFrom::position(position)),
                CursorPosition::Ambiguous => unknown(),
            })
            .collect(),
    }
}
