//! Decodes the WebSocket frames (RFC 6455) of a client.
//!
//! Decodes headers, masks, fragments and control frames into messages. Owns the close code of each
//! protocol error. A connection holds memory only while a frame or a message is incomplete, and no memory is reserved
//! for an announced length.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// A complete, unmasked message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientMessage<'a> {
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// With the code for the reply; `None` if the client sent no code.
    Close(Option<u16>),
}

/// An error that closes the connection, with the close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProtocolError {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

const fn protocol_error(code: CloseCodeNumber, reason: &'static str) -> ProtocolError {
    ProtocolError { code: code as u16, reason }
}

#[derive(Clone, Copy)]
enum CloseCodeNumber {
    Protocol = 1002,
    Invalid = 1007,
    Size = 1009,
}

/// Bytes of a connection that are kept between reads.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    /// An incomplete frame.
    partial: Vec<u8>,
    /// The fragments of a message so far, unmasked.
    fragments: Vec<u8>,
    /// The kind of the fragmented message.
    fragmented: Option<DataKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataKind {
    Text,
    Binary,
}

/// Decodes messages from the bytes of one read.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    reader: &'a mut FrameReader,
    /// The bytes kept from earlier reads, followed by the input, if there were any.
    buffered: Vec<u8>,
    input: &'a mut [u8],
    at: usize,
    limit: usize,
    /// The last message was assembled from fragments.
    from_fragments: bool,
}

struct Header {
    kind: Opcode,
    is_final: bool,
    mask: [u8; 4],
    payload: std::ops::Range<usize>,
}

enum Opcode {
    Data(DataKind),
    Continue,
    Control(Control),
}

impl FrameReader {
    /// Decodes the kept bytes and the input; a message may have `limit` bytes.
    pub(super) fn decode<'a>(&'a mut self, input: &'a mut [u8], limit: usize) -> Decoder<'a> {
        let mut buffered = std::mem::take(&mut self.partial);
        if !buffered.is_empty() {
            buffered.extend_from_slice(input);
        }
        Decoder { reader: self, buffered, input, at: 0, limit, from_fragments: false }
    }
}

