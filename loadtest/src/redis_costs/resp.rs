//! Plain RESP connections that subscribe and discard what they receive. Blocking and in lock-step with the publisher:
//! the length of each reply is known in advance, so replies are not parsed.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Time limit for each reply.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the read buffer.
const BUFFER_BYTES: usize = 64 * 1024;
/// Channels per `SUBSCRIBE`, as in the gateway.
pub(super) const SUBSCRIBE_CHUNK: u32 = 500;

/// A connection to Redis.
#[derive(Debug)]
pub(super) struct RespConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RespConnection {
    pub(super) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES] })
    }

    pub(super) fn write(&mut self, words: &[u8]) -> io::Result<()> {
        self.stream.write_all(words)
    }

    /// Reads and discards exactly this many bytes. The last byte must end a line, otherwise the reply was not the
    /// expected one.
    pub(super) fn discard(&mut self, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let most = left.min(BUFFER_BYTES);
            let count = match self.stream.read(&mut self.buffer[..most]) {
                // The kernel does not restart a read with a timeout after SIGSTOP and SIGCONT.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count;
            if left == 0 && self.buffer[count - 1] != b'\n' {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected reply"));
            }
        }
        Ok(())
    }
}

/// Encodes a command.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Length of the message that a subscriber receives.
pub(super) fn message_bytes(channel: &str, payload: &[u8]) -> usize {
    command(&[b"message", channel.as_bytes(), payload]).len()
}

/// Length of the confirmation of the `count`-th subscription of a connection.
pub(super) fn confirmation_bytes(channel: &str, count: u32) -> usize {
    command(&[b"subscribe", channel.as_bytes()]).len() + format!(":{count}\r\n").len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_lengths_match_redis() {
        assert_eq!(command(&[b"PING"]), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(message_bytes("c", b"hello"), b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhello\r\n".len());
        assert_eq!(confirmation_bytes("c", 12), b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:12\r\n".len());
    }
}
