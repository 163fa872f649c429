//! Encoding a publication, once for each form: beside a copy of the bytes that come out.

use bytes::Bytes;
use earshot::node::publication::{FrameEncoding, Publication};
use earshot::shard::bench::encode;
use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};

use crate::race::{Race, of};

pub(crate) fn run(race: &Race) {
    for (size, label) in [(128, "128 B"), (4096, "4 KiB")] {
        for (form, name) in [
            (FrameEncoding::WebSocketJson, "WebSocket JSON"),
            (FrameEncoding::WebSocketProtobuf, "WebSocket Protobuf"),
            (FrameEncoding::SseSingle, "SSE"),
        ] {
            let publication = publication(size);
            let frame = encode(form, &publication);
            race.run(
                &format!("encode: {name}, {label}"),
                of(|| encode(form, &publication)),
                "a copy of the frame",
                of(|| Bytes::copy_from_slice(&frame)),
            );
        }
    }
}

/// JSON of so many bytes.
pub(crate) fn payload(size: usize) -> Bytes {
    let text = "x".repeat(size - 12);
    format!(r#"{{"text":"{text}"}}"#).into()
}

fn publication(size: usize) -> Publication {
    let position = StreamPosition { epoch: Epoch::from_u64(7), offset: 1234 };
    Publication::new(ChannelName::parse("web-signals").unwrap(), position, Payload::new(payload(size)))
}
