//! A hand-written HTTP/1.1 client that sends any bytes and shows all bytes received.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within_timeout;

/// A response: its head, and its body according to its framing.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header; `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A connection that sends any bytes.
pub(crate) struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(within_timeout("connect", TcpStream::connect(address)).await.unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes. Ignores a closed connection: its response may still be readable.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(within_timeout("send", self.stream.write_all(bytes.as_ref())).await);
    }

    /// Shuts down the write side.
    pub(crate) async fn finish(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Reads into the buffer; returns `false` at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        let read = within_timeout("bytes from the gateway", self.stream.read(&mut chunk)).await?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read > 0)
    }

    /// Bytes that were read and not taken.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// How many bytes are in the kernel's receive buffer; they stay there.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 1 << 20];
        socket2::SockRef::from(&self.stream).peek(&mut buffer).unwrap_or(0)
    }

    /// Takes bytes from the front of the buffer.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.buffer.drain(..bytes).collect()
    }

    /// Reads until the buffer has this many bytes, and takes them.
    pub(crate) async fn exactly(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.take(bytes))
    }

    /// Reads one line; returns it without its CRLF.
    async fn line(&mut self) -> io::Result<String> {
        let end = loop {
            match self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => break end,
                None if self.fill().await? => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        let mut line = self.take(end + 2);
        line.truncate(end);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// The head of a response; its body stays in the stream.
    pub(crate) async fn head(&mut self) -> io::Result<Response> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {first}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// One chunk of a chunked body; the last one is empty. Cancel-safe.
    pub(crate) async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(chunk) = self.buffered_chunk()? {
                return Ok(chunk);
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next chunk, if it is complete.
    fn buffered_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(start) = self.buffer.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = String::from_utf8_lossy(&self.buffer[..start]).into_owned();
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let end = start + 2 + size;
        let Some(terminator) = self.buffer.get(end..end + 2) else { return Ok(None) };
        assert_eq!(terminator, b"\r\n", "a chunk ends with CRLF");
        let mut chunk = self.take(end + 2);
        chunk.truncate(end);
        Ok(Some(chunk.split_off(start + 2)))
    }

    /// A whole response.
    pub(crate) async fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head().await?;
        let chunked = response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        if chunked {
            loop {
                match self.chunk().await? {
                    last if last.is_empty() => return Ok(response),
                    chunk => response.body.extend(chunk),
                }
            }
        }
        let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        response.body = self.exactly(length).await?;
        Ok(response)
    }

    /// Waits for more bytes; returns whether the peer closed the connection without sending any.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !matches!(self.fill().await, Ok(true))
    }
}

/// Sends a `GET` and returns the response.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> Response {
    try_fetch(address, path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Sends a `GET` to a server that may be down.
pub(crate) async fn try_fetch(address: SocketAddr, path: &str) -> io::Result<Response> {
    let mut raw = Raw::over(within_timeout("connect", TcpStream::connect(address)).await?);
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await;
    let response = raw.response().await?;
    // Until the server has closed the connection, the connection counts towards its limits.
    raw.is_closed().await;
    Ok(response)
}

/// Sends a `POST` of JSON with additional header lines.
pub(crate) async fn post(address: SocketAddr, path: &str, headers: &[&str], body: &str) -> Response {
    let mut raw = Raw::connect(address).await;
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    raw.send(format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{more}\r\n{body}"
    ))
    .await;
    let response = raw.response().await.unwrap_or_else(|error| panic!("POST {path}: {error}"));
    raw.is_closed().await;
    response
}
