//! A client over a WebSocket: it subscribes again from where it stands when it is told of a gap, and comes back when its
//! connection ends, as the SDKs do.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{
    Command, ConnectRequest, Encoding, Publication, Push, PushBody, Reply, ReplyBody, Request,
    SubscribeRequest, SubscribeResult,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{End, Listener, Transport};
use crate::drill::http::Target;

/// How long before coming back, and before asking again for a channel that is refused for the moment.
const RETRY: std::ops::Range<u64> = 100..500;
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where a client stands in a channel.
#[derive(Clone, Debug, Default)]
struct Position {
    epoch: String,
    offset: u64,
    /// It was subscribed once, so there is something to come back to.
    known: bool,
}

/// The state that outlives a connection.
pub(super) struct Socket<'a> {
    listener: &'a Listener,
    target: &'a Target,
    encoding: Encoding,
    positions: Vec<Position>,
}

impl<'a> Socket<'a> {
    pub(super) fn new(listener: &'a Listener, target: &'a Target) -> Self {
        let encoding =
            if listener.transport == Transport::Protobuf { Encoding::Protobuf } else { Encoding::Json };
        Self { listener, target, encoding, positions: vec![Position::default(); listener.channels.len()] }
    }

    /// Connects, and follows until the connection ends.
    pub(super) async fn follow(&mut self) -> End {
        let why = match Box::pin(self.connect()).await {
            Ok(stream) => Box::pin(Visit::new(self, stream).stay()).await,
            Err(why) => why,
        };
        End { why, wait: retry() }
    }

    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, String> {
        let uri = format!("ws://{}/connection/websocket", self.target.authority);
        let mut request = ClientRequestBuilder::new(uri.parse().map_err(|error| format!("{error}"))?);
        if self.encoding == Encoding::Protobuf {
            request = request.with_sub_protocol("centrifuge-protobuf");
        }
        let stream = self.target.connect().await?;
        // Of the default, 128 KiB are taken for reading at once.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let shaken = timeout(HANDSHAKE, Box::pin(client_async_with_config(request, stream, Some(config))));
        match shaken.await {
            Ok(Ok((stream, _))) => Ok(stream),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no handshake within {HANDSHAKE:?}")),
        }
    }
}

fn retry() -> Duration {
    Duration::from_millis(fastrand::u64(RETRY))
}

/// One connection.
struct Visit<'v, 'a> {
    socket: &'v mut Socket<'a>,
    stream: WebSocketStream<TcpStream>,
    last_id: u32,
    /// Subscribe commands on their way, with the place of the channel.
    asked: HashMap<u32, usize>,
    /// Channels to ask for again, and when.
    again: Vec<usize>,
    again_at: Instant,
    /// Channels that are subscribed to.
    joined: usize,
    frame: Vec<u8>,
}

impl<'v, 'a> Visit<'v, 'a> {
    fn new(socket: &'v mut Socket<'a>, stream: WebSocketStream<TcpStream>) -> Self {
        Self {
            socket,
            stream,
            last_id: 0,
            asked: HashMap::new(),
            again: Vec::new(),
            again_at: Instant::now(),
            joined: 0,
            frame: Vec::new(),
        }
    }

    /// Why it ended.
    async fn stay(mut self) -> String {
        let connect = ConnectRequest { name: "drill".to_owned(), ..ConnectRequest::default() };
        self.command(Request::Connect(connect));
        for channel in 0..self.socket.positions.len() {
            self.subscribe(channel);
        }
        loop {
            if let Err(why) = self.flush().await {
                return why;
            }
            let waits = !self.again.is_empty();
            tokio::select! {
                message = self.stream.next() => {
                    if let Err(why) = self.take(message) {
                        return why;
                    }
                }
                () = sleep_until(self.again_at), if waits => {
                    for channel in std::mem::take(&mut self.again) {
                        self.subscribe(channel);
                    }
                }
            }
        }
    }

    fn command(&mut self, request: Request) {
        let id = if request == Request::Pong { 0 } else { self.last_id + 1 };
        self.last_id = self.last_id.max(id);
        if !self.frame.is_empty() {
            self.socket.encoding.join(&mut self.frame);
        }
        self.socket.encoding.encode_command(&Command { id, request }, &mut self.frame);
    }

    fn subscribe(&mut self, channel: usize) {
        let Position { epoch, offset, known } = self.socket.positions[channel].clone();
        let request = SubscribeRequest {
            channel: self.socket.listener.channels[channel].clone(),
            recover: known,
            epoch,
            offset,
            ..SubscribeRequest::default()
        };
        self.command(Request::Subscribe(request));
        self.asked.insert(self.last_id, channel);
    }

    /// Sends the commands that wait.
    async fn flush(&mut self) -> Result<(), String> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.frame);
        let message = match self.socket.encoding {
            Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
            Encoding::Protobuf => Message::binary(frame),
        };
        self.stream.send(message).await.map_err(|error| error.to_string())
    }

    fn take(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), String> {
        let frame: Bytes = match message {
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(Some(close)))) => {
                return Err(format!("closed with {} {}", u16::from(close.code), close.reason));
            }
            Some(Ok(Message::Close(None))) => return Err("closed without a code".to_owned()),
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection ended".to_owned()),
        };
        for reply in self.socket.encoding.decode_replies(&frame) {
            self.reply(reply.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    fn reply(&mut self, Reply { id, body }: Reply) {
        match body {
            ReplyBody::Ping => self.command(Request::Pong),
            ReplyBody::Push(push) => self.push(push),
            ReplyBody::Subscribe(result) => {
                if let Some(channel) = self.asked.remove(&id) {
                    self.subscribed(channel, result);
                }
            }
            ReplyBody::Error(_) => {
                if let Some(channel) = self.asked.remove(&id) {
                    self.again.push(channel);
                    self.again_at = Instant::now() + retry();
                }
            }
            _ => {}
        }
    }

    fn subscribed(&mut self, channel: usize, result: SubscribeResult) {
        let Socket { listener, positions, .. } = &mut *self.socket;
        if positions[channel].known && !result.recovered {
            listener.gap(channel);
        }
        positions[channel] = Position { epoch: result.epoch, offset: result.offset, known: true };
        for publication in &result.publications {
            hear(listener, positions, channel, publication);
        }
        self.joined += 1;
        if self.joined == positions.len() {
            listener.arrived();
        }
    }

    fn push(&mut self, Push { channel, body }: Push) {
        let Some(channel) = self.socket.listener.place(&channel) else { return };
        let Socket { listener, positions, .. } = &mut *self.socket;
        match body {
            PushBody::Publication(publication) => hear(listener, positions, channel, &publication),
            PushBody::Unsubscribe(_) => {
                self.joined -= 1;
                self.subscribe(channel);
            }
            _ => {}
        }
    }
}

fn hear(listener: &Listener, positions: &mut [Position], channel: usize, publication: &Publication) {
    positions[channel].offset = publication.offset;
    listener.heard(channel, publication.data.bytes());
}
