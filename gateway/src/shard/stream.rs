//! The rules of an SSE stream: what it begins with, and what it is told besides publications.
//!
//! Must never write onto a link; the order of events is the order of the outbox.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ChannelTag, CursorPosition, Disconnect, ErrorCode, StreamPosition};

use super::channels::{Channels, ConnectionId};
use super::connection::{Connection, Kind, Opening, Stream};
use super::reactor::Shard;
use super::{Resume, broadcast, sse};
use crate::node::messages::{ChannelGap, RecoverFrom, Recovery};
use crate::node::publication::{FrameEncoding, Publication};

/// Why a channel cannot be continued from where a client stood.
pub(super) const UNRECOVERABLE: &str = "unrecoverable";

impl Shard {
    /// Begins to hear the channels of the request; [`Shard::stream_ready`] follows when all are live.
    pub(super) fn open_stream(
        &mut self,
        at: ConnectionId,
        channels: Vec<ChannelName>,
        refusal: Option<Disconnect>,
    ) {
        if let Some(refusal) = refusal {
            return self.disconnect(at, refusal);
        }
        if let Some(connection) = self.connections.get_mut(at as usize) {
            connection.held = Some(Box::default());
        }
        for name in channels {
            if let Err(code) = self.open_channel(at, name) {
                return self.stream_refused(at, code);
            }
        }
        self.set_positions(at);
        self.stream_ready(at);
    }

    /// How long a client shall wait before it reconnects: spread, so that those of one outage do not come together.
    pub(super) fn retry_ms(&self) -> u32 {
        let spread = 0.5 + fastrand::f64();
        u32::try_from(self.limits.sse_retry.mul_f64(spread).as_millis()).unwrap_or(u32::MAX)
    }

    fn open_channel(&mut self, at: ConnectionId, name: ChannelName) -> Result<(), ErrorCode> {
        let last = self.node.namespace(&name).is_some_and(|namespace| namespace.replay_last);
        let channel = self.wish(at, name)?;
        if let Some(stream) = self.stream(at) {
            stream.openings.push(Opening::new(channel, None, last));
        }
        Ok(())
    }

    /// Finds the client's position in each channel of the request.
    fn set_positions(&mut self, at: ConnectionId) {
        let Some(Connection { kind: Kind::Sse(stream), .. }) = self.connections.get_mut(at as usize) else {
            return;
        };
        // Not kept: a cursor may be as long as the head of a request.
        let resume = std::mem::replace(&mut stream.resume, Resume::Fresh);
        let tags: Vec<_> =
            stream.openings.iter().map(|opening| self.channels.at(opening.channel).tag).collect();
        for (opening, since) in stream.openings.iter_mut().zip(since(&resume, &tags)) {
            opening.since = since;
        }
    }

