//! WebSocket subscriber: resumes from its position after a gap notice or a disconnect, as SDKs do.

use std::collections::HashMap;
use std::time::Duration;

use earshot_client::centrifuge::RecoveryPosition;
use earshot_client::websocket::CentrifugeSocket;
use earshot_protocol::{Encoding, Publication, Push, PushBody, Reply, ReplyBody, Request, SubscribeResult};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Disconnection, DrillSubscriber, DrillTransport};
use crate::drill::http::HttpTarget;

/// Delay before a reconnect, and before a rejected channel is subscribed to again.
const RETRY_DELAY: std::ops::Range<u64> = 100..500;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel, as the subscriber has last seen it.
#[derive(Clone, Debug, Default)]
struct SocketChannel {
    position: RecoveryPosition,
    /// It was subscribed before, so a missing recovery is a gap.
    subscribed_before: bool,
}

/// State that survives a connection.
pub(super) struct SocketSubscriber<'a> {
    subscriber: &'a DrillSubscriber,
    target: &'a HttpTarget,
    encoding: Encoding,
    channels: Vec<SocketChannel>,
}

impl<'a> SocketSubscriber<'a> {
    pub(super) fn new(subscriber: &'a DrillSubscriber, target: &'a HttpTarget) -> Self {
        let encoding = if subscriber.transport == DrillTransport::Protobuf {
            Encoding::Protobuf
        } else {
            Encoding::Json
        };
        let channels = vec![SocketChannel::default(); subscriber.channels.len()];
        Self { subscriber, target, encoding, channels }
    }

    /// Connects, and runs until the connection ends.
    pub(super) async fn follow(&mut self) -> Disconnection {
        let reason = match Box::pin(self.connect()).await {
            Ok(stream) => Box::pin(SocketConnection::new(self, stream).run()).await,
            Err(reason) => reason,
        };
        Disconnection { reason, delay: retry_delay() }
    }

    async fn connect(&self) -> Result<CentrifugeSocket<TcpStream>, String> {
        let url = format!("ws://{}/connection/websocket", self.target.authority);
        let stream = self.target.connect().await?;
        let opened = Box::pin(CentrifugeSocket::open(stream, &url, None, self.encoding));
        match timeout(HANDSHAKE_TIMEOUT, opened).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no handshake within {HANDSHAKE_TIMEOUT:?}")),
        }
    }
}

fn retry_delay() -> Duration {
    Duration::from_millis(fastrand::u64(RETRY_DELAY))
}

/// One connection.
struct SocketConnection<'v, 'a> {
    socket: &'v mut SocketSubscriber<'a>,
    stream: CentrifugeSocket<TcpStream>,
    /// Subscribe commands in flight, with the index of the channel.
    pending: HashMap<u32, usize>,
    /// Channels to subscribe to again, and when.
    retry_channels: Vec<usize>,
    retry_at: Instant,
    /// Number of subscribed channels.
    subscribed_count: usize,
}

impl<'v, 'a> SocketConnection<'v, 'a> {
    fn new(socket: &'v mut SocketSubscriber<'a>, stream: CentrifugeSocket<TcpStream>) -> Self {
        Self {
            socket,
            stream,
            pending: HashMap::new(),
            retry_channels: Vec::new(),
            retry_at: Instant::now(),
            subscribed_count: 0,
        }
    }

    /// Runs until the connection ends. Returns why.
    async fn run(mut self) -> String {
        self.stream.session().queue_connect("drill");
        for channel in 0..self.socket.channels.len() {
            self.subscribe(channel);
        }
        loop {
            if let Err(reason) = self.stream.flush().await {
                return reason;
            }
            let waits = !self.retry_channels.is_empty();
            tokio::select! {
                replies = self.stream.receive() => match replies {
                    Ok(replies) => replies.into_iter().for_each(|reply| self.reply(reply)),
                    Err(reason) => return reason,
                },
                () = sleep_until(self.retry_at), if waits => {
                    for channel in std::mem::take(&mut self.retry_channels) {
                        self.subscribe(channel);
                    }
                }
            }
        }
    }

    fn subscribe(&mut self, channel: usize) {
        let name = &self.socket.subscriber.channels[channel];
        let request = self.socket.channels[channel].position.request(name);
        let id = self.stream.session().queue(Request::Subscribe(request));
        self.pending.insert(id, channel);
    }

    fn reply(&mut self, Reply { id, body }: Reply) {
        match body {
            ReplyBody::Push(push) => self.push(push),
            ReplyBody::Subscribe(result) => {
                if let Some(channel) = self.pending.remove(&id) {
                    self.subscribed(channel, &result);
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

    fn subscribed(&mut self, channel: usize, result: &SubscribeResult) {
        let SocketSubscriber { subscriber, channels, .. } = &mut *self.socket;
        let state = &mut channels[channel];
        if state.subscribed_before && !result.recovered {
            subscriber.gap(channel);
        }
        state.position.on_subscribed(result);
        state.subscribed_before = true;
        for publication in &result.publications {
            receive(subscriber, state, channel, publication);
        }
        self.subscribed_count += 1;
        if self.subscribed_count == channels.len() {
            subscriber.subscribed_all();
        }
    }

    fn push(&mut self, Push { channel, body }: Push) {
        let Some(channel) = self.socket.subscriber.channel_index(&channel) else { return };
        let SocketSubscriber { subscriber, channels, .. } = &mut *self.socket;
        match body {
            PushBody::Publication(publication) => {
                receive(subscriber, &mut channels[channel], channel, &publication);
            }
            PushBody::Unsubscribe(_) => {
                self.subscribed_count -= 1;
                self.subscribe(channel);
            }
            _ => {}
        }
    }
}

fn receive(
    subscriber: &DrillSubscriber,
    state: &mut SocketChannel,
    channel: usize,
    publication: &Publication,
) {
    state.position.on_publication(publication.offset);
    subscriber.received(channel, publication.data.bytes());
}
