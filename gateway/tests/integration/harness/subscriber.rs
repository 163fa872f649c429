//! A client that follows one channel as an SDK or an `EventSource` does: it remembers its position and resumes from it
//! after a reconnect. The ledger verifies that every missing message is covered by a gap notice.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::encoding::Encoding;
use super::sse::{Event, Next, SseClient};
use super::ws::{Incoming, Publication, WsClient};

/// The channel of the subscribers; each payload contains its number.
pub(crate) const NUMBERS: &str = "numbers";

/// The second channel of a multi-channel event stream; its messages are verified too.
const OTHER_CHANNEL: &str = "other";

/// Transport and encoding of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// An event stream of one channel.
    Sse,
    /// An event stream of several channels.
    SseMulti,
    WebSocket(Encoding),
}

impl Transport {
    pub(crate) const ALL: [Self; 4] =
        [Self::Sse, Self::SseMulti, Self::WebSocket(Encoding::Json), Self::WebSocket(Encoding::Protobuf)];

    fn path(self) -> &'static str {
        match self {
            Self::SseMulti => "/sse?channel=other&channel=numbers",
            _ => "/sse/numbers",
        }
    }
}

/// The position of a client.
#[derive(Clone, Debug)]
pub(crate) enum Position {
    Cursor(String),
    Offset { epoch: String, offset: u64 },
}

/// What a subscriber receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Number(u64),
    /// A gap notice: messages may be missing here.
    Gap,
}

/// A client that subscribes to [`NUMBERS`].
pub(crate) struct Subscriber {
    address: SocketAddr,
    transport: Transport,
    client: Client,
    position: Position,
    /// Content of the last reply that is not consumed yet.
    recovered: VecDeque<Received>,
    /// What arrived on the second channel of a multi-channel stream.
    other: Ledger,
    /// The `recovered` flag of each resubscribe, after a 2500 or a reconnect.
    pub(crate) recoveries: Vec<bool>,
}

enum Client {
    /// Disconnected.
    Disconnected,
    Stream(Box<SseClient>),
    Socket(Box<WsClient>),
}

impl Subscriber {
    /// Connects for the first time.
    pub(crate) async fn connect(address: SocketAddr, transport: Transport) -> Self {
        let subscriber = Self::try_connect(address, transport, None).await;
        subscriber.unwrap_or_else(|| panic!("cannot connect to {address}"))
    }

    /// Drops the connection without closing it and resumes from the current position.
    pub(crate) async fn reconnect(mut self) -> Self {
        assert!(self.reconnect_to(self.address).await, "cannot reconnect to {}", self.address);
        self
    }

    /// Drops the connection without closing it and resumes at a gateway; returns `false` if the gateway is gone.
    pub(crate) async fn reconnect_to(&mut self, address: SocketAddr) -> bool {
        assert!(self.recovered.is_empty(), "must not disconnect inside a reply");
        self.client = Client::Disconnected;
        let Some(mut reconnected) =
            Self::try_connect(address, self.transport, Some(self.position.clone())).await
        else {
            return false;
        };
        reconnected.recoveries.splice(0..0, std::mem::take(&mut self.recoveries));
        reconnected.other = std::mem::take(&mut self.other);
        *self = reconnected;
        true
    }

