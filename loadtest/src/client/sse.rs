//! One `EventSource`: a GET, and the events of its answer. Knows no HTTP library and never reconnects.

use std::io;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::events::{Event, EventReader};
use super::http::{HttpError, Response};
use super::{ClientError, ClientPlan};
use crate::tally::Subscriber;

/// What a path may hold as it is is left as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What is read at once. It lives on the stack, so that a connection that waits owns no buffer.
const READ_BYTES: usize = 16 * 1024;

/// An open stream.
#[derive(Debug)]
pub(crate) struct SseClient {
    stream: TcpStream,
    decoder: Decoder,
}

/// From bytes to what a subscriber is told.
#[derive(Debug, Default)]
struct Decoder {
    response: Response,
    events: EventReader,
    subscribed: bool,
    error: Option<String>,
}

impl SseClient {
    /// Asks for the stream, and waits for its `subscribed` event.
    pub(super) async fn open(
        mut stream: TcpStream,
        plan: &ClientPlan,
        subscriber: &Subscriber,
    ) -> Result<Self, ClientError> {
        let channel = utf8_percent_encode(&plan.channel, ENCODED);
        let host = plan.target.authority();
        let request = format!(
            "GET /sse/{channel} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\nCache-Control: no-store\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut client = Self { stream, decoder: Decoder::default() };
        while !client.decoder.subscribed {
            client.read(subscriber).await?;
        }
        Ok(client)
    }

    /// Hears until the stream ends.
    pub(super) async fn listen(mut self, subscriber: &Subscriber) -> ClientError {
        loop {
            if let Err(error) = self.read(subscriber).await {
                return error;
            }
        }
    }

    async fn read(&mut self, subscriber: &Subscriber) -> Result<(), ClientError> {
        self.stream.readable().await?;
        match read_now(&self.stream, &mut self.decoder, subscriber) {
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

/// Not `async`, so that the buffer is no part of any future.
fn read_now(stream: &TcpStream, decoder: &mut Decoder, subscriber: &Subscriber) -> Result<(), ClientError> {
    let mut buffer = [0; READ_BYTES];
    let count = stream.try_read(&mut buffer)?;
    if count == 0 {
        return Err(decoder.ended("the connection ended"));
    }
    decoder.feed(&buffer[..count], Instant::now(), subscriber)?;
    match decoder.response.status() {
        Some(status) if status != 200 => Err(ClientError::Status(status)),
        Some(_) if decoder.response.is_done() => Err(decoder.ended("the stream ended")),
        _ => Ok(()),
    }
}

impl Decoder {
    fn feed(&mut self, input: &[u8], now: Instant, subscriber: &Subscriber) -> Result<(), HttpError> {
        let Self { response, events, subscribed, error } = self;
        let mut tell = |event: Event<'_>| match event.name {
            b"" => subscriber.heard(event.data, now),
            b"subscribed" => *subscribed = true,
            b"gap" => subscriber.gap(),
            b"error" => *error = Some(String::from_utf8_lossy(event.data).into_owned()),
            _ => {}
        };
        response.feed(input, |body| events.feed(body, &mut tell)).map(|_| ())
    }

    /// How it ended: the gateway's own words, where it said any.
    fn ended(&mut self, otherwise: &str) -> ClientError {
        ClientError::Closed(self.error.take().unwrap_or_else(|| otherwise.to_owned()))
    }
}
