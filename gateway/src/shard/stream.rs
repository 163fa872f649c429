//! The rules of an SSE stream: what it begins with, and what it is told besides publications.
//!
//! Must never write onto a link; the order of events is the order of the outbox.

use bytes::Bytes;
use earshot_protocol::{ChannelName, Cursor, Disconnect, ErrorCode, StreamPosition};

use super::channels::ConnectionId;
use super::connection::{Connection, Kind, Stream};
use super::reactor::Shard;
use super::sse;
use crate::node::publication::{Form, Publication};

impl Shard {
    /// Begins to hear the channels of the request; [`Shard::stream_ready`] follows when all are live.
    pub(super) fn open_stream(
        &mut self,
        at: ConnectionId,
        channels: Vec<ChannelName>,
        refusal: Option<Disconnect>,
    ) {
        let spread = 0.5 + fastrand::f64();
        let ms = self.limits.sse_retry.mul_f64(spread).as_millis();
        self.event(at, &sse::retry(u32::try_from(ms).unwrap_or(u32::MAX)));
        if let Some(refusal) = refusal {
            return self.disconnect(at, refusal);
        }
        for channel in channels {
            if let Err(code) = self.wish(at, channel) {
                return self.stream_refused(at, code);
            }
        }
        self.stream_ready(at);
    }

    /// Says what the stream hears, once every channel is live.
    pub(super) fn stream_ready(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let waits = connection.waits();
        let Kind::Sse(stream) = &mut connection.kind else { return };
        if waits || std::mem::replace(&mut stream.began, true) {
            return;
        }
        let resume = stream.resume.take();
        let channels: Vec<_> = connection.subscriptions.iter().map(|s| s.channel).collect();
        for channel in &channels {
            self.join(at, *channel);
        }
        let positions = self.positions(at);
        let recovered: Vec<bool> =
            positions.iter().map(|(name, position)| continues(resume.as_ref(), name, *position)).collect();
        let states = positions.iter().zip(&recovered).map(|((name, position), r)| (name, *position, *r));
        self.event(at, &sse::subscribed(states));
        if resume.is_some() {
            for ((name, _), _) in positions.iter().zip(&recovered).filter(|(_, recovered)| !**recovered) {
                self.event(at, &sse::gap(name, "unrecoverable", positions.iter().map(|(n, p)| (n, *p))));
            }
        }
    }

    /// Tells of a hole in a channel's sequence.
    pub(super) fn stream_gap(&mut self, at: ConnectionId, channel: &ChannelName, reason: &str) {
        let positions = self.positions(at);
        self.event(at, &sse::gap(channel, reason, positions.iter().map(|(n, p)| (n, *p))));
        self.counters.gaps.add(1);
    }

    /// A channel cannot be heard: the stream says so and ends. The client comes again after a while.
    pub(super) fn stream_refused(&mut self, at: ConnectionId, code: ErrorCode) {
        self.event(at, &sse::error(code.code(), code.message()));
        self.finish(at);
    }

    /// Puts a piece of the event stream into the outbox.
    pub(super) fn event(&mut self, at: ConnectionId, event: &[u8]) {
        let Some(connection) = self.connections.get(at as usize) else { return };
        let Kind::Sse(stream) = &connection.kind else { return };
        let piece = if stream.chunked { sse::chunk(event) } else { Bytes::copy_from_slice(event) };
        self.push(at, piece);
    }

    /// The channels of a stream with their positions, in the order of the request.
    fn positions(&self, at: ConnectionId) -> Vec<(ChannelName, StreamPosition)> {
        let Some(connection) = self.connections.get(at as usize) else { return Vec::new() };
        let position = |s: &super::connection::Subscription| {
            let channel = self.channels.at(s.channel);
            (channel.name.clone(), channel.position)
        };
        connection.subscriptions.iter().map(position).collect()
    }
}

/// Puts a publication into a stream's outbox, and says how many bytes that were.
pub(super) fn push_publication(
    connection: &mut Connection,
    channels: &super::channels::Channels,
    publication: &Publication,
) {
    let Kind::Sse(stream) = &connection.kind else { return };
    let Stream { named, chunked, .. } = **stream;
    let piece = |chunk: &Bytes| if chunked { chunk.clone() } else { sse::unchunked(chunk) };
    if !named {
        return connection.outbox.push(piece(publication.form(Form::SseSingle, sse::single)));
    }
    connection.outbox.push(piece(publication.form(Form::SseNamed, sse::named)));
    let positions = connection.subscriptions.iter().map(|subscription| {
        let channel = channels.at(subscription.channel);
        (&channel.name, channel.position)
    });
    let id = sse::id_line(positions);
    connection.outbox.push(if chunked { sse::chunk(&id) } else { id.into() });
}

/// Whether the client stood exactly where the channel stands: it missed nothing.
fn continues(resume: Option<&Cursor>, channel: &ChannelName, position: StreamPosition) -> bool {
    resume.and_then(|cursor| cursor.position(channel)) == Some(position)
}
