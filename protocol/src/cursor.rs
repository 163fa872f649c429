//! The SSE cursor: the id of an event, which contains the positions of all channels of a stream. It contains no channel
//! names: ids must be short, and proxies log them.
//!
//! Binary format: a version byte, then for each channel its [`ChannelTag`] (8 bytes, big-endian), the difference between
//! its epoch and the epoch of the previous channel (zigzag varint: a shared epoch takes one byte), and the offset
//! (varint). Text format: URL-safe base64 without padding.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::encoding::{decode_varint, encode_varint};
use sha2::{Digest, Sha256};

use crate::{ChannelName, Epoch, StreamPosition};

/// Identifies a channel in a cursor: the first 64 bits of the SHA-256 of its name. The same on every node.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelTag(u64);

/// The positions of a stream's channels, as received from a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Sorted by tag.
    positions: Vec<(ChannelTag, StreamPosition)>,
}

/// The position of one channel in a cursor.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum CursorPosition {
    /// The cursor does not contain the channel.
    Absent,
    /// The client has received everything up to this position.
    At(StreamPosition),
    /// Two channels have the same tag, so the position may belong to the other channel.
    Ambiguous,
}

/// Why a cursor cannot be decoded.
#[derive(thiserror::Error, Debug, Copy, Clone, PartialEq, Eq)]
pub enum CursorError {
    /// The text is not valid base64, or the content is not valid.
    #[error("the cursor is malformed")]
    Malformed,
    /// The cursor has another version.
    #[error("unknown cursor version {0}")]
    UnknownVersion(u8),
}

const VERSION: u8 = 2;
const TAG_BYTES: usize = size_of::<u64>();
const VARINT_BYTES_MAX: usize = 10;
/// A usual entry: its tag, the difference of a shared epoch, and a short offset.
const ENTRY_BYTES: usize = TAG_BYTES + 4;

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
    /// Decodes an event id. The caller limits the length of the text.
    ///
    /// # Errors
    /// When the text is malformed or has another version.
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

    /// Returns the position of each channel, in the order of `tags`.
    ///
    /// The cursor may have been written for other channels. A tag that occurs twice, in the cursor or in `tags`, is
    /// [`CursorPosition::Ambiguous`] for both channels.
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

    /// Appends the event id for these positions.
    ///
    /// A stream of several channels writes one after each publication, so the bytes are encoded at once.
    pub fn write(positions: impl IntoIterator<Item = (ChannelTag, StreamPosition)>, out: &mut Vec<u8>) {
        let positions = positions.into_iter();
        let mut bytes = Vec::with_capacity(1 + positions.size_hint().0 * ENTRY_BYTES);
        bytes.push(VERSION);
        let mut epoch = 0;
        for (ChannelTag(tag), position) in positions {
            bytes.extend_from_slice(&tag.to_be_bytes());
            push_varint(zigzag(position.epoch.as_u64().wrapping_sub(epoch)), &mut bytes);
            push_varint(position.offset, &mut bytes);
            epoch = position.epoch.as_u64();
        }
        let start = out.len();
        out.resize(start + bytes.len().saturating_mul(4).div_ceil(3), 0);
        let written = BASE64_URL_SAFE_NO_PAD.encode_slice(&bytes, &mut out[start..]);
        debug_assert_eq!(written, Ok(out.len() - start), "the length of unpadded base64");
    }

    /// Returns the maximum length in bytes of the id of a stream with this number of channels.
    #[must_use]
    pub const fn max_bytes(channels: usize) -> usize {
        let bytes = channels.saturating_mul(TAG_BYTES + 2 * VARINT_BYTES_MAX).saturating_add(1);
        bytes.saturating_mul(4).div_ceil(3)
    }
}

/// Most numbers of a cursor take one byte: the difference of a shared epoch, and offsets below 128.
#[inline]
fn push_varint(number: u64, out: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(byte @ 0..0x80) => out.push(byte),
        _ => encode_varint(number, out),
    }
}

/// Decodes the position of one channel; `epoch` is the epoch of the previous channel, and is updated.
fn entry(rest: &mut &[u8], epoch: &mut u64) -> Result<(ChannelTag, StreamPosition), CursorError> {
    let tag =
        rest.split_off(..TAG_BYTES).and_then(|tag| tag.try_into().ok()).ok_or(CursorError::Malformed)?;
    let difference = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    let offset = decode_varint(rest).map_err(|_| CursorError::Malformed)?;
    *epoch = epoch.wrapping_add(unzigzag(difference));
    Ok((ChannelTag(u64::from_be_bytes(tag)), StreamPosition { epoch: Epoch::from_u64(*epoch), offset }))
}

/// Maps a small difference of either sign to a small number.
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
    fn the_format_is_stable() {
        // The first 8 bytes of `printf abc | sha256sum`, the test vector of FIPS 180-2.
        assert_eq!(tag("abc"), ChannelTag(0xba78_16bf_8f01_cfea));
        let bytes = [&[2][..], &0xba78_16bf_8f01_cfea_u64.to_be_bytes(), &[0xd8, 0x04, 7]].concat();
        assert_eq!(written(&[(tag("abc"), at(300, 7))]), BASE64_URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(written(&[]), "Ag");
    }

    #[test]
    fn a_shared_epoch_takes_one_byte() {
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
    fn finds_the_position_of_each_channel_in_any_order() {
        let (nest, web, other) = (tag("nest-signals"), tag("web-signals"), tag("other"));
        let cursor = Cursor::parse(&written(&[(web, at(1, 2)), (nest, at(u64::MAX, 0))])).unwrap();
        let expected =
            [CursorPosition::At(at(u64::MAX, 0)), CursorPosition::Absent, CursorPosition::At(at(1, 2))];
        assert_eq!(cursor.positions(&[nest, other, web]), expected);
    }

    #[test]
    fn distinguishes_names_that_collide_in_32_bits() {
        let (a, b) = (tag("costarring"), tag("liquid"));
        let cursor = Cursor::parse(&written(&[(a, at(1, 1)), (b, at(1, 2))])).unwrap();
        assert_eq!(cursor.positions(&[b, a]), [at(1, 2), at(1, 1)].map(CursorPosition::At));
    }

    #[test]
    fn a_repeated_tag_is_ambiguous() {
        let (twin, single) = (ChannelTag(7), ChannelTag(8));
        let both =
            Cursor::parse(&written(&[(twin, at(1, 1)), (single, at(1, 3)), (twin, at(1, 2))])).unwrap();
        let expected = [CursorPosition::Ambiguous, CursorPosition::At(at(1, 3))];
        assert_eq!(both.positions(&[twin, single]), expected, "repeated in the cursor");
        let one = Cursor::parse(&written(&[(twin, at(1, 1)), (single, at(1, 3))])).unwrap();
        let expected = [CursorPosition::Ambiguous, CursorPosition::At(at(1, 3)), CursorPosition::Ambiguous];
        assert_eq!(one.positions(&[twin, single, twin]), expected, "repeated in the request");
    }

    #[test]
    fn rejects_invalid_cursors() {
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
        assert_eq!(Cursor::parse(&endless), Err(CursorError::Malformed), "varint too long");
    }
}
