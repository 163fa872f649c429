//! Hand-written WebSocket frames: sets any bits, and shows received frames unchanged.

use std::io;
use std::net::SocketAddr;

use super::http::{Raw, Response};

const FIN: u8 = 0x80;
pub(crate) const TEXT: u8 = FIN | 0x1;
pub(crate) const BINARY: u8 = FIN | 0x2;
pub(crate) const CLOSE: u8 = FIN | 0x8;
pub(crate) const PING: u8 = FIN | 0x9;
pub(crate) const PONG: u8 = FIN | 0xA;

/// The first byte of a frame that is not the final one of its message.
pub(crate) const fn unfinished(first: u8) -> u8 {
    first & !FIN
}

/// The first byte of the final continuation frame of a message.
pub(crate) const LAST: u8 = FIN;

/// The opening request of a WebSocket, with these header lines instead of the usual ones.
pub(crate) fn handshake(path: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n"
    )
}

pub(crate) const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const VERSION: &str = "Sec-WebSocket-Version: 13";

/// A masked client frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), true);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame without a mask, which a client must not send.
pub(crate) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), false);
    frame.extend(payload);
    frame
}

/// The header of a frame: first byte, mask bit and length.
pub(crate) fn head(first: u8, length: usize, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    match length {
        0..126 => vec![first, mask | u8::try_from(length).unwrap()],
        126..=0xffff => [&[first, mask | 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &u64::try_from(length).unwrap().to_be_bytes()].concat(),
    }
}

/// A WebSocket with hand-written frames.
pub(crate) struct RawWebSocket {
    raw: Raw,
    pub(crate) head: Response,
}

/// A frame from the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl RawWebSocket {
    /// Opens a WebSocket at `/ws`.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, "/ws", &[]).await
    }

    /// Opens a WebSocket with additional header lines.
    pub(crate) async fn open_with(address: SocketAddr, path: &str, lines: &[&str]) -> Self {
        let mut raw = Raw::connect(address).await;
        raw.send(handshake(path, &[&[KEY, VERSION], lines].concat())).await;
        let head = raw.head().await.unwrap();
        assert_eq!(head.status, 101, "{head:?}");
        Self { raw, head }
    }

    /// Opens a WebSocket and completes its connect command.
    pub(crate) async fn connected(address: SocketAddr) -> Self {
        let mut socket = Self::open(address).await;
        socket.text(r#"{"id":1,"connect":{}}"#).await;
        let reply = socket.frame().await.unwrap();
        assert!(reply.payload.starts_with(br#"{"id":1,"connect":{"client":""#), "{reply:?}");
        socket
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.send(frame(TEXT, text.as_bytes())).await;
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.raw.send(bytes).await;
    }

    /// The next frame from the gateway.
    pub(crate) async fn frame(&mut self) -> io::Result<Frame> {
        let [first, length] = self.raw.exactly(2).await?[..] else { unreachable!() };
        let length = match length {
            126 => usize::from(u16::from_be_bytes(self.raw.exactly(2).await?.try_into().unwrap())),
            127 => {
                usize::try_from(u64::from_be_bytes(self.raw.exactly(8).await?.try_into().unwrap())).unwrap()
            }
            short => usize::from(short),
        };
        assert!(length < 1 << 24, "masked or oversized frame: {first:#x} {length}");
        Ok(Frame { first, payload: self.raw.exactly(length).await? })
    }

    /// Reads until the close frame: its code and reason. `None` if the connection ends without one.
    pub(crate) async fn close(&mut self) -> Option<(u16, String)> {
        loop {
            let frame = self.frame().await.ok()?;
            if frame.first == CLOSE {
                let (code, reason) = frame.payload.split_at_checked(2)?;
                let code = u16::from_be_bytes(code.try_into().unwrap());
                return Some((code, String::from_utf8(reason.to_vec()).unwrap()));
            }
        }
    }

    /// Waits for more bytes; returns whether the gateway closed the connection without sending any.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.raw.is_closed().await
    }
}
