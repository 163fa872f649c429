//! A well-behaved WebSocket client that speaks the JSON protocol and answers the gateway's pings.
//! It must never mend what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::soon;

/// One publication, its data as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) data: String,
    pub(crate) tags: Value,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Incoming {
    Reply(Value),
    Publication(Publication),
    /// A push that is no publication.
    Push(#[allow(dead_code, reason = "shown when it was not expected")] Value),
    /// The end: the code and reason of the close frame, if one came.
    Closed(Option<(u16, String)>),
}

/// A connected client.
pub(crate) struct WsClient {
    stream: WebSocketStream<TcpStream>,
    lines: VecDeque<String>,
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
        let url = format!("ws://{}/connection/websocket", stream.peer_addr().unwrap());
        let (stream, _) = soon("handshake", client_async(url, stream)).await.unwrap();
        let mut client = Self { stream, lines: VecDeque::new(), waiting: VecDeque::new(), last_id: 0 };
        let mut commands = vec![client.command("connect", &json!({}))];
        for channel in channels {
            commands.push(client.command("subscribe", &json!({ "channel": channel.as_ref() })));
        }
        client.send(&commands.join("\n")).await;
        for id in 1..=client.last_id {
            let reply = client.reply().await;
            assert_eq!(reply["id"], id, "replies come in the order of the commands");
            assert!(reply.get("error").is_none(), "{reply}");
        }
        client
    }

    /// Sends one command and waits for its reply.
    pub(crate) async fn request(&mut self, method: &str, body: Value) -> Value {
        let command = self.command(method, &body);
        self.send(&command).await;
        let reply = self.reply().await;
        assert_eq!(reply["id"], self.last_id, "{reply}");
        reply
    }

    /// Waits until the gateway has ended so many subscriptions because of a gap, and subscribes again, as an SDK does.
    pub(crate) async fn come_back(&mut self, subscriptions: usize) {
        let mut ended = Vec::new();
        while ended.len() < subscriptions {
            match self.next().await {
                Incoming::Push(reply) if reply["push"]["unsubscribe"]["code"] == 2500 => {
                    ended.push(reply["push"]["channel"].clone());
                }
                other => panic!("not the notice of a gap: {other:?}"),
            }
        }
        for channel in ended {
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

    pub(crate) async fn send(&mut self, text: &str) {
        soon("send", self.stream.send(Message::text(text))).await.unwrap();
    }

    fn command(&mut self, method: &str, body: &Value) -> String {
        self.last_id += 1;
        format!(r#"{{"id":{},"{method}":{body}}}"#, self.last_id)
    }

    async fn reply(&mut self) -> Value {
        loop {
            match soon("a reply", self.receive()).await {
                Incoming::Reply(reply) => return reply,
                Incoming::Closed(why) => panic!("closed before the reply: {why:?}"),
                other => self.waiting.push_back(other),
            }
        }
    }

    async fn receive(&mut self) -> Incoming {
        loop {
            match self.lines.pop_front() {
                Some(line) if line == "{}" => self.pong().await,
                Some(line) => return parse(&line),
                None => match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => self.lines.extend(text.split('\n').map(str::to_owned)),
                    Some(Ok(Message::Close(close))) => return Incoming::Closed(self.closed(close).await),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Incoming::Closed(None),
                },
            }
        }
    }

    /// Answers a ping of the protocol. The gateway may be gone already: that is seen by reading.
    async fn pong(&mut self) {
        drop(self.stream.send(Message::text("{}")).await);
    }

    /// Completes the closing handshake.
    async fn closed(&mut self, close: Option<CloseFrame>) -> Option<(u16, String)> {
        drop(self.stream.close(None).await);
        close.map(|close| (close.code.into(), close.reason.to_string()))
    }
}

#[derive(serde::Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(serde::Deserialize)]
struct Push<'a> {
    channel: Option<String>,
    #[serde(borrow, rename = "pub")]
    publication: Option<Body<'a>>,
}

#[derive(serde::Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    tags: Value,
}

fn parse(line: &str) -> Incoming {
    let parsed: Line<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    match parsed.push {
        Some(Push { channel, publication: Some(Body { data, tags }) }) => {
            let (channel, data) = (channel.unwrap_or_default(), data.get().to_owned());
            Incoming::Publication(Publication { channel, data, tags })
        }
        Some(_) => Incoming::Push(serde_json::from_str(line).unwrap()),
        None => Incoming::Reply(serde_json::from_str(line).unwrap()),
    }
}
