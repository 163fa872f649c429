//! Parses push messages of Redis into a batch, compared with a reader that only copies channel and payload.

use std::hint::black_box;

use bytes::Bytes;
use earshot::broker::BrokerMessage;
use earshot::broker::redis::bench::PushReader;

use crate::comparison::{Comparison, repeated_batch};
use crate::encode::payload;

/// Messages in one batch.
const BATCH: usize = 256;

pub(crate) fn run(comparison: &Comparison) {
    for (size, label) in [(128, "128 B"), (4096, "4 KiB")] {
        let wire = wire(&payload(size));
        let reader = PushReader::default();
        let mut batch = Vec::with_capacity(BATCH);
        comparison.run(
            &format!("receive: a push message, {label}"),
            repeated_batch(BATCH, || {
                for _ in 0..BATCH {
                    assert!(reader.read(&wire));
                }
                assert!(reader.take(&mut batch, BATCH));
                batch.clear();
            }),
            "a copy of channel and payload",
            repeated_batch(BATCH, || {
                for _ in 0..BATCH {
                    black_box(read(&wire).unwrap());
                }
            }),
        );
    }
}

fn wire(payload: &[u8]) -> Vec<u8> {
    let mut wire = b">3\r\n$7\r\nmessage\r\n$11\r\nweb-signals\r\n".to_vec();
    wire.extend(format!("${}\r\n", payload.len()).as_bytes());
    wire.extend(payload);
    wire.extend(b"\r\n");
    wire
}

/// Parses only this kind of message.
fn read(wire: &[u8]) -> Option<BrokerMessage> {
    let rest = wire.strip_prefix(b">3\r\n")?;
    let (_, rest) = bulk(rest)?;
    let (channel, rest) = bulk(rest)?;
    let (data, _) = bulk(rest)?;
    let channel = std::str::from_utf8(channel).ok()?.to_owned();
    Some(BrokerMessage { channel, data: Bytes::copy_from_slice(data) })
}

fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let digits = rest.iter().position(|byte| *byte == b'\r')?;
    let length = rest[..digits].iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    let rest = rest.get(digits + 2..)?;
    Some((rest.get(..length)?, rest.get(length + 2..)?))
}