    fn stream(&mut self, at: ConnectionId) -> Option<&mut Stream> {
        match self.connections.get_mut(at as usize).map(|connection| &mut connection.kind) {
            Some(Kind::Sse(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Says what the stream hears and what was missed, once all of it is known.
    pub(super) fn stream_ready(&mut self, at: ConnectionId) {
        // One that ended meanwhile has left its channels.
        if !self.is_open(at) || self.stream(at).is_none_or(|stream| stream.began) || !self.opened(at) {
            return;
        }
        let Some(stream) = self.stream(at) else { return };
        stream.began = true;
        let mut openings = std::mem::take(&mut stream.openings);
        for opening in &mut openings {
            self.begin_hearing(at, opening);
        }
        let stands: Vec<Stand> = openings.into_iter().map(|opening| self.stand(opening)).collect();
        if let Some(connection) = self.connections.get_mut(at as usize)
            && let Kind::Sse(stream) = &mut connection.kind
            && connection.form == FrameEncoding::SseNamed
        {
            stream.positions = stands.iter().map(|stand| stand.position).collect();
        }
        let states = stands.iter().map(|stand| (&stand.name, stand.recovered));
        let positions = || stands.iter().map(|stand| (stand.tag, stand.position));
        self.event(at, &sse::subscribed(states, positions(), self.retry_ms()));
        for stand in stands.iter().filter(|stand| stand.lost) {
            self.event(at, &sse::gap(&stand.name, UNRECOVERABLE, positions()));
        }
        for publication in stands.iter().flat_map(|stand| &stand.missed) {
            self.push_missed(at, publication);
        }
        if self.stream(at).is_some_and(|stream| stream.ping) {
            self.event(at, &self.stream_ping());
        }
        self.release(at);
        self.want_page(at);
    }

    fn stand(&self, opening: Opening) -> Stand {
        let channel = self.channels.at(opening.channel);
        let (name, tag, now) = (channel.name.clone(), channel.tag, channel.position);
        let asked = opening.since.is_some();
        let Some(recovery) = opening.recovery else {
            return Stand { name, tag, position: now, recovered: false, lost: false, missed: Vec::new() };
        };
        let Recovery { start: position, publications, recovered, .. } = recovery;
        Stand { name, tag, position, recovered, lost: asked && !recovered, missed: publications }
    }

    /// Tells of a hole in a channel's sequence, which goes on from a position.
    pub(super) fn stream_gap(
        &mut self,
        at: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
    ) {
        if let Some(event) = self.gap_event(at, channel, reason, position) {
            self.event(at, &event);
        }
    }

    /// The same, whatever waits in the outbox.
    pub(super) fn write_gap(&mut self, at: ConnectionId, gap: &ChannelGap) {
        if let Some(event) = self.gap_event(at, &gap.channel, gap.cause.as_str(), gap.position) {
            self.control_event(at, &event);
        }
    }

    fn gap_event(
        &mut self,
        at: ConnectionId,
        channel: &ChannelName,
        reason: &str,
        goes_on: StreamPosition,
    ) -> Option<Vec<u8>> {
        let connection = self.connections.get_mut(at as usize)?;
        let Kind::Sse(stream) = &mut connection.kind else { return None };
        let place = connection
            .subscriptions
            .iter()
            .position(|subscription| self.channels.at(subscription.channel).name == *channel);
        Some(match place.and_then(|place| stream.positions.get_mut(place)) {
            None => sse::gap(channel, reason, [(ChannelTag::of(channel), goes_on)]),
            Some(position) => {
                *position = goes_on;
                let tags = connection.subscriptions.iter().map(|s| self.channels.at(s.channel).tag);
                sse::gap(channel, reason, tags.zip(stream.positions.iter().copied()))
            }
        })
    }

    /// A channel cannot be heard: the stream says so and ends. The client comes again after a while.
    pub(super) fn stream_refused(&mut self, at: ConnectionId, code: ErrorCode) {
        self.event(at, &sse::error(code.code(), code.message(), self.retry_ms()));
        self.finish(at);
    }

    /// Puts a piece of the event stream into the outbox.
    pub(super) fn event(&mut self, at: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(at as usize) else { return };
        if matches!(connection.kind, Kind::Sse(_)) {
            let piece = piece(connection, event);
            self.push(at, piece);
        }
    }
}

/// Where a stream stands in one of its channels when it begins.
struct Stand {
    name: ChannelName,
    tag: ChannelTag,
    position: StreamPosition,
    recovered: bool,
    lost: bool,
    missed: Vec<Arc<Publication>>,
}

/// Puts a publication into a stream's outbox.
pub(super) fn push_publication(connection: &mut Connection, channels: &Channels, publication: &Publication) {
    let Kind::Sse(stream) = &mut connection.kind else { return };
    let chunk = broadcast::encoded(connection.form, publication);
    connection.outbox.push(if connection.link.is_socket() { chunk.clone() } else { sse::unchunked(chunk) });
    if connection.form == FrameEncoding::SseSingle {
        return;
    }
    let subscribed = || connection.subscriptions.iter().map(|s| channels.at(s.channel));
    if let Some(place) = subscribed().position(|channel| channel.name == publication.channel)
        && let Some(position) = stream.positions.get_mut(place)
    {
        *position = publication.position;
    }
    let id = sse::id_line(subscribed().map(|channel| channel.tag).zip(stream.positions.iter().copied()));
    let id = piece(connection, &id);
    connection.outbox.push(id);
}

/// Some of an event stream as it is written: hyper makes the chunks of what it carries.
pub(super) fn piece(connection: &Connection, event: &[u8]) -> Bytes {
    if connection.link.is_socket() { sse::chunk(event) } else { Bytes::copy_from_slice(event) }
}

/// Where a client continues each of these channels; `None` where it starts fresh.
fn since(resume: &Resume, tags: &[ChannelTag]) -> Vec<Option<RecoverFrom>> {
    // An epoch that no channel has: the client was here before, so it is told of a gap.
    let unknown = || Some(RecoverFrom::parse("?", 0));
    match resume {
        Resume::Fresh => vec![None; tags.len()],
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
