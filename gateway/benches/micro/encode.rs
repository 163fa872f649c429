//! Encodes a publication in each frame encoding, compared with a copy of the encoded bytes.

use bytes::Bytes;
use earshot::node::publication::{FrameEncoding, Publication};
use earshot::shard::bench::encode;
use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};

use crate::comparison::{Comparison, repeated};

pub(crate) fn run(comparison: &Comparison) {
    for (size, label) in [(128, "128 B"), (4096, "4 KiB")] {
        for (encoding, name) in [
            (FrameEncoding::WebSocketJson, "WebSocket JSON"),
            (FrameEncoding::WebSocketProtobuf, "WebSocket Protobuf"),
            (FrameEncoding::SseSingle, "SSE"),
        ] {
            let publication = publication(size);
            let frame = encode(encoding, &publication);
            comparison.run(
                &format!("encode: {name}, {label}"),
                repeated(|| encode(encoding, &publication)),
                "a copy of the frame",
                repeated(|| Bytes::copy_from_slice(&frame)),
            );
        }
    }
}

/// A JSON object of `size` bytes.
pub(crate) fn payload(size: usize) -> Bytes {
    let text = "x".repeat(size - 12);
    format!(r#"{{"text":"{text}"}}"#).into()
}

fn publication(size: usize) -> Publication {
    let position = StreamPosition { epoch: Epoch::from_u64(7), offset: 1234 };
    Publication::new(ChannelName::parse("web-signals").unwrap(), position, Payload::new(payload(size)))
}
