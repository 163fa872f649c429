//! How messages are encoded for a connection.
//!
//! [`Framing`] is the only place that distinguishes the encodings. A new transport is a new variant of its encoding.

use bytes::Bytes;
use earshot_protocol::{ChannelName, Encoding, Push, PushBody, Reply, ReplyBody, UnsubscribeCode};

use super::{NewConnectionKind, sse, websocket_frames};
use crate::metrics::{Cell, ShardCounters};
use crate::node::messages::PageLimit;
use crate::node::publication::{FrameEncoding, Publication};

/// Publications in one page of a stream of several channels, where each event has an id of its own.
const NAMED_PAGE_PUBLICATIONS: usize = 32;

/// The encoding of one connection, chosen when it is inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    encoding: FrameEncoding,
    /// Events are chunks of an HTTP/1.1 body. Hyper adds the chunks of its streams itself.
    chunked: bool,
}

impl Framing {
    /// The encoding of a new connection; `chunked` if its event stream is written to a socket of the shard.
    pub(super) fn new(kind: &NewConnectionKind, chunked: bool) -> Self {
        let encoding = match kind {
            NewConnectionKind::WebSocket { encoding: Encoding::Json, .. } => FrameEncoding::WebSocketJson,
            NewConnectionKind::WebSocket { encoding: Encoding::Protobuf, .. } => {
                FrameEncoding::WebSocketProtobuf
            }
            NewConnectionKind::Sse { named: false, identity, .. }
                if !identity.event_id_suffix().is_empty() =>
            {
                FrameEncoding::SseOpen
            }
            NewConnectionKind::Sse { named: false, .. } => FrameEncoding::SseSingle,
            NewConnectionKind::Sse { named: true, .. } => FrameEncoding::SseNamed,
        };
        Self { encoding, chunked }
    }

    /// Whether the client only reads: an event stream.
    pub(super) fn is_event_stream(self) -> bool {
        matches!(self.encoding, FrameEncoding::SseSingle | FrameEncoding::SseOpen | FrameEncoding::SseNamed)
    }

    /// Whether each publication is followed by a cursor over all channels of the connection.
    #[inline]
    pub(super) fn has_cursor(self) -> bool {
        matches!(self.encoding, FrameEncoding::SseOpen | FrameEncoding::SseNamed)
    }

    /// The shared frame of a publication.
    #[inline]
    pub(super) fn publication(self, publication: &Publication) -> Bytes {
        let frame = publication.encoded(self.encoding, |publication| encode(self.encoding, publication));
        if self.is_event_stream() && !self.chunked { sse::unchunked(frame) } else { frame.clone() }
    }

    /// A message of the Centrifuge protocol; empty for an event stream, which has none.
    pub(super) fn reply(self, reply: &Reply) -> Bytes {
        let mut payload = Vec::with_capacity(128);
        match self.encoding {
            FrameEncoding::WebSocketJson => {
                Encoding::Json.encode_reply(reply, &mut payload);
                websocket_frames::text(&payload)
            }
            FrameEncoding::WebSocketProtobuf => {
                Encoding::Protobuf.encode_reply(reply, &mut payload);
                websocket_frames::binary(&payload)
            }
            FrameEncoding::SseSingle | FrameEncoding::SseOpen | FrameEncoding::SseNamed => Bytes::new(),
        }
    }

    /// Part of an event stream.
    pub(super) fn event(self, event: &[u8]) -> Bytes {
        if self.chunked { sse::chunk(event) } else { Bytes::copy_from_slice(event) }
    }

    /// The message that informs the client that the connection is closed.
    pub(super) fn close(self, code: u16, reason: &str, retry_ms: u32) -> Bytes {
        if self.is_event_stream() {
            self.event(&sse::error(u32::from(code), reason, retry_ms))
        } else {
            websocket_frames::close_frame(Some(code), reason)
        }
    }

    /// The message that informs the client that a subscription ended; empty for an event stream.
    pub(super) fn unsubscribe_push(self, channel: &ChannelName, code: UnsubscribeCode) -> Bytes {
        let push = Push { channel: channel.to_string(), body: PushBody::Unsubscribe(code.into()) };
        self.reply(&Reply { id: 0, body: ReplyBody::Push(push) })
    }

