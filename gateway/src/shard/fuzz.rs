//! The entry point of a fuzz target.

use super::websocket::{FrameReader, Message, ProtocolError};

/// The size of a message in the target.
const LIMIT: usize = 1000;

/// Decodes the frames of a client in one read, and in reads of `read_bytes`.
///
/// # Panics
/// If the messages differ.
pub fn websocket_frames(frames: &[u8], read_bytes: usize) {
    let whole = decode(std::iter::once(frames));
    assert_eq!(whole, decode(frames.chunks(read_bytes)));
}

/// The messages, as text, and the error that ends them.
fn decode<'a>(reads: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Option<ProtocolError>) {
    let (mut reader, mut messages) = (FrameReader::default(), Vec::new());
    for bytes in reads {
        let mut bytes = bytes.to_vec();
        let mut decoder = reader.decode(&mut bytes, LIMIT);
        loop {
            match decoder.next() {
                Ok(Some(message @ (Message::Text(bytes) | Message::Binary(bytes)))) => {
                    assert!(bytes.len() <= LIMIT);
                    messages.push(format!("{message:?}"));
                }
                Ok(Some(message)) => messages.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
