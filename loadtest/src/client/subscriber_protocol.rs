//! Protocol of a subscriber's connection: the request that opens it, and the processing of all bytes after it. Pure:
//! bytes in, bytes out.

use earshot_client::centrifuge::RecoveryPosition;
use earshot_client::http1::{ResponseParser, WEBSOCKET_KEY};
use earshot_client::sse::{SseEvent, SseParser};
use earshot_protocol::Encoding;
use memchr::memmem;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::centrifuge::CentrifugeSession;
use super::frames::{ClientFrameReader, FrameMessage, write_frame};
use super::{ClientError, Transport};
use crate::tally::TallyRecorder;
use crate::target::BenchTarget;

/// Start of each message of the load test.
const STAMP_PREFIX: &[u8] = br#"{"run":"#;

/// Where a subscriber resumes after a reconnect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ResumePoint {
    /// From now on; earlier messages are not expected.
    #[default]
    Live,
    /// Stream position of the Centrifuge protocol.
    Position(RecoveryPosition),
    /// After this event id of an event stream.
    EventId(Vec<u8>),
}

/// Protocol of one connection.
#[derive(Debug)]
pub(super) enum SubscriberProtocol {
    /// Event stream.
    Events(Box<EventStream>),
    /// WebSocket during the handshake.
    Upgrading(Box<PendingUpgrade>),
    /// Established WebSocket.
    Socket(ClientFrameReader, SocketProtocol),
}

/// Protocol over a WebSocket.
#[derive(Debug)]
pub(super) enum SocketProtocol {
    /// Centrifuge client protocol.
    Centrifuge(Box<CentrifugeSession>),
    /// Plain messages, possibly embedded in other text.
    Plain,
}

/// Event stream.
#[derive(Debug)]
pub(super) struct EventStream {
    response: ResponseParser,
    events: SseParser,
    /// The target confirms the subscription with an event.
    announces_subscription: bool,
    recovering: bool,
    subscribed: bool,
    error: Option<String>,
}

/// WebSocket handshake in progress.
#[derive(Debug)]
pub(super) struct PendingUpgrade {
    response: ResponseParser,
    protocol: SocketProtocol,
    channel: String,
    hello: Vec<String>,
}

impl SubscriberProtocol {
    /// Creates the protocol state and the request that opens the connection.
    pub(super) fn open(
        target: &BenchTarget,
        channel: &str,
        transport: Transport,
        resume_point: ResumePoint,
    ) -> (Self, Vec<u8>) {
        match transport {
            Transport::Sse => Self::open_stream(target, channel, resume_point),
            Transport::WebSocket(encoding) => Self::open_socket(target, channel, encoding, resume_point),
        }
    }

