//! Owns the SSE cursor: the id of an event, which holds the positions of all channels of a stream.
//! Must never hold a channel's name in clear: ids are short, and they end up in logs.
//!
//! Binary form: a version byte, then for each channel its [`ChannelTag`] (8 bytes, big-endian), the difference of its
//! epoch to that of the channel before it (zigzag varint, so an epoch that channels share costs one byte) and the
//! offset (varint). Text form: base64 for URLs, without padding.

use std::io::Write;

use base64::{
    Engine, engine::general_purpose::URL_SAFE_NO_PAD, prelude::BASE64_URL_SAFE_NO_PAD, write::EncoderWriter,
};
use prost::encoding::{decode_varint, encode_varint};
use sha2::{Digest, Sha256};

use crate::{ChannelName, Epoch, StreamPosition};

/// Names a channel in a cursor: the first 64 bits of the SHA-256 of its name, the same on every node.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelTag(u64);

/// The positions of a stream's channels, as a client presented them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Sorted by tag.
    positions: Vec<(ChannelTag, StreamPosition)>,
}

/// What a cursor says about one channel.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum CursorPosition {
    /// Nothing: the client did not have the channel.
    Absent,
    /// The client has everything up to this position.
    At(StreamPosition),
    /// Two channels have the same tag, so the position may be that of the other one.
    Ambiguous,
}

/// Why a text is not a cursor.
#[derive(thiserror::Error, Debug, Copy, Clone, PartialEq, Eq)]
pub enum CursorError {
    /// The text is not what a server writes.
    #[error("the cursor is malformed")]
    Malformed,
    /// Another version of the server wrote it.
    #[error("the cursor has version {0}, which is unknown")]
    UnknownVersion(u8),
}

const VERSION: u8 = 2;
const TAG_BYTES: usize = size_of::<u64>();
const VARINT_BYTES_MAX: usize = 10;

impl ChannelTag {
    /// The tag of this channel.
    #[must_use]
    pub fn of(channel: &ChannelName) -> Self {
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&Sha256::digest(channel.as_str())[..TAG_BYTES]);
        Self(u64::from_be_bytes(tag))
    }
}

impl Cursor {
    /// Reads an id. The caller bounds the length of the text.
    ///
    /// # Errors
    /// When the text is malformed, or of another version.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (version, mut rest) = bytes.split_first().ok_or(CursorError::Malformed)?;
        if *version != VERSION {
            return Err(CursorError::UnknownVersion(*version));
        }
        let mut positions = Vec::new();
        let mut epoch = 0;
        while !rest.is_empty() {
            positions.push(entry(&mut rest, &mut epoch)?);
        }
        positions.sort_unstable_by_key(|(tag, _)| *tag);
        Ok(Self { positions })
    }

    /// Where the client stands in each of these channels, in their order.
    ///
    /// The channels need not be those that the cursor was written for. A tag that two channels have, of the cursor or
    /// of `tags`, is [`CursorPosition::Ambiguous`] for both.
    #[must_use]
    pub fn positions(&self, tags: &[ChannelTag]) -> Vec<CursorPosition> {
        let mut sorted = tags.to_vec();
        sorted.sort_unstable();
        let is_repeated = |tag: ChannelTag| {
            sorted.partition_point(|t| *t <= tag) - sorted.partition_point(|t| *t < tag) > 1
        };
        tags.iter()
            .map(|tag| match self.find(*tag) {
                [] => CursorPosition::Absent,
                [(_, position)] if !is_repeated(*tag) => CursorPosition::At(*position),
                _ => CursorPosition::Ambiguous,
            })
            .collect()
    }

    fn find(&self, tag: ChannelTag) -> &[(ChannelTag, StreamPosition)] {
        let start = self.positions.partition_point(|(other, _)| *other < tag);
        let end = self.positions.partition_point(|(other, _)| *other <= tag);
        &self.positions[start..end]
    }

    /// Appends the id that stands for these positions.
    pub fn write(positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>, out: &mut Vec<u8>) {
        let mut text = EncoderWriter::new(out, &URL_SAFE_NO_PAD);
        let mut entry = Vec::with_capacity(1 + TAG_BYTES + 2 * VARINT_BYTES_MAX);
        entry.push(VERSION);
        let mut epoch = 0;
        for (ChannelTag(tag), position) in positions {
            entry.extend_from_slice(&tag.to_be_bytes());
            encode_varint(zigzag(position.epoch.as_u64().wrapping_sub(epoch)), &mut entry);
            encode_varint(position.offset, &mut entry);
            epoch = position.epoch.as_u64();
            append(&mut text, &entry);
            entry.clear();
        }
        append(&mut text, &entry);
        let finished = text.finish();
        debug_assert!(finished.is_ok(), "writing to memory does not fail");
    }

    /// The length of the longest id that a stream of so many channels can have, in bytes.
    #[must_use]
    pub const fn max_bytes(channels: usize) -> usize {
        let bytes = channels.saturating_mul(TAG_BYTES + 2 * VARINT_BYTES_MAX).saturating_add(1);
        bytes.saturating_mul(4).div_ceil(3)
    }
}