impl Decoder<'_> {
    /// The next complete message. `None` if the bytes are used up; an incomplete frame is kept for the next read.
    pub(super) fn next(&mut self) -> Result<Option<ClientMessage<'_>>, ProtocolError> {
        if std::mem::take(&mut self.from_fragments) {
            self.reader.fragments = Vec::new();
        }
        loop {
            let Some(header) = self.header()? else {
                self.buffer_rest();
                return Ok(None);
            };
            let bytes = if self.buffered.is_empty() { &mut *self.input } else { &mut self.buffered[..] };
            if header.payload.end > bytes.len() {
                self.buffer_rest();
                return Ok(None);
            }
            unmask(&mut bytes[header.payload.clone()], header.mask);
            self.at = header.payload.end;
            match header.kind {
                Opcode::Control(control) => return self.control(control, header.payload).map(Some),
                Opcode::Data(kind) if header.is_final => return self.whole(kind, header.payload).map(Some),
                Opcode::Data(kind) => {
                    self.reader.fragmented = Some(kind);
                    self.append(header.payload);
                }
                Opcode::Continue => {
                    self.append(header.payload);
                    if header.is_final {
                        return self.reassembled().map(Some);
                    }
                }
            }
        }
    }

    /// Keeps the rest of the bytes for later.
    pub(super) fn stop(&mut self) {
        if std::mem::take(&mut self.from_fragments) {
            self.reader.fragments = Vec::new();
        }
        self.buffer_rest();
    }

    fn bytes(&self) -> &[u8] {
        if self.buffered.is_empty() { self.input } else { &self.buffered }
    }

    fn header(&self) -> Result<Option<Header>, ProtocolError> {
        let mut cursor = Cursor::new(&self.bytes()[self.at..]);
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|_| protocol_error(CloseCodeNumber::Protocol, "unknown opcode"))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(protocol_error(CloseCodeNumber::Protocol, "reserved bits set"));
        }
        let Some(mask) = header.mask else {
            return Err(protocol_error(CloseCodeNumber::Protocol, "frame not masked"));
        };
        let kind = self.opcode(&header, length)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let before = if matches!(kind, Opcode::Control(_)) { 0 } else { self.reader.fragments.len() };
        if length.saturating_add(before) > self.limit {
            return Err(protocol_error(CloseCodeNumber::Size, "message too large"));
        }
        let start = self.at + usize::try_from(cursor.position()).unwrap_or_default();
        Ok(Some(Header { kind, is_final: header.is_final, mask, payload: start..start + length }))
    }

    fn opcode(&self, header: &FrameHeader, length: u64) -> Result<Opcode, ProtocolError> {
        let fragmented = self.reader.fragmented.is_some();
        match header.opcode {
            OpCode::Control(control) if !header.is_final => {
                let _ = control;
                Err(protocol_error(CloseCodeNumber::Protocol, "fragmented control frame"))
            }
            OpCode::Control(_) if length > 125 => {
                Err(protocol_error(CloseCodeNumber::Protocol, "control frame too long"))
            }
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                Err(protocol_error(CloseCodeNumber::Protocol, "unknown opcode"))
            }
            OpCode::Control(control) => Ok(Opcode::Control(control)),
            OpCode::Data(Data::Continue) if fragmented => Ok(Opcode::Continue),
            OpCode::Data(Data::Continue) => {
                Err(protocol_error(CloseCodeNumber::Protocol, "continuation of nothing"))
            }
            OpCode::Data(_) if fragmented => {
                Err(protocol_error(CloseCodeNumber::Protocol, "continuation expected"))
            }
            OpCode::Data(Data::Text) => Ok(Opcode::Data(DataKind::Text)),
            OpCode::Data(Data::Binary) => Ok(Opcode::Data(DataKind::Binary)),
        }
    }

    fn append(&mut self, payload: std::ops::Range<usize>) {
        let bytes = if self.buffered.is_empty() { &*self.input } else { &self.buffered };
        self.reader.fragments.extend_from_slice(&bytes[payload]);
    }

    fn whole(
        &self,
        kind: DataKind,
        payload: std::ops::Range<usize>,
    ) -> Result<ClientMessage<'_>, ProtocolError> {
        message(kind, &self.bytes()[payload])
    }

    fn reassembled(&mut self) -> Result<ClientMessage<'_>, ProtocolError> {
        self.from_fragments = true;
        let kind = self.reader.fragmented.take().unwrap_or(DataKind::Binary);
        message(kind, &self.reader.fragments)
    }

    fn control(
        &self,
        control: Control,
        payload: std::ops::Range<usize>,
    ) -> Result<ClientMessage<'_>, ProtocolError> {
        let payload = &self.bytes()[payload];
        match control {
            Control::Close => close(payload).map(ClientMessage::Close),
            Control::Ping => Ok(ClientMessage::Ping(payload)),
            Control::Pong | Control::Reserved(_) => Ok(ClientMessage::Pong),
        }
    }

    fn buffer_rest(&mut self) {
        if self.buffered.is_empty() {
            self.reader.partial = self.input[self.at..].to_vec();
        } else {
            let mut rest = std::mem::take(&mut self.buffered);
            rest.drain(..self.at);
            self.reader.partial = rest;
        }
        self.at = 0;
        self.input = &mut [];
    }
}

fn message(kind: DataKind, payload: &[u8]) -> Result<ClientMessage<'_>, ProtocolError> {
    match kind {
        DataKind::Binary => Ok(ClientMessage::Binary(payload)),
        DataKind::Text if simdutf8::basic::from_utf8(payload).is_ok() => Ok(ClientMessage::Text(payload)),
        DataKind::Text => Err(protocol_error(CloseCodeNumber::Invalid, "text is not UTF-8")),
    }
}

