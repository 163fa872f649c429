//! Blocking connection to the server of the `kernel-baseline` scenario: channel and payload, no reply.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Outgoing;
use super::error::IO_TIMEOUT;

/// First bytes of a publisher, which distinguish it from a subscriber.
pub(crate) const PUBLISHER_HELLO: &str = "PUBLISH\r\n\r\n";

/// An open connection.
#[derive(Debug)]
pub(crate) struct BaselineConnection {
    stream: TcpStream,
}

impl BaselineConnection {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, IO_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.write_all(PUBLISHER_HELLO.as_bytes())?;
        Ok(Self { stream })
    }

    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in batch {
            write(message.channel, &message.payload, &mut bytes);
        }
        self.stream.write_all(&bytes)
    }
}

fn write(channel: &str, payload: &[u8], out: &mut Vec<u8>) {
    for length in [channel.len(), payload.len()] {
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    out.extend_from_slice(channel.as_bytes());
    out.extend_from_slice(payload);
}

/// Parses one message from the front: channel, payload and length in bytes. `None` if incomplete.
pub(crate) fn read(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (lengths, rest) = bytes.split_first_chunk::<8>()?;
    let length =
        |at: usize| u32::from_be_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]);
    let (channel, payload) = (length(0) as usize, length(4) as usize);
    let content = rest.get(..channel.checked_add(payload)?)?;
    let (channel, payload) = content.split_at(channel);
    Some((channel, payload, 8 + content.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_messages_are_read_when_complete() {
        let mut bytes = Vec::new();
        write("c0", b"hello", &mut bytes);
        assert_eq!(read(&bytes), Some((&b"c0"[..], &b"hello"[..], 15)));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), None);
        }
    }
}