fn append(text: &mut impl Write, bytes: &[u8]) {
    let written = text.write_all(bytes);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// Reads one channel; `epoch` is that of the channel before it.
fn entry(rest: &mut &[u8], epoch: &mut u64) -> Result<(ChannelTag, StreamPosition), CursorError> {
    let tag =
        rest.split_off(..TAG_BYTES).and_then(|tag| tag.try_into().ok()).ok_or(CursorError::Malformed)?;
    let difference = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    let offset = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    *epoch = epoch.wrapping_add(unzigzag(difference));
    Ok((ChannelTag(u64::from_be_bytes(tag)), StreamPosition { epoch: Epoch::from_u64(*epoch), offset }))
}

/// Makes a small number of a small difference, whichever sign it has.
const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (difference.cast_signed() >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> ChannelTag {
        ChannelTag::of(&ChannelName::parse(text).unwrap())
    }

    fn at(epoch: u64, offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch::from_u64(epoch), offset }
    }

    fn written(positions: &[(ChannelTag, StreamPosition)]) -> String {
        let mut out = Vec::new();
        Cursor::write(positions.iter().copied(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_form_is_stable() {
        // The first 8 bytes of `printf abc | sha256sum`, the test vector of FIPS 180-2.
        assert_eq!(tag("abc"), ChannelTag(0xba78_16bf_8f01_cfea));
        let bytes = [&[2][..], &0xba78_16bf_8f01_cfea_u64.to_be_bytes(), &[0xd8, 0x04, 7]].concat();
        assert_eq!(written(&[(tag("abc"), at(300, 7))]), BASE64_URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(written(&[]), "Ag");
    }

    #[test]
    fn an_epoch_that_channels_share_costs_one_byte() {
        let epoch = (1 << 48) - 1;
        let [one, two, other] = [
            written(&[(tag("a"), at(epoch, 1))]),
            written(&[(tag("a"), at(epoch, 1)), (tag("b"), at(epoch, 1))]),
            written(&[(tag("a"), at(epoch, 1)), (tag("b"), at(1, 1))]),
        ]
        .map(|text| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap().len());
        assert_eq!((one, two, other), (1 + 8 + 7 + 1, 17 + 8 + 1 + 1, 17 + 8 + 7 + 1));
    }

    #[test]
    fn each_channel_finds_its_own_position_in_whichever_list_it_is() {
        let (nest, web, other) = (tag("nest-signals"), tag("web-signals"), tag("other"));
        let cursor = Cursor::parse(&written(&[(web, at(1, 2)), (nest, at(u64::MAX, 0))])).unwrap();
        let expected =
            [CursorPosition::At(at(u64::MAX, 0)), CursorPosition::Absent, CursorPosition::At(at(1, 2))];
        assert_eq!(cursor.positions(&[nest, other, web]), expected);
    }

    #[test]
    fn names_that_collide_in_32_bits_are_told_apart() {
        let (a, b) = (tag("costarring"), tag("liquid"));
        let cursor = Cursor::parse(&written(&[(a, at(1, 1)), (b, at(1, 2))])).unwrap();
        assert_eq!(cursor.positions(&[b, a]), [at(1, 2), at(1, 1)].map(CursorPosition::At));
    }

    #[test]
    fn a_tag_that_two_channels_have_is_ambiguous() {
        let (twin, single) = (ChannelTag(7), ChannelTag(8));
        let both =
            Cursor::parse(&written(&[(twin, at(1, 1)), (single, at(1, 3)), (twin, at(1, 2))])).unwrap();
        let expected = [CursorPosition::Ambiguous, CursorPosition::At(at(1, 3))];
        assert_eq!(both.positions(&[twin, single]), expected, "both are in the cursor");
        let one = Cursor::parse(&written(&[(twin, at(1, 1)), (single, at(1, 3))])).unwrap();
        let expected = [CursorPosition::Ambiguous, CursorPosition::At(at(1, 3)), CursorPosition::Ambiguous];
        assert_eq!(one.positions(&[twin, single, twin]), expected, "both are in the request");
    }

    #[test]
    fn other_texts_are_no_cursors() {
        for version in [0, 1, 3, 255] {
            let text = BASE64_URL_SAFE_NO_PAD.encode([version]);
            assert_eq!(Cursor::parse(&text), Err(CursorError::UnknownVersion(version)));
        }
        let whole = written(&[(tag("a"), at(u64::MAX / 2, 300))]);
        for cut in 3..whole.len() {
            assert_eq!(Cursor::parse(&whole[..cut]), Err(CursorError::Malformed), "{cut} bytes");
        }
        for text in ["", "A", "Ag==", "A g", "Ag\n", "☃"] {
            assert_eq!(Cursor::parse(text), Err(CursorError::Malformed), "{text:?}");
        }
        let endless = BASE64_URL_SAFE_NO_PAD.encode([&[2; 9][..], &[0xff; 11]].concat());
        assert_eq!(Cursor::parse(&endless), Err(CursorError::Malformed), "a varint that is too long");
    }
}