fn close(payload: &[u8]) -> Result<Option<u16>, ProtocolError> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(protocol_error(CloseCodeNumber::Protocol, "close code cut short"))
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    if !CloseCode::from(code).is_allowed() {
        return Err(protocol_error(CloseCodeNumber::Protocol, "close code not allowed"));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(protocol_error(CloseCodeNumber::Invalid, "close reason is not UTF-8")),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n if n < 126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
        }
        frame.extend(mask);
        let mut masked = payload.to_vec();
        for (i, byte) in masked.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
        frame.extend(masked);
        frame
    }

    fn read_all(pieces: &[&[u8]]) -> Result<Vec<(char, Vec<u8>)>, ProtocolError> {
        let mut reader = FrameReader::default();
        let mut out = Vec::new();
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let mut decoder = reader.decode(&mut bytes, 1000);
            while let Some(message) = decoder.next()? {
                out.push(match message {
                    ClientMessage::Text(text) => ('t', text.to_vec()),
                    ClientMessage::Binary(bytes) => ('b', bytes.to_vec()),
                    ClientMessage::Ping(bytes) => ('p', bytes.to_vec()),
                    ClientMessage::Pong => ('o', Vec::new()),
                    ClientMessage::Close(code) => ('c', code.unwrap_or(0).to_be_bytes().to_vec()),
                });
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn decodes_any_fragmentation_and_split(
            text in "[a-zä]{0,300}", cut in 0usize..300, splits in prop::collection::vec(0usize..700, 0..6),
            mask in any::<[u8; 4]>(),
        ) {
            let payload = text.as_bytes();
            let cut = cut.min(payload.len());
            let wire = [
                client_frame(0x01, &payload[..cut], mask),
                client_frame(0x89, b"hey", mask),
                client_frame(0x80, &payload[cut..], mask),
                client_frame(0x82, payload, mask),
                client_frame(0x88, &1000u16.to_be_bytes(), mask),
            ].concat();
            let mut splits: Vec<usize> = splits.into_iter().map(|at| at.min(wire.len())).collect();
            splits.extend([0, wire.len()]);
            splits.sort_unstable();
            let pieces: Vec<&[u8]> = splits.windows(2).map(|w| &wire[w[0]..w[1]]).collect();
            let expected = vec![
                ('p', b"hey".to_vec()),
                ('t', payload.to_vec()),
                ('b', payload.to_vec()),
                ('c', 1000u16.to_be_bytes().to_vec()),
            ];
            prop_assert_eq!(read_all(&pieces), Ok(expected));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let at = at.min(bytes.len());
            let _ = read_all(&[&bytes[..at], &bytes[at..]]);
        }
    }

    #[test]
    fn closes_each_protocol_error_with_its_code() {
        let mask = [1, 2, 3, 4];
        let table: [(&str, Vec<u8>, u16); 11] = [
            ("not masked", vec![0x81, 0x01, b'x'], 1002),
            ("reserved bit", client_frame(0xC1, b"x", mask), 1002),
            ("unknown opcode", client_frame(0x83, b"x", mask), 1002),
            ("continuation of nothing", client_frame(0x80, b"x", mask), 1002),
            (
                "text within text",
                [client_frame(0x01, b"x", mask), client_frame(0x81, b"x", mask)].concat(),
                1002,
            ),
            ("long ping", client_frame(0x89, &[0; 126], mask), 1002),
            ("fragmented ping", client_frame(0x09, b"x", mask), 1002),
            ("bad close code", client_frame(0x88, &1005u16.to_be_bytes(), mask), 1002),
            ("cut close code", client_frame(0x88, b"x", mask), 1002),
            ("not UTF-8", client_frame(0x81, b"\xff\xff", mask), 1007),
            ("too large", vec![0x82, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1009),
        ];
        for (name, mut wire, code) in table {
            if name == "too large" {
                wire.extend(mask);
            }
            assert_eq!(read_all(&[&wire]).map_err(|protocol_error| protocol_error.code), Err(code), "{name}");
        }
    }
}
