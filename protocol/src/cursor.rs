//! Owns the SSE cursor: the id of an event, which holds the positions of all channels of a stream.
//! Must never hold a channel's name in clear: ids are short, and they end up in logs.
//!
//! Binary form: the version, then for each channel the 32-bit FNV-1a hash of its name (big-endian),
//! the epoch and the offset as varints. Text form: base64 for URLs, without padding.

use std::io::Write;

use base64::{
    Engine, engine::general_purpose::URL_SAFE_NO_PAD, prelude::BASE64_URL_SAFE_NO_PAD, write::EncoderWriter,
};
use prost::encoding::{decode_varint, encode_varint};

use crate::{ChannelName, Epoch, StreamPosition};

/// The positions of a stream's channels, as a client presented them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Sorted by tag, each tag once.
    positions: Vec<(u32, StreamPosition)>,
}

/// Why a text is not a cursor.
#[derive(thiserror::Error, Debug, Copy, Clone, PartialEq, Eq)]
pub enum CursorError {
    /// The text is longer than [`Cursor::MAX_BYTES`].
    #[error("the cursor is longer than {} bytes", Cursor::MAX_BYTES)]
    TooLong,
    /// The text is not what a server writes.
    #[error("the cursor is damaged")]
    Malformed,
    /// Another version of the server wrote it.
    #[error("the cursor has version {0}, which is unknown")]
    UnknownVersion(u8),
}

const VERSION: u8 = 1;

impl Cursor {
    /// The longest text, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Reads an id.
    ///
    /// # Errors
    /// When the text is too long, damaged, or of another version.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        if text.len() > Self::MAX_BYTES {
            return Err(CursorError::TooLong);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (version, mut rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        if *version != VERSION {
            return Err(CursorError::UnknownVersion(*version));
        }
        let mut positions = Vec::new();
        while !rest.is_empty() {
            positions.push(entry(&mut rest)?);
        }
        Ok(Self { positions: without_twins(positions) })
    }

    /// Where the client stands in a channel, if the cursor says so.
    #[must_use]
    pub fn position(&self, channel: &ChannelName) -> Option<StreamPosition> {
        let wanted = tag(channel);
        let index = self.positions.binary_search_by_key(&wanted, |(tag, _)| *tag).ok()?;
        Some(self.positions[index].1)
    }

    /// Appends the id that stands for these positions.
    pub fn write<'a>(
        positions: impl IntoIterator<Item = (&'a ChannelName, StreamPosition)>,
        out: &mut Vec<u8>,
    ) {
        let mut text = EncoderWriter::new(out, &URL_SAFE_NO_PAD);
        let mut entry = Vec::with_capacity(24);
        entry.push(VERSION);
        for (channel, position) in positions {
            entry.extend_from_slice(&tag(channel).to_be_bytes());
            encode_varint(position.epoch.as_u64(), &mut entry);
            encode_varint(position.offset, &mut entry);
            append(&mut text, &entry);
            entry.clear();
        }
        append(&mut text, &entry);
        let finished = text.finish();
        debug_assert!(finished.is_ok(), "writing to memory does not fail");
    }
}

fn append(text: &mut impl Write, bytes: &[u8]) {
    let written = text.write_all(bytes);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

fn entry(rest: &mut &[u8]) -> Result<(u32, StreamPosition), CursorError> {
    let tag = rest.split_off(..4).and_then(|tag| tag.try_into().ok()).ok_or(CursorError::Malformed)?;
    let epoch = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    let offset = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    Ok((u32::from_be_bytes(tag), StreamPosition { epoch: Epoch::from_u64(epoch), offset }))
}

/// Two channels with one tag cannot be told apart: better no position than a wrong one.
fn without_twins(mut positions: Vec<(u32, StreamPosition)>) -> Vec<(u32, StreamPosition)> {
    positions.sort_by_key(|(tag, _)| *tag);
    let single = positions.chunk_by(|a, b| a.0 == b.0).filter(|twins| twins.len() == 1);
    single.flatten().copied().collect()
}

fn tag(channel: &ChannelName) -> u32 {
    let bytes = channel.as_str().bytes();
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::parse(text).unwrap()
    }

    fn at(epoch: u64, offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch::from_u64(epoch), offset }
    }

    fn written(positions: &[(&ChannelName, StreamPosition)]) -> String {
        let mut out = Vec::new();
        Cursor::write(positions.iter().copied(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_form_is_stable() {
        // Clients keep cursors across an upgrade of the server.
        assert_eq!(tag(&name("foobar")), 0xbf9c_f968, "the published test vector of FNV-1a");
        assert_eq!(written(&[(&name("foobar"), at(300, 7))]), "Ab-c-WisAgc");
        assert_eq!(written(&[]), "AQ");
    }

    #[test]
    fn each_channel_finds_its_own_position() {
        let (nest, web) = (name("nest-signals"), name("web-signals"));
        let cursor = Cursor::parse(&written(&[(&web, at(1, 2)), (&nest, at(u64::MAX, 0))])).unwrap();
        assert_eq!(cursor.position(&web), Some(at(1, 2)));
        assert_eq!(cursor.position(&nest), Some(at(u64::MAX, 0)));
        assert_eq!(cursor.position(&name("other")), None);
    }

    #[test]
    fn channels_whose_tags_collide_have_no_position() {
        // Two names that FNV-1a gives one hash.
        let (a, b) = (name("costarring"), name("liquid"));
        assert_eq!(tag(&a), tag(&b));
        let cursor =
            Cursor::parse(&written(&[(&a, at(1, 1)), (&b, at(1, 2)), (&name("c"), at(1, 3))])).unwrap();
        assert_eq!((cursor.position(&a), cursor.position(&b)), (None, None));
        assert_eq!(cursor.position(&name("c")), Some(at(1, 3)));
    }

    #[test]
    fn other_texts_are_no_cursors() {
        assert_eq!(Cursor::parse(&"A".repeat(4097)), Err(CursorError::TooLong));
        assert_eq!(Cursor::parse("Ag"), Err(CursorError::UnknownVersion(2)));
        for text in ["", "A", "AQ==", "Ab-c", "Ab-c-Wis", "A b", "AQ\n", "☃", "Ab-c-Wj__________8"] {
            assert_eq!(Cursor::parse(text), Err(CursorError::Malformed), "{text:?}");
        }
    }
}
