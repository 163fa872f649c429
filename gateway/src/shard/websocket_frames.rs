//! Encodes the WebSocket frames (RFC 6455) of a server.

use bytes::Bytes;
use earshot_protocol::Encoding;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// A complete frame of the server.
fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = FrameHeader { is_final: true, opcode, ..FrameHeader::default() };
    let length = payload.len() as u64;
    let mut frame = Vec::with_capacity(header.len(length) + payload.len());
    // Writing into memory cannot fail.
    let _ = header.format(length, &mut frame);
    frame.extend_from_slice(payload);
    frame.into()
}

/// A text frame.
pub(super) fn text(payload: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Text), payload)
}

/// A binary frame.
pub(super) fn binary(payload: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Binary), payload)
}

/// A ping of the protocol, an empty reply, in its frame. It is the most frequent frame of idle connections and needs
/// no allocation.
pub(super) fn ping(encoding: Encoding) -> Bytes {
    Bytes::from_static(match encoding {
        Encoding::Json => b"\x81\x02{}",
        Encoding::Protobuf => b"\x82\x01\x00",
    })
}

/// A pong frame.
pub(super) fn pong(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Pong), payload)
}

/// A close frame; empty without a code.
pub(super) fn close_frame(code: Option<u16>, reason: &str) -> Bytes {
    let payload = code.map_or_else(Vec::new, |code| [&code.to_be_bytes(), reason.as_bytes()].concat());
    frame(OpCode::Control(Control::Close), &payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use earshot_protocol::{Reply, ReplyBody};

    #[test]
    fn ping_equals_the_encoded_reply() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mut payload = Vec::new();
            encoding.encode_reply(&Reply { id: 0, body: ReplyBody::Ping }, &mut payload);
            let whole = match encoding {
                Encoding::Json => text(&payload),
                Encoding::Protobuf => binary(&payload),
            };
            assert_eq!(ping(encoding), whole);
        }
    }
}
