//! A well-behaved WebSocket client that responds to pings. It must never repair a message.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::encoding::Encoding;
use super::within_timeout;

/// One publication; its data is unchanged from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) data: String,
    pub(crate) offset: u64,
    pub(crate) tags: Value,
    /// Client info of the publisher.
    pub(crate) info: Value,
}

impl Publication {
    /// Parses a publication from a reply.
    pub(crate) fn read(channel: String, value: &Value) -> Self {
        let offset = value["offset"].as_u64().unwrap_or_default();
        let (tags, info) = (value["tags"].clone(), value["info"].clone());
        Self { channel, data: value["data"].to_string(), offset, tags, info }
    }
}

/// A received item.
#[derive(Debug)]
pub(crate) enum Incoming {
    Reply(Value),
    Publication(Publication),
    /// A push that is not a publication.
    Push(#[allow(dead_code, reason = "shown when it was not expected")] Value),
    /// The client itself responds to it.
    Ping,
    /// The end of the connection: code and reason of the close frame, if there was one.
    Closed(Option<(u16, String)>),
}

/// A connected client.
pub(crate) struct WsClient {
    encoding: Encoding,
    stream: WebSocketStream<TcpStream>,
    /// Items of the last message that are not consumed.
    received: VecDeque<Incoming>,
    /// Publications and pushes that arrived while the client waited for a reply.
    waiting: VecDeque<Incoming>,
    last_id: u32,
}

impl WsClient {
    /// Connects and subscribes to these channels in its first frame.
    pub(crate) async fn open<C: AsRef<str>>(address: SocketAddr, channels: &[C]) -> Self {
        let stream = within_timeout("connect", TcpStream::connect(address)).await.unwrap();
        Self::open_over(stream, channels).await
    }

    /// Connects and subscribes on an existing connection.
    pub(crate) async fn open_over<C: AsRef<str>>(stream: TcpStream, channels: &[C]) -> Self {
        let mut client = Self::over(stream, Encoding::Json).await;
        let mut commands = vec![client.command("connect", &json!({}))];
        for channel in channels {
            commands.push(client.command("subscribe", &json!({ "channel": channel.as_ref() })));
        }
        client.send(client.encoding.commands(&commands)).await;
        for id in 1..=client.last_id {
            let reply = client.reply().await;
            assert_eq!(reply["id"], id, "replies come in the order of the commands");
            assert!(reply.get("error").is_none(), "{reply}");
        }
        client
    }

    /// Completes the WebSocket handshake without a connect command.
    pub(crate) async fn handshake_only(address: SocketAddr, encoding: Encoding) -> Self {
        Self::over(within_timeout("connect", TcpStream::connect(address)).await.unwrap(), encoding).await
    }

    /// Connects in this encoding without subscribing.
    pub(crate) async fn connect(address: SocketAddr, encoding: Encoding) -> Self {
        let client = Self::try_connect(address, encoding).await;
        client.unwrap_or_else(|| panic!("cannot connect to {address}"))
    }

    /// Connects to a gateway that may be down; returns `None` if it is.
    pub(crate) async fn try_connect(address: SocketAddr, encoding: Encoding) -> Option<Self> {
        let stream = within_timeout("connect", TcpStream::connect(address)).await.ok()?;
        let mut client = Self::try_over(stream, encoding).await?;
        let reply = client.try_request("connect", json!({})).await?;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        Some(client)
    }

    /// Completes the WebSocket handshake on an existing connection.
    pub(crate) async fn over(stream: TcpStream, encoding: Encoding) -> Self {
        Self::try_over(stream, encoding).await.unwrap_or_else(|| panic!("no handshake"))
    }

    async fn try_over(stream: TcpStream, encoding: Encoding) -> Option<Self> {
        let url = format!("ws://{}{}", stream.peer_addr().ok()?, encoding.path());
        let (stream, _) = within_timeout("handshake", client_async(url, stream)).await.ok()?;
        let (received, waiting) = (VecDeque::new(), VecDeque::new());
        Some(Self { encoding, stream, received, waiting, last_id: 0 })
    }

    /// Sends one command and waits for its reply.
    pub(crate) async fn request(&mut self, method: &str, body: Value) -> Value {
        let reply = self.try_request(method, body).await;
        reply.unwrap_or_else(|| panic!("closed before the reply to {method}"))
    }

