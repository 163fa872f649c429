//! One publication inside the gateway: stamped once, encoded once for each encoding, shared by everybody.
//!
//! Must never be changed after it was stamped: shards on other threads read it without a lock.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use earshot_protocol::{ChannelName, Payload, StreamPosition};

use crate::broker::Attributes;

use super::backpressure_policy::{BackpressurePolicy, ConflationInfo};

/// The ways in which a publication is written onto a connection. Each is encoded at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameEncoding {
    /// A WebSocket text frame with a Centrifuge push in JSON.
    WebSocketJson = 0,
    /// A WebSocket binary frame with a Centrifuge push in Protobuf.
    WebSocketProtobuf = 1,
    /// A whole SSE event, cursor included: for a stream of one channel.
    SseSingle = 2,
    /// An SSE event named after its channel, without its cursor: for a stream of several channels.
    SseNamed = 3,
}

const FORMS: usize = 4;

/// A publication with its place in the channel's sequence.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: ChannelName,
    /// Its place.
    pub position: StreamPosition,
    /// What was published, untouched.
    pub payload: Payload,
    /// What travels with it.
    pub attributes: Attributes,
    /// The channel has no history: WebSocket clients are not given the offset, from which nothing can be recovered.
    pub without_history: bool,
    /// Apart, so that what a history keeps of a publication that nobody is being given any more is small.
    encoded: OnceLock<Box<[OnceLock<Bytes>; FORMS]>>,
    conflation: OnceLock<Box<ConflationInfo>>,
}

impl Publication {
    /// A publication that nobody has encoded yet.
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

    /// The same with attributes.
    #[must_use]
    pub fn with_attributes(self, attributes: Attributes) -> Self {
        Self { attributes, ..self }
    }

    /// The same once more, to be encoded anew: the bytes that come of it have counts of their own, which no other thread
    /// writes.
    #[must_use]
    pub fn clone_unshared(&self) -> Self {
        let again = Self::new(self.channel.clone(), self.position, self.payload.clone());
        Self { without_history: self.without_history, ..again.with_attributes(self.attributes.clone()) }
    }

    /// The bytes of one form; `encode` makes them the first time.
    #[inline]
    pub fn encoded(&self, form: FrameEncoding, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(Box::default)[form as usize].get_or_init(|| encode(self))
    }

    /// How it stands to others of its channel; judged the first time that somebody is slow.
    pub fn conflation(&self, rule: &BackpressurePolicy) -> &ConflationInfo {
        self.conflation.get_or_init(|| Box::new(rule.conflation(&self.payload)))
    }

    /// What it is about, if somebody has asked before.
    pub fn conflation_key(&self) -> Option<&Arc<str>> {
        self.conflation.get()?.key.as_ref()
    }

    /// What it costs in a queue: the payload, what travels with it, and the frame around them.
    pub fn cost(&self) -> usize {
        self.payload.len() + self.attributes.cost() + size_of::<Self>()
    }
}