    /// The end of a response body, if the shard writes it.
    pub(super) fn end(self) -> Option<Bytes> {
        (self.is_event_stream() && self.chunked).then(|| Bytes::from_static(sse::LAST_CHUNK))
    }

    /// The size of one page of a recovery.
    pub(super) fn page_limit(self, limit: PageLimit) -> PageLimit {
        if self.has_cursor() {
            PageLimit { publications: limit.publications.min(NAMED_PAGE_PUBLICATIONS), ..limit }
        } else {
            limit
        }
    }

    /// The counter of open connections of this transport.
    pub(super) fn open_connections(self, counters: &ShardCounters) -> &Cell {
        if self.is_event_stream() { &counters.sse } else { &counters.websockets }
    }
}

/// Encodes the frame or event of a publication.
pub(super) fn encode(encoding: FrameEncoding, publication: &Publication) -> Bytes {
    match encoding {
        FrameEncoding::WebSocketJson => websocket_frames::text(&push(Encoding::Json, publication)),
        FrameEncoding::WebSocketProtobuf => websocket_frames::binary(&push(Encoding::Protobuf, publication)),
        FrameEncoding::SseSingle => sse::single(publication),
        FrameEncoding::SseOpen => sse::open(publication),
        FrameEncoding::SseNamed => sse::named(publication),
    }
}

fn push(encoding: Encoding, publication: &Publication) -> Vec<u8> {
    let mut payload = Vec::with_capacity(publication.payload.len() + 96);
    encoding.encode_publication(publication.channel.as_str(), &to_protocol(publication), &mut payload);
    payload
}

/// A publication as a value of the protocol crate.
pub(super) fn to_protocol(publication: &Publication) -> earshot_protocol::Publication {
    earshot_protocol::Publication {
        data: publication.payload.clone(),
        offset: if publication.without_history { 0 } else { publication.position.offset },
        tags: publication.attributes.tags().to_vec(),
        info: publication.attributes.info().cloned(),
        time: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;
    use crate::shard::Resume;
    use earshot_protocol::{Disconnect, Epoch, Payload, StreamPosition};

    fn publication() -> Publication {
        let position = StreamPosition { epoch: Epoch::from_u64(7), offset: 3 };
        Publication::new(ChannelName::parse("news").unwrap(), position, Payload::new("1".into()))
    }

    fn websocket(encoding: Encoding) -> Framing {
        Framing::new(&NewConnectionKind::WebSocket { encoding, client: None, rejection: None }, false)
    }

    fn stream(named: bool, chunked: bool) -> Framing {
        let (channels, resume) = (Vec::new(), Resume::New);
        let kind = NewConnectionKind::Sse {
            channels,
            identity: Identity::anonymous(),
            named,
            ping: false,
            resume,
            rejection: None,
        };
        Framing::new(&kind, chunked)
    }

    #[test]
    fn frames_of_one_encoding_share_their_bytes() {
        let publication = publication();
        let socket = stream(false, true).publication(&publication);
        let hyper = stream(false, false).publication(&publication);
        assert!(socket.as_ptr_range().contains(&hyper.as_ptr()), "the body of a chunk is a slice of it");
        let json = websocket(Encoding::Json);
        assert_eq!(json.publication(&publication).as_ptr(), json.publication(&publication).as_ptr());
    }

    #[test]
    fn hyper_streams_have_no_chunks() {
        let publication = publication();
        for named in [false, true] {
            let (socket, hyper) = (stream(named, true), stream(named, false));
            let chunk = sse::chunk(&hyper.publication(&publication));
            assert_eq!(socket.publication(&publication), chunk, "named {named}");
            assert_eq!((socket.end().as_deref(), hyper.end()), (Some(sse::LAST_CHUNK), None));
        }
    }

    #[test]
    fn closes_in_the_protocol_of_the_connection() {
        let (code, reason) = (Disconnect::Slow.code(), Disconnect::Slow.reason());
        let frame = websocket(Encoding::Protobuf).close(code, reason, 1);
        assert_eq!(frame, websocket_frames::close_frame(Some(code), reason));
        let event = stream(true, false).close(code, reason, 1);
        assert_eq!(event, sse::error(u32::from(code), reason, 1));
    }
}
