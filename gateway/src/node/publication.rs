//! One publication: its position is assigned once, each encoding is made once, and all subscribers share it.
//!
//! Must never change after its position is assigned: shards on other threads read it without a lock.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use earshot_protocol::{ChannelName, Payload, StreamPosition};

use crate::broker::Attributes;

use super::backpressure_policy::{BackpressurePolicy, ConflationInfo};

/// The encodings of a publication on a connection. Each is made at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameEncoding {
    /// A WebSocket text frame with a Centrifuge push in JSON.
    WebSocketJson = 0,
    /// A WebSocket binary frame with a Centrifuge push in Protobuf.
    WebSocketProtobuf = 1,
    /// A complete SSE event with its cursor: for a stream of one channel.
    SseSingle = 2,
    /// An SSE event named after its channel, without a cursor: for a stream of several channels.
    SseNamed = 3,
}

const FORMS: usize = 4;

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
    encoded: OnceLock<Box<[OnceLock<Bytes>; FORMS]>>,
    conflation: OnceLock<Box<ConflationInfo>>,
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
            encoded: OnceLock::new(),
            conflation: OnceLock::new(),
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

    /// The bytes of an encoding; `encode` makes them at the first call.
    #[inline]
    pub fn encoded(&self, form: FrameEncoding, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(Box::default)[form as usize].get_or_init(|| encode(self))
    }

    /// How the publication relates to others when it is conflated; computed at the first call.
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
