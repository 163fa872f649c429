//! WebSocket subscriber: resumes from its position after a gap notice or a disconnect, as SDKs do.

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

use super::{Disconnect, Subscriber, Transport};
use crate::drill::http::Target;

/// Delay before a reconnect, and before a rejected channel is subscribed to again.
const RETRY_DELAY: std::ops::Range<u64> = 100..500;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Position in a channel.
#[derive(Clone, Debug, Default)]
struct Position {
    epoch: String,
    offset: u64,
    /// It was subscribed before, so it can resume.
    subscribed_before: bool,
}

/// State that survives a connection.
pub(super) struct Socket<'a> {
    subscriber: &'a Subscriber,
    target: &'a Target,
    encoding: Encoding,
    positions: Vec<Position>,
}

impl<'a> Socket<'a> {
    pub(super) fn new(subscriber: &'a Subscriber, target: &'a Target) -> Self {
        let encoding =
            if subscriber.transport == Transport::Protobuf { Encoding::Protobuf } else { Encoding::Json };
        Self { subscriber, target, encoding, positions: vec![Position::default(); subscriber.channels.len()] }
    }

    /// Connects, and runs until the connection ends.
    pub(super) async fn follow(&mut self) -> Disconnect {
        let reason = match Box::pin(self.connect()).await {
            Ok(stream) => Box::pin(Connection::new(self, stream).run()).await,
            Err(reason) => reason,
        };
        Disconnect { reason, delay: retry_delay() }
    }

    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, String> {
        let uri = format!("ws://{}/connection/websocket", self.target.authority);
        let mut request = ClientRequestBuilder::new(uri.parse().map_err(|error| format!("{error}"))?);
        if self.encoding == Encoding::Protobuf {
            request = request.with_sub_protocol("centrifuge-protobuf");
        }
        let stream = self.target.connect().await?;
        // The default buffer of 128 KiB for each connection would use too much memory.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let shaken =
            timeout(HANDSHAKE_TIMEOUT, Box::pin(client_async_with_config(request, stream, Some(config))));
        match shaken.await {
            Ok(Ok((stream, _))) => Ok(stream),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no handshake within {HANDSHAKE_TIMEOUT:?}")),
        }
    }
}

fn retry_delay() -> Duration {
    Duration::from_millis(fastrand::u64(RETRY_DELAY))
}

/// One connection.
struct Connection<'v, 'a> {
    socket: &'v mut Socket<'a>,
    stream: WebSocketStream<TcpStream>,
    last_id: u32,
    /// Subscribe commands in flight, with the index of the channel.
    pending: HashMap<u32, usize>,
    /// Channels to subscribe to again, and when.
    retry_channels: Vec<usize>,
    retry_at: Instant,
    /// Number of subscribed channels.
    subscribed_count: usize,
    frame: Vec<u8>,
}

impl<'v, 'a> Connection<'v, 'a> {
    fn new(socket: &'v mut Socket<'a>, stream: WebSocketStream<TcpStream>) -> Self {
        Self {
            socket,
            stream,
            last_id: 0,
            pending: HashMap::new(),
            retry_channels: Vec::new(),
            retry_at: Instant::now(),
            subscribed_count: 0,
            frame: Vec::new(),
        }
    }

    /// Runs until the connection ends. Returns why.
    async fn run(mut self) -> String {
        let connect = ConnectRequest { name: "drill".to_owned(), ..ConnectRequest::default() };
        self.queue_command(Request::Connect(connect));
        for channel in 0..self.socket.positions.len() {
            self.subscribe(channel);
        }
        loop {
            if let Err(reason) = self.flush().await {
                return reason;
            }
            let waits = !self.retry_channels.is_empty();
            tokio::select! {
                message = self.stream.next() => {
                    if let Err(reason) = self.handle(message) {
                        return reason;
                    }
                }
                () = sleep_until(self.retry_at), if waits => {
                    for channel in std::mem::take(&mut self.retry_channels) {
                        self.subscribe(channel);
                    }
                }
            }
        }
    }

    fn queue_command(&mut self, request: Request) {
        let id = if request == Request::Pong { 0 } else { self.last_id + 1 };
        self.last_id = self.last_id.max(id);
        if !self.frame.is_empty() {
            self.socket.encoding.write_separator(&mut self.frame);
        }
        self.socket.encoding.encode_command(&Command { id, request }, &mut self.frame);
    }

    fn subscribe(&mut self, channel: usize) {
        let Position { epoch, offset, subscribed_before } = self.socket.positions[channel].clone();
        let request = SubscribeRequest {
            channel: self.socket.subscriber.channels[channel].clone(),
            recover: subscribed_before,
            epoch,
            offset,
            ..SubscribeRequest::default()
        };
        self.queue_command(Request::Subscribe(request));
        self.pending.insert(self.last_id, channel);
    }

    /// Sends the queued commands.
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

    fn handle(
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
            None => return Err("the connection was closed".to_owned()),
        };
        for reply in self.socket.encoding.decode_replies(&frame) {
            self.reply(reply.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    fn reply(&mut self, Reply { id, body }: Reply) {
        match body {
            ReplyBody::Ping => self.queue_command(Request::Pong),
            ReplyBody::Push(push) => self.push(push),
            ReplyBody::Subscribe(result) => {
                if let Some(channel) = self.pending.remove(&id) {
                    self.subscribed(channel, result);
                }
            }
            ReplyBody::Error(_) => {
                if let Some(channel) = self.pending.remove(&id) {
                    self.retry_channels.push(channel);
                    self.retry_at = Instant::now() + retry_delay();
                }
            }
            _ => {}
        }
    }

    fn subscribed(&mut self, channel: usize, result: SubscribeResult) {
        let Socket { subscriber, positions, .. } = &mut *self.socket;
        if positions[channel].subscribed_before && !result.recovered {
            subscriber.gap(channel);
        }
        positions[channel] = Position { epoch: result.epoch, offset: result.offset, subscribed_before: true };
        for publication in &result.publications {
            receive(subscriber, positions, channel, publication);
        }
        self.subscribed_count += 1;
        if self.subscribed_count == positions.len() {
            subscriber.subscribed_all();
        }
    }

    fn push(&mut self, Push { channel, body }: Push) {
        let Some(channel) = self.socket.subscriber.channel_index(&channel) else { return };
        let Socket { subscriber, positions, .. } = &mut *self.socket;
        match body {
            PushBody::Publication(publication) => receive(subscriber, positions, channel, &publication),
            PushBody::Unsubscribe(_) => {
                self.subscribed_count -= 1;
                self.subscribe(channel);
            }
            _ => {}
        }
    }
}

fn receive(subscriber: &Subscriber, positions: &mut [Position], channel: usize, publication: &Publication) {
    positions[channel].offset = publication.offset;
    subscriber.received(channel, publication.data.bytes());
}