    /// Sends several commands at once and waits for their replies, which arrive in the same order.
    pub(crate) async fn requests(&mut self, method: &str, bodies: impl Iterator<Item = Value>) -> Vec<Value> {
        let first = self.last_id + 1;
        let commands: Vec<_> = bodies.map(|body| self.command(method, &body)).collect();
        within_timeout("send", self.stream.send(self.encoding.commands(&commands))).await.unwrap();
        let mut replies = Vec::new();
        for id in first..=self.last_id {
            let reply =
                self.try_reply().await.unwrap_or_else(|| panic!("closed before the reply to {method}"));
            assert_eq!(reply["id"], id, "{reply}");
            replies.push(reply);
        }
        replies
    }

    /// Sends one command and waits for its reply; returns `None` if the connection closes.
    pub(crate) async fn try_request(&mut self, method: &str, body: Value) -> Option<Value> {
        let command = self.command(method, &body);
        within_timeout("send", self.stream.send(self.encoding.commands(&[command]))).await.ok()?;
        let reply = self.try_reply().await?;
        assert_eq!(reply["id"], self.last_id, "{reply}");
        Some(reply)
    }

    /// Pushes that arrived before the last reply.
    pub(crate) fn pending_pushes(&self) -> Vec<&Incoming> {
        self.waiting.iter().collect()
    }

    /// Waits until the gateway has ended this many subscriptions with 2500 (gap); returns their channels.
    pub(crate) async fn wait_for_gaps(&mut self, subscriptions: usize) -> Vec<Value> {
        let mut ended = Vec::new();
        while ended.len() < subscriptions {
            match self.next().await {
                Incoming::Push(reply) if reply["push"]["unsubscribe"]["code"] == 2500 => {
                    ended.push(reply["push"]["channel"].clone());
                }
                other => panic!("not a gap notice: {other:?}"),
            }
        }
        ended
    }

    /// Waits for this many gap notices and resubscribes, as an SDK does.
    pub(crate) async fn resubscribe_after_gaps(&mut self, subscriptions: usize) {
        for channel in self.wait_for_gaps(subscriptions).await {
            let reply = self.request("subscribe", serde_json::json!({ "channel": channel })).await;
            assert!(reply.get("error").is_none(), "{reply}");
        }
    }

    /// The next item, which must be a publication.
    pub(crate) async fn publication(&mut self) -> Publication {
        match self.next().await {
            Incoming::Publication(publication) => publication,
            other => panic!("not a publication: {other:?}"),
        }
    }

    /// The next item.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.waiting.pop_front() {
            Some(incoming) => incoming,
            None => within_timeout("a message from the gateway", self.receive()).await,
        }
    }

    async fn send(&mut self, message: Message) {
        within_timeout("send", self.stream.send(message)).await.unwrap();
    }

    fn command(&mut self, method: &str, body: &Value) -> Value {
        self.last_id += 1;
        json!({ "id": self.last_id, method: body })
    }

    async fn reply(&mut self) -> Value {
        self.try_reply().await.unwrap_or_else(|| panic!("closed before the reply"))
    }

    async fn try_reply(&mut self) -> Option<Value> {
        loop {
            match within_timeout("a reply", self.receive()).await {
                Incoming::Reply(reply) => return Some(reply),
                Incoming::Closed(_) => return None,
                other => self.waiting.push_back(other),
            }
        }
    }

    async fn receive(&mut self) -> Incoming {
        loop {
            match self.received.pop_front() {
                Some(Incoming::Ping) => self.pong().await,
                Some(incoming) => return incoming,
                None => match self.stream.next().await {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        self.received.extend(self.encoding.decode(&message.into_data()));
                    }
                    Some(Ok(Message::Close(close))) => return Incoming::Closed(self.closed(close).await),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Incoming::Closed(None),
                },
            }
        }
    }

    /// Responds to a protocol ping. If the gateway is gone, the next read shows it.
    async fn pong(&mut self) {
        drop(self.stream.send(self.encoding.pong()).await);
    }

    /// Completes the closing handshake.
    async fn closed(&mut self, close: Option<CloseFrame>) -> Option<(u16, String)> {
        drop(self.stream.close(None).await);
        close.map(|close| (close.code.into(), close.reason.to_string()))
    }
}