    fn open_socket(
        target: &BenchTarget,
        channel: &str,
        encoding: Encoding,
        resume_point: ResumePoint,
    ) -> (Self, Vec<u8>) {
        let centrifuge = target.kind().speaks_centrifuge();
        let protocol = match encoding {
            Encoding::Protobuf if centrifuge => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
            _ => "",
        };
        let (path, host) = (target.websocket_path(channel), target.authority());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\nSec-WebSocket-Version: 13\r\n{protocol}\r\n"
        );
        let protocol = if centrifuge {
            let resume_point = if let ResumePoint::Position(resume_point) = resume_point {
                resume_point
            } else {
                RecoveryPosition::default()
            };
            SocketProtocol::Centrifuge(Box::new(CentrifugeSession::new(encoding, resume_point)))
        } else {
            SocketProtocol::Plain
        };
        let (channel, hello) = (channel.to_owned(), target.hello(channel));
        let pending = PendingUpgrade { response: ResponseParser::default(), protocol, channel, hello };
        (Self::Upgrading(Box::new(pending)), request.into_bytes())
    }

    fn open_stream(target: &BenchTarget, channel: &str, resume_point: ResumePoint) -> (Self, Vec<u8>) {
        let id = if let ResumePoint::EventId(id) = resume_point { id } else { Vec::new() };
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nCache-Control: no-store\r\n",
            target.sse_path(channel),
            target.authority(),
        )
        .into_bytes();
        if !id.is_empty() {
            request.extend_from_slice(b"Last-Event-ID: ");
            request.extend_from_slice(&id);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let stream = EventStream {
            response: ResponseParser::default(),
            events: SseParser::resuming_from(&id),
            announces_subscription: target.kind().announces_streams(),
            recovering: !id.is_empty(),
            subscribed: false,
            error: None,
        };
        (Self::Events(Box::new(stream)), request)
    }

    /// Whether every message published from now on is expected.
    pub(super) fn is_subscribed(&self) -> bool {
        match self {
            Self::Events(stream) => stream.subscribed,
            Self::Upgrading(_) => false,
            Self::Socket(_, SocketProtocol::Centrifuge(session)) => session.is_subscribed(),
            Self::Socket(_, SocketProtocol::Plain) => true,
        }
    }

    /// Position to resume from.
    pub(super) fn resume_point(&self) -> ResumePoint {
        match self {
            Self::Events(stream) if !stream.events.last_id().is_empty() => {
                ResumePoint::EventId(stream.events.last_id().to_vec())
            }
            Self::Socket(_, SocketProtocol::Centrifuge(session)) => {
                ResumePoint::Position(session.position().clone())
            }
            _ => ResumePoint::Live,
        }
    }

    /// Why the connection ended: the reason of the server, if it sent one.
    pub(super) fn close_reason(&mut self) -> ClientError {
        let reason = if let Self::Events(stream) = self { stream.error.take() } else { None };
        ClientError::Closed(reason.unwrap_or_else(|| "the connection ended".to_owned()))
    }

    /// Unsubscribes or subscribes. False if the protocol has no such command.
    pub(super) fn toggle(&mut self, subscribe: bool, channel: &str, out: &mut Vec<u8>) -> bool {
        let Self::Socket(_, SocketProtocol::Centrifuge(session)) = self else { return false };
        if subscribe {
            session.subscribe(channel, out);
        } else {
            session.unsubscribe(channel, out);
        }
        true
    }

    /// Processes received bytes; replies are appended to `out`.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        recorder: &mut TallyRecorder<'_>,
    ) -> Result<(), ClientError> {
        match self {
            Self::Events(stream) => stream.feed(input, recorder),
            Self::Socket(frames, protocol) => {
                frames.feed(input, |message| protocol.on_message(message, out, recorder))
            }
            Self::Upgrading(pending) => {
                let rest = pending.response.feed(input, |_| {})?;
                match pending.response.status() {
                    None => return Ok(()),
                    Some(101) if pending.response.accepts_websocket() => {}
                    Some(101) => return Err(ClientError::NotAccepted),
                    Some(status) => return Err(ClientError::Status(status)),
                }
                let mut protocol = std::mem::replace(&mut pending.protocol, SocketProtocol::Plain);
                if let SocketProtocol::Centrifuge(session) = &mut protocol {
                    session.write_connect(&pending.channel, out);
                }
                for text in &pending.hello {
                    write_frame(OpCode::Data(Data::Text), text.as_bytes(), out);
                }
                *self = Self::Socket(ClientFrameReader::default(), protocol);
                self.feed(rest, out, recorder)
            }
        }
    }
}

impl SocketProtocol {
    fn on_message(
        &mut self,
        message: FrameMessage<'_>,
        out: &mut Vec<u8>,
        recorder: &mut TallyRecorder<'_>,
    ) -> Result<(), ClientError> {
        match (message, self) {
            (FrameMessage::Data(data), Self::Centrifuge(session)) => {
                session.on_message(data, out, recorder)?
            }
            (FrameMessage::Data(data), Self::Plain) => record_embedded(data, recorder),
            (FrameMessage::Ping(data), _) => write_frame(OpCode::Control(Control::Pong), data, out),
            (FrameMessage::Close(0, _), _) => {
                return Err(ClientError::Closed("closed without a code".to_owned()));
            }
            (FrameMessage::Close(code, reason), _) => {
                return Err(ClientError::Closed(format!("{code} {}", String::from_utf8_lossy(reason))));
            }
        }
        Ok(())
    }
}

/// Records stamped messages inside the data of a server that may embed them in other text.
fn record_embedded(data: &[u8], recorder: &mut TallyRecorder<'_>) {
    if data.len() == recorder.run.size {
        return recorder.record_payload(data);
    }
    let mut rest = data;
    while let Some(start) = memmem::find(rest, STAMP_PREFIX) {
        let end = (start + recorder.run.size).min(rest.len());
        recorder.record_payload(&rest[start..end]);
        rest = &rest[end..];
    }
}

impl EventStream {
    fn feed(&mut self, input: &[u8], recorder: &mut TallyRecorder<'_>) -> Result<(), ClientError> {
        let Self { response, events, announces_subscription, recovering, subscribed, error } = self;
        let plain = !*announces_subscription;
        let mut on_event = |event: SseEvent<'_>| match event.name {
            _ if plain => record_embedded(event.data, recorder),
            b"" => recorder.record_payload(event.data),
            b"subscribed" => {
                if std::mem::take(recovering) {
                    recorder.record_recovery(memmem::find(event.data, br#""recovered":true"#).is_some());
                }
                *subscribed = true;
            }
            b"gap" => recorder.record_gap(),
            b"error" => *error = Some(String::from_utf8_lossy(event.data).into_owned()),
            _ => {}
        };
        response.feed(input, |body| events.feed(body, &mut on_event))?;
        match response.status() {
            Some(200) if response.is_done() => {
                let reason = self.error.take().unwrap_or_else(|| "the stream ended".to_owned());
                Err(ClientError::Closed(reason))
            }
            Some(200) => {
                self.subscribed |= plain;
                Ok(())
            }
            Some(status) => Err(ClientError::Status(status)),
            None => Ok(()),
        }
    }
}