    /// The gateway that it is connected to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Whether the last reply is consumed.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.recovered.is_empty()
    }

    /// Returns `None` if the gateway is gone.
    async fn try_connect(address: SocketAddr, transport: Transport, from: Option<Position>) -> Option<Self> {
        let mut subscriber = match transport {
            Transport::WebSocket(encoding) => {
                let client = Client::Socket(Box::new(WsClient::try_connect(address, encoding).await?));
                let position = Position::Offset { epoch: String::new(), offset: 0 };
                Self::new(address, transport, client, position)
            }
            Transport::Sse | Transport::SseMulti => return Self::open(address, transport, from).await,
        };
        subscriber.subscribe(from).await.then_some(subscriber)
    }

    fn new(address: SocketAddr, transport: Transport, client: Client, position: Position) -> Self {
        let (recovered, other, recoveries) = (VecDeque::new(), Ledger::default(), Vec::new());
        Self { address, transport, client, position, recovered, other, recoveries }
    }

    async fn open(address: SocketAddr, transport: Transport, from: Option<Position>) -> Option<Self> {
        let last = match &from {
            Some(Position::Cursor(cursor)) => Some(cursor.as_str()),
            _ => None,
        };
        let (stream, subscribed) = SseClient::try_begin(address, transport.path(), last).await?;
        let state: Value = serde_json::from_str(&subscribed.data).unwrap();
        let client = Client::Stream(Box::new(stream));
        let mut subscriber = Self::new(address, transport, client, Position::Cursor(subscribed.id));
        if from.is_some() {
            subscriber.recoveries.push(state["channels"][NUMBERS]["recovered"] == true);
        }
        Some(subscriber)
    }

    /// Subscribes over WebSocket; recovered messages are received before anything else. Returns `false` if the gateway
    /// is gone or asks for a retry.
    async fn subscribe(&mut self, from: Option<Position>) -> bool {
        let request = match &from {
            Some(Position::Offset { epoch, offset }) => {
                json!({"channel": NUMBERS, "recover": true, "epoch": epoch, "offset": offset})
            }
            _ => json!({ "channel": NUMBERS }),
        };
        let Client::Socket(socket) = &mut self.client else { unreachable!() };
        let Some(reply) = socket.try_request("subscribe", request).await else { return false };
        if reply["error"]["temporary"] == true {
            return false;
        }
        let early = socket.pending_pushes();
        assert!(early.is_empty(), "received before the subscribe reply: {early:?}");
        let result = &reply["subscribe"];
        assert!(result.is_object(), "{reply}");
        assert_eq!(result["was_recovering"] == true, from.is_some(), "{reply}");
        if from.is_some() {
            self.recoveries.push(result["recovered"] == true);
            if result["recovered"] != true {
                self.recovered.push_back(Received::Gap);
            }
        }
        let epoch = result["epoch"].as_str().unwrap_or_default().to_owned();
        let mut last = result["offset"].as_u64().unwrap_or_default();
        for publication in result["publications"].as_array().into_iter().flatten() {
            let publication = Publication::read(NUMBERS.to_owned(), publication);
            assert_eq!(publication.offset, last + 1, "in the reply: {publication:?}");
            last = publication.offset;
            self.recovered.push_back(Received::Number(number(&publication.data)));
        }
        self.position = Position::Offset { epoch, offset: last };
        true
    }

    /// The next message. Panics if the connection ends.
    pub(crate) async fn next(&mut self) -> Received {
        match self.next_or_end().await {
            Ok(received) => received,
            Err(end) => panic!("{:?}: {end}", self.transport),
        }
    }

    /// The next message, or the reason why the connection ended.
    pub(crate) async fn next_or_end(&mut self) -> Result<Received, String> {
        loop {
            if let Some(received) = self.recovered.pop_front() {
                return Ok(received);
            }
            match &mut self.client {
                Client::Disconnected => return Err("it has left".to_owned()),
                Client::Stream(stream) => match super::within_timeout("an event", stream.next()).await {
                    Next::Event(event) => self.event(event),
                    end => return Err(format!("{end:?}")),
                },
                Client::Socket(socket) => match socket.next().await {
                    Incoming::Publication(publication) => return Ok(self.publication(&publication)),
                    Incoming::Push(push) if push["push"]["unsubscribe"]["code"] == 2500 => {
                        if !self.subscribe(Some(self.position.clone())).await {
                            return Err("closed while it resubscribed".to_owned());
                        }
                    }
                    Incoming::Closed(why) => return Err(format!("closed: {why:?}")),
                    other => panic!("{:?}: {other:?}", self.transport),
                },
            }
        }
    }

    fn event(&mut self, Event { name, data, id }: Event) {
        self.position = Position::Cursor(id);
        let of_aside = |data: &str| data.contains(r#""channel":"other""#);
        match name.as_str() {
            "gap" if of_aside(&data) => self.other.record(Received::Gap),
            "gap" => self.recovered.push_back(Received::Gap),
            "message" | NUMBERS => self.recovered.push_back(Received::Number(number(&data))),
            OTHER_CHANNEL => self.other.record(Received::Number(number(&data))),
            _ => panic!("{:?}: an event {name}: {data}", self.transport),
        }
    }

    /// SDKs rely on it: the next offset is the last one plus one.
    fn publication(&mut self, publication: &Publication) -> Received {
        let Position::Offset { offset, .. } = &mut self.position else { unreachable!() };
        assert_eq!(publication.offset, *offset + 1, "missing messages without a gap notice: {publication:?}");
        *offset = publication.offset;
        Received::Number(number(&publication.data))
    }
}

/// The number in a payload: the payload itself or its `number` field.
pub(crate) fn number(data: &str) -> u64 {
    let value: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
    value.as_u64().or_else(|| value["number"].as_u64()).unwrap_or_else(|| panic!("no number: {data}"))
}

/// What one client received, compared to what was published: 1, 2, 3 and so on.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The first number received.
    pub(crate) first: u64,
    pub(crate) last: Option<u64>,
    pub(crate) delivered: u64,
    /// Missing numbers; a gap notice precedes each hole.
    pub(crate) missed: u64,
    pub(crate) gaps: usize,
    /// A gap notice was received, and no message since.
    pub(crate) gap_reported: bool,
}

impl Ledger {
    /// The ledger of a client that subscribed before the first publication.
    pub(crate) fn from_start() -> Self {
        Self { first: 1, last: Some(0), ..Self::default() }
    }

    /// Records a message. Panics on a duplicate, on a wrong order, and on missing numbers without a gap notice.
    pub(crate) fn record(&mut self, received: Received) {
        let Received::Number(number) = received else {
            (self.gaps, self.gap_reported) = (self.gaps + 1, true);
            return;
        };
        if let Some(last) = self.last {
            assert!(number > last, "{number} after {last}: duplicate or out of order");
            assert!(number == last + 1 || self.gap_reported, "{number} after {last} without a gap notice");
            self.missed += number - last - 1;
        } else {
            self.first = number;
        }
        self.delivered += 1;
        (self.last, self.gap_reported) = (Some(number), false);
    }

    /// Receives until this number.
    pub(crate) async fn read(&mut self, subscriber: &mut Subscriber, number: u64) {
        while !self.has(number) {
            self.record(subscriber.next().await);
        }
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.last.is_some_and(|last| last >= number)
    }
}
