//! One publication: its position is assigned once, and all subscribers share its encodings.
//!
//! Must never change after its position is assigned: shards on other threads read it without a lock. Encodings are
//! added by compare and swap, so that no shard waits for another: two shards may encode the same publication at the
//! same time; the first result is kept.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Payload, StreamPosition};
use once_cell::race::OnceBox;

use crate::broker::Attributes;

use super::backpressure_policy::{BackpressurePolicy, ConflationInfo};

/// The encodings of a publication on a connection. Each is made at most once per shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameEncoding {
    /// A WebSocket text frame with a Centrifuge push in JSON.
    WebSocketJson = 0,
    /// A WebSocket binary frame with a Centrifuge push in Protobuf.
    WebSocketProtobuf = 1,
    /// A complete SSE event with its cursor: for a stream of one channel.
    SseSingle = 2,
    /// An SSE event without a cursor: for a stream of one channel whose ids contain more than the cursor.
    SseOpen = 3,
    /// An SSE event named after its channel, without a cursor: for a stream of several channels.
    SseNamed = 4,
}

const FORMS: usize = 5;

/// A publication with its position.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: ChannelName,
    /// The position in the channel's sequence.
    pub position: StreamPosition,
    /// The payload, unchanged.
    pub payload: Payload,
    /// Tags and the publishing client.
    pub attributes: Attributes,
    /// The channel has no history: WebSocket clients receive no offset, since they cannot recover from it.
    pub without_history: bool,
    /// Boxed, so that a publication in the history is small while it is not being delivered.
    encoded: OnceBox<[OnceBox<Bytes>; FORMS]>,
    conflation: OnceBox<ConflationInfo>,
}

impl Publication {
    /// Creates a publication without encodings.
    pub fn new(channel: ChannelName, position: StreamPosition, payload: Payload) -> Self {
        Self {
            channel,
            position,
            payload,
            attributes: Attributes::default(),
            without_history: false,
            encoded: OnceBox::new(),
            conflation: OnceBox::new(),
        }
    }

    /// Sets the attributes.
    #[must_use]
    pub fn with_attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// Returns a copy without encodings. The reference counts of its encodings are not shared with other threads.
    #[must_use]
    pub fn clone_unshared(&self) -> Self {
        let again = Self::new(self.channel.clone(), self.position, self.payload.clone());
        Self { without_history: self.without_history, ..again.with_attributes(self.attributes.clone()) }
    }

    /// The bytes of an encoding; `encode` makes them at the first call. Never waits: while another shard encodes, this
    /// one encodes, too, and the bytes that are ready first are shared.
    #[inline]
    pub fn encoded(&self, form: FrameEncoding, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(Box::default)[form as usize].get_or_init(|| Box::new(encode(self)))
    }

    /// How the publication relates to others when it is conflated; computed at the first call. Never waits.
    pub fn conflation(&self, rule: &BackpressurePolicy) -> &ConflationInfo {
        self.conflation.get_or_init(|| Box::new(rule.conflation(&self.payload)))
    }

    /// The conflation key, if it was computed before.
    pub fn conflation_key(&self) -> Option<&Arc<str>> {
        self.conflation.get()?.key.as_ref()
    }

    /// The cost in a queue: the payload, the attributes, and the frame around them.
    pub fn cost(&self) -> usize {
        self.payload.len() + self.attributes.cost() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use earshot_protocol::Epoch;

    use super::*;

    fn publication() -> Publication {
        let position = StreamPosition { epoch: Epoch::from_u64(1), offset: 1 };
        Publication::new(
            ChannelName::parse("news").unwrap(),
            position,
            Payload::new(Bytes::from_static(b"1")),
        )
    }

    #[test]
    fn the_first_encoding_is_shared() {
        let publication = publication();
        for _ in 0..2 {
            assert_eq!(
                publication.encoded(FrameEncoding::SseNamed, |_| Bytes::from_static(b"first")),
                "first"
            );
        }
        assert_eq!(publication.encoded(FrameEncoding::SseSingle, |_| Bytes::from_static(b"other")), "other");
    }

    /// The inner call stands for a shard that encodes while another one does. If it waited, the test would not end.
    #[test]
    fn an_encoding_in_progress_does_not_block_another() {
        let publication = publication();
        let form = FrameEncoding::WebSocketJson;
        let late = publication.encoded(form, |publication| {
            assert_eq!(publication.encoded(form, |_| Bytes::from_static(b"early")), "early");
            Bytes::from_static(b"late")
        });
        assert_eq!(late, "early");
    }

    #[test]
    fn computes_the_conflation_once() {
        let publication = publication();
        assert!(publication.conflation_key().is_none());
        let rule = BackpressurePolicy::Latest { key: None, terminal: None };
        assert_eq!(publication.conflation(&rule).key.as_deref(), Some(""));
        assert_eq!(publication.conflation_key().map(|key| &**key), Some(""));
    }
}
