//! WebSocket frames (RFC 6455) from the client's point of view. Pure: owns no socket and buffers at most one incomplete
//! frame or message.

use std::io::Cursor;
use std::mem;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Largest message that is reassembled.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameMessage<'a> {
    /// Text or binary message.
    Data(&'a [u8]),
    /// Ping with its payload, which the pong must repeat.
    Ping(&'a [u8]),
    /// Close frame: code (0 if absent) and reason.
    Close(u16, &'a [u8]),
}

/// Why the bytes are not valid frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Violation of RFC 6455.
    #[error("the server violates RFC 6455: {0}")]
    Violation(&'static str),
    /// Larger than [`MESSAGE_BYTES_MAX`].
    #[error("message exceeds {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

/// Bytes of a connection that are kept between reads.
#[derive(Debug, Default)]
pub(crate) struct ClientFrameReader {
    /// Incomplete frame.
    partial: Vec<u8>,
    /// Fragments of an incomplete message.
    fragments: Vec<u8>,
}

impl ClientFrameReader {
    /// Processes the next bytes and calls `on_message` for each complete message.
    pub(crate) fn feed<E: From<FrameError>>(
        &mut self,
        input: &[u8],
        mut on_message: impl FnMut(FrameMessage<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.partial.is_empty() {
            let used = self.read_frames(input, &mut on_message)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut joined = mem::take(&mut self.partial);
        joined.extend_from_slice(input);
        let used = self.read_frames(&joined, &mut on_message)?;
        joined.drain(..used);
        if !joined.is_empty() {
            self.partial = joined;
        }
        Ok(())
    }

    /// Processes all complete frames; returns the number of bytes consumed.
    fn read_frames<E: From<FrameError>>(
        &mut self,
        bytes: &[u8],
        on_message: &mut impl FnMut(FrameMessage<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut at = 0;
        while let Some((header, start, end)) = header(&bytes[at..])? {
            let Some(payload) = bytes.get(at + start..at + end) else { break };
            at += end;
            match header.opcode {
                OpCode::Data(Data::Continue) => {
                    self.append(payload)?;
                    if header.is_final {
                        on_message(FrameMessage::Data(&mem::take(&mut self.fragments)))?;
                    }
                }
                OpCode::Data(_) if header.is_final => on_message(FrameMessage::Data(payload))?,
                OpCode::Data(_) => self.append(payload)?,
                OpCode::Control(Control::Ping) => on_message(FrameMessage::Ping(payload))?,
                OpCode::Control(Control::Close) => on_message(close(payload))?,
                OpCode::Control(_) => {}
            }
        }
        Ok(at)
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        if self.fragments.len() + payload.len() > MESSAGE_BYTES_MAX {
            return Err(FrameError::TooLong);
        }
        self.fragments.extend_from_slice(payload);
        Ok(())
    }
}

/// Parses a frame header; returns it with the range of the payload. `None` if incomplete.
fn header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize, usize)>, FrameError> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameError::Violation("unknown opcode"))?;
    let Some((header, length)) = parsed else { return Ok(None) };
    if header.mask.is_some() || header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(FrameError::Violation("mask or reserved bit set"));
    }
    let start = usize::try_from(cursor.position()).unwrap_or_default();
    match usize::try_from(length) {
        Ok(length) if length <= MESSAGE_BYTES_MAX => Ok(Some((header, start, start + length))),
        _ => Err(FrameError::TooLong),
    }
}

fn close(payload: &[u8]) -> FrameMessage<'_> {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => FrameMessage::Close(u16::from_be_bytes(*code), reason),
        None => FrameMessage::Close(0, b""),
    }
}

/// Appends a client frame. Its mask is zero, which is valid and needs no XOR.
pub(crate) fn write_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, mask: Some([0; 4]), ..FrameHeader::default() };
    // Writing to a vector cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, FrameError> {
        let (mut reader, mut messages) = (ClientFrameReader::default(), Vec::new());
        for piece in pieces {
            reader.feed(piece, |message| {
                messages.push(format!("{message:?}"));
                Ok::<(), FrameError>(())
            })?;
        }
        Ok(messages)
    }

    const STREAM: &[u8] =
        b"\x81\x02ab\x01\x01x\x89\x01p\x80\x02yz\x8a\x00\x82\x7e\x00\x03cde\x88\x05\x0b\xc0bye";

    #[test]
    fn frames_become_messages() {
        let expected = [
            format!("{:?}", FrameMessage::Data(b"ab")),
            format!("{:?}", FrameMessage::Ping(b"p")),
            format!("{:?}", FrameMessage::Data(b"xyz")),
            format!("{:?}", FrameMessage::Data(b"cde")),
            format!("{:?}", FrameMessage::Close(3008, b"bye")),
        ];
        assert_eq!(read(&[STREAM]).unwrap(), expected);
    }

    #[test]
    fn invalid_server_frames_are_rejected() {
        assert_eq!(read(&[b"\x81\x82abcdxy"]), Err(FrameError::Violation("mask or reserved bit set")));
        assert_eq!(read(&[b"\xc1\x00"]), Err(FrameError::Violation("mask or reserved bit set")));
        assert_eq!(read(&[b"\x81\x7f\x00\x00\x00\x00\xff\xff\xff\xff"]), Err(FrameError::TooLong));
    }

    #[test]
    fn client_frames_are_masked() {
        let mut out = Vec::new();
        write_frame(OpCode::Data(Data::Text), b"{}", &mut out);
        assert_eq!(out, b"\x81\x82\0\0\0\0{}");
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(cuts in prop::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &STREAM[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[STREAM]));
        }

        #[test]
        fn no_input_panics(input: Vec<u8>) {
            let _ = read(&[&input]);
        }
    }
}
