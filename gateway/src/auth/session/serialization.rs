//! The serializations of sessions whose format no framework defines. The first bytes identify the format.

use super::super::pointer::Pointer;
use super::error::SessionError;
use super::json::Json;
use super::value::{Decoded, Resolved};
use super::{msgpack, pickle};

/// The data of a session.
#[derive(Debug)]
pub(super) enum Document<'v> {
    /// JSON.
    Json(Json<'v>),
    /// Another format.
    Decoded(Decoded<'v>),
}

impl<'v> Document<'v> {
    /// Reads an object of JSON, a map of MessagePack, or the pickle of a dictionary.
    ///
    /// # Errors
    /// The bytes are none of these, or unreadable.
    pub(super) fn detect(bytes: &'v [u8]) -> Result<Self, SessionError> {
        match bytes {
            // A map of MessagePack without entries is only one byte.
            [0x80, 2..=5, ..] => pickle::decode(bytes).map(Self::Decoded),
            // Pickles of protocols 0 and 1.
            [b'(' | b'}', ..] => pickle::decode(bytes).map(Self::Decoded),
            [0x80..=0x8f | 0xde | 0xdf, ..] => msgpack::decode(bytes).map(Self::Decoded),
            [b'{' | b' ' | b'\t' | b'\r' | b'\n', ..] => Json::parse(bytes).map(Self::Json),
            _ => {
                Err(SessionError::Unsupported("something else than an object of JSON, MessagePack or pickle"))
            }
        }
    }

    /// The value that a pointer names; `None` if there is none.
    pub(super) fn resolve(&self, pointer: &Pointer) -> Option<Resolved> {
        match self {
            Self::Json(json) => json.resolve(pointer),
            Self::Decoded(decoded) => decoded.resolve(pointer),
        }
    }
}
