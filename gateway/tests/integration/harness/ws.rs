//! A well-behaved WebSocket client that answers the gateway's pings.
//! It must never mend what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::encoding::Encoding;
use super::soon;

/// One publication, its data as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) data: String,
    pub(crate) offset: u64,
    pub(crate) tags: Value,
    /// The client that published.
    pub(crate) info: Value,
}

impl Publication {
    /// A publication inside a reply.
    pub(crate) fn read(channel: String, value: &Value) -> Self {
        let offset = value["offset"].as_u64().unwrap_or_default();
        let (tags, info) = (value["tags"].clone(), value["info"].clone());
        Self { channel, data: value["data"].to_string(), offset, tags, info }
    }
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Incoming {
    Reply(Value),
    Publication(Publication),
    /// A push that is no publication.
    Push(#[allow(dead_code, reason = "shown when it was not expected")] Value),
    /// Answered by the client itself.
    Ping,
    /// The end: the code and reason of the close frame, if one came.
    Closed(Option<(u16, String)>),
}

/// A connected client.
pub(crate) struct WsClient {
    encoding: Encoding,
    stream: WebSocketStream<TcpStream>,
    /// What came in one message and was not looked at yet.
    received: VecDeque<Incoming>,
    /// Publications and pushes that came while a reply was awaited.
    waiting: VecDeque<Incoming>,
    last_id: u32,
}

impl WsClient {
    /// Connects, and subscribes to these channels in the same first frame.
    pub(crate) async fn open<C: AsRef<str>>(address: SocketAddr, channels: &[C]) -> Self {
        let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
        Self::open_over(stream, channels).await
    }

    /// The same, on a connection that is there already.
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

    /// A socket on which nothing was said yet: not even the connect command.
    pub(crate) async fn bare(address: SocketAddr, encoding: Encoding) -> Self {
        Self::over(soon("connect", TcpStream::connect(address)).await.unwrap(), encoding).await
    }

    /// Connects in an encoding, and subscribes to nothing.
    pub(crate) async fn speaking(address: SocketAddr, encoding: Encoding) -> Self {
        let client = Self::try_speaking(address, encoding).await;
        client.unwrap_or_else(|| panic!("nobody speaks at {address}"))
    }

    /// The same, to a gateway that may go away at any time; `None` when it has.
    pub(crate) async fn try_speaking(address: SocketAddr, encoding: Encoding) -> Option<Self> {
        let stream = soon("connect", TcpStream::connect(address)).await.ok()?;
        let mut client = Self::try_over(stream, encoding).await?;
        let reply = client.try_request("connect", json!({})).await?;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        Some(client)
    }

    /// The same, on a connection that is there already.
    pub(crate) async fn over(stream: TcpStream, encoding: Encoding) -> Self {
        Self::try_over(stream, encoding).await.unwrap_or_else(|| panic!("no handshake"))
    }

    async fn try_over(stream: TcpStream, encoding: Encoding) -> Option<Self> {
        let url = format!("ws://{}{}", stream.peer_addr().ok()?, encoding.path());
        let (stream, _) = soon("handshake", client_async(url, stream)).await.ok()?;
        let (received, waiting) = (VecDeque::new(), VecDeque::new());
        Some(Self { encoding, stream, received, waiting, last_id: 0 })
    }

    /// Sends one command and waits for its reply.
    pub(crate) async fn request(&mut self, method: &str, body: Value) -> Value {
        let reply = self.try_request(method, body).await;
        reply.unwrap_or_else(|| panic!("closed before the reply to {method}"))
    }

    /// Sends several commands at once, and waits for their replies, which come in the same order.
    pub(crate) async fn requests(&mut self, method: &str, bodies: impl Iterator<Item = Value>) -> Vec<Value> {
        let first = self.last_id + 1;
        let commands: Vec<_> = bodies.map(|body| self.command(method, &body)).collect();
        soon("send", self.stream.send(self.encoding.commands(&commands))).await.unwrap();
        let mut replies = Vec::new();
        for id in first..=self.last_id {
            let reply =
                self.try_reply().await.unwrap_or_else(|| panic!("closed before the reply to {method}"));
            assert_eq!(reply["id"], id, "{reply}");
            replies.push(reply);
        }
        replies
    }

    /// The same, to a gateway that may go away at any time; `None` when it has.
    pub(crate) async fn try_request(&mut self, method: &str, body: Value) -> Option<Value> {
        let command = self.command(method, &body);
        soon("send", self.stream.send(self.encoding.commands(&[command]))).await.ok()?;
        let reply = self.try_reply().await?;
        assert_eq!(reply["id"], self.last_id, "{reply}");
        Some(reply)
    }

    /// What came before the last reply and was not taken yet.
    pub(crate) fn came_early(&self) -> Vec<&Incoming> {
        self.waiting.iter().collect()
    }

    /// Waits until the gateway has ended so many subscriptions because of a gap, and says of which channels.
    pub(crate) async fn is_told_of_gaps(&mut self, subscriptions: usize) -> Vec<Value> {
        let mut ended = Vec::new();
        while ended.len() < subscriptions {
            match self.next().await {
                Incoming::Push(reply) if reply["push"]["unsubscribe"]["code"] == 2500 => {
                    ended.push(reply["push"]["channel"].clone());
                }
                other => panic!("not the notice of a gap: {other:?}"),
            }
        }
        ended
    }

    /// Waits for so many such notices, and subscribes again, as an SDK does.
    pub(crate) async fn come_back(&mut self, subscriptions: usize) {
        for channel in self.is_told_of_gaps(subscriptions).await {
            let reply = self.request("subscribe", serde_json::json!({ "channel": channel })).await;
            assert!(reply.get("error").is_none(), "{reply}");
        }
    }

    /// The next publication; nothing else may come.
    pub(crate) async fn publication(&mut self) -> Publication {
        match self.next().await {
            Incoming::Publication(publication) => publication,
            other => panic!("not a publication: {other:?}"),
        }
    }

    /// Whatever comes next.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.waiting.pop_front() {
            Some(incoming) => incoming,
            None => soon("something from the gateway", self.receive()).await,
        }
    }

    async fn send(&mut self, message: Message) {
        soon("send", self.stream.send(message)).await.unwrap();
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
            match soon("a reply", self.receive()).await {
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

    /// Answers a ping of the protocol. The gateway may be gone already: that is seen by reading.
    async fn pong(&mut self) {
        drop(self.stream.send(self.encoding.pong()).await);
    }

    /// Completes the closing handshake.
    async fn closed(&mut self, close: Option<CloseFrame>) -> Option<(u16, String)> {
        drop(self.stream.close(None).await);
        close.map(|close| (close.code.into(), close.reason.to_string()))
    }
}
