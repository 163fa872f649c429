//! Bare sockets and the bytes that a client writes and reads.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use super::heap::TIMEOUT;

pub(crate) const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A connection with a small receive buffer in the kernel, so that unread bytes wait in the gateway.
pub(crate) fn connect(address: SocketAddr, receive: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(receive).unwrap();
    socket.connect(&address.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// A text message, with a mask of zeros.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    let mut frame = vec![0x81, 0xfe, length[0], length[1], 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Reads until the bytes contain `word` and end with `end`.
pub(crate) fn read_until(socket: &mut TcpStream, end: &[u8], word: &[u8]) -> String {
    let (mut response, mut chunk) = (Vec::new(), [0; 4096]);
    while !(response.ends_with(end) && response.windows(word.len()).any(|window| window == word)) {
        let read = socket.read(&mut chunk).unwrap();
        assert!(read > 0, "closed: {}", String::from_utf8_lossy(&response));
        response.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&response).into_owned()
}
