//! A hand-written SSE client: parses a chunked response as `EventSource` does. It must never hide how a stream ended.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::http::{Raw, Response};
use super::within_timeout;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// `message` if the event has no name.
    pub(crate) name: String,
    pub(crate) data: String,
    /// The last event id.
    pub(crate) id: String,
}

/// The next item of a stream.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Event),
    /// The last chunk: the gateway completed the response.
    End,
    /// The connection was lost before the last chunk.
    Broken(io::Error),
}

/// An open stream.
pub(crate) struct SseClient {
    raw: Raw,
    parser: Parser,
    pub(crate) head: Response,
}

impl SseClient {
    /// Opens a stream and waits for its `subscribed` event.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        let stream = within_timeout("connect", TcpStream::connect(address)).await.unwrap();
        Self::open_over(Raw::over(stream), path).await
    }

    /// Opens a stream on an existing connection.
    pub(crate) async fn open_over(raw: Raw, path: &str) -> Self {
        Self::begin(raw, path, "").await.0
    }

    /// Opens a stream with additional header lines.
    pub(crate) async fn open_with(raw: Raw, path: &str, lines: &str) -> Self {
        Self::begin(raw, path, lines).await.0
    }

    /// Reconnects with `Last-Event-ID`, as `EventSource` does; also returns the `subscribed` event.
    pub(crate) async fn resume(address: SocketAddr, path: &str, last: &str) -> (Self, Event) {
        Self::resume_over(Raw::connect(address).await, path, last).await
    }

    /// Reconnects with `Last-Event-ID` on an existing connection.
    pub(crate) async fn resume_over(raw: Raw, path: &str, last: &str) -> (Self, Event) {
        Self::begin(raw, path, &format!("Last-Event-ID: {last}\r\n")).await
    }

    /// Opens a stream; also returns the `subscribed` event.
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> (Self, Event) {
        Self::begin(Raw::connect(address).await, path, "").await
    }

    /// Opens a stream at a gateway that may be down, with the last event id if there is one; returns `None` if it is.
    pub(crate) async fn try_begin(
        address: SocketAddr,
        path: &str,
        last: Option<&str>,
    ) -> Option<(Self, Event)> {
        let raw = Raw::over(within_timeout("connect", TcpStream::connect(address)).await.ok()?);
        let line = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        Self::try_begin_over(raw, path, &line).await.ok()
    }

    async fn begin(raw: Raw, path: &str, line: &str) -> (Self, Event) {
        Self::try_begin_over(raw, path, line).await.unwrap()
    }

    async fn try_begin_over(mut raw: Raw, path: &str, line: &str) -> io::Result<(Self, Event)> {
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{line}\r\n"
        ))
        .await;
        let head = raw.head().await?;
        assert_eq!(head.status, 200, "GET {path}");
        let mut client = Self { raw, parser: Parser::default(), head };
        match client.next().await {
            Next::Event(event) if event.name == "subscribed" => Ok((client, event)),
            Next::Broken(error) => Err(error),
            // The gateway asks for a retry.
            Next::Event(event) if event.name == "error" => Err(io::Error::other(event.data)),
            other => panic!("GET {path}: not `subscribed`: {other:?}"),
        }
    }

    /// The next event. Panics if the stream ends.
    pub(crate) async fn event(&mut self) -> Event {
        // The timeout covers the whole wait, because heartbeats keep bytes coming.
        match within_timeout("an event", self.next()).await {
            Next::Event(event) => event,
            end => panic!("the stream ended: {end:?}"),
        }
    }

    /// The data of the next event, which must have this name.
    pub(crate) async fn data(&mut self, name: &str) -> String {
        let event = self.event().await;
        assert_eq!(event.name, name, "{event:?}");
        event.data
    }

    pub(crate) async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.parser.next() {
                return Next::Event(event);
            }
            match self.raw.chunk().await {
                Ok(last) if last.is_empty() => return Next::End,
                Ok(chunk) => self.parser.take(&chunk),
                Err(error) => return Next::Broken(error),
            }
        }
    }
}

/// A parser for event streams (WHATWG HTML) over any split of the input.
#[derive(Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    name: String,
    data: String,
    id: String,
}

impl Parser {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while let Some(line) = self.line() {
            if line.is_empty() {
                if let Some(event) = self.dispatch() {
                    return Some(event);
                }
            } else {
                self.field(&line);
            }
        }
        None
    }

    fn line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n' || byte == b'\r')?;
        let terminator = match (self.buffer[end], self.buffer.get(end + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r', None) => return None,
            _ => 1,
        };
        let line: Vec<u8> = self.buffer.drain(..end + terminator).take(end).collect();
        Some(String::from_utf8(line).unwrap())
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { name, data, id: self.id.clone() })
    }
}
