//! A client that follows one channel as an SDK or an `EventSource` does: it remembers where it stands, and comes back
//! from there. The ledger holds it to the promise: what it is given has no hole that it was not told of.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::encoding::Encoding;
use super::sse::{Event, Next, SseClient};
use super::ws::{Incoming, Publication, WsClient};

/// The channel that followers follow; each payload tells its number.
pub(crate) const NUMBERS: &str = "numbers";

/// The channel that is beside it on a stream of several: there, too, everything must come.
const ASIDE: &str = "aside";

/// Over what a follower hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// An event stream of the one channel.
    Stream,
    /// An event stream of several channels.
    Streams,
    Socket(Encoding),
}

impl Way {
    pub(crate) const ALL: [Self; 4] =
        [Self::Stream, Self::Streams, Self::Socket(Encoding::Json), Self::Socket(Encoding::Protobuf)];

    fn path(self) -> &'static str {
        match self {
            Self::Streams => "/sse?channel=aside&channel=numbers",
            _ => "/sse/numbers",
        }
    }
}

/// Where a client stands.
#[derive(Clone, Debug)]
pub(crate) enum Position {
    Cursor(String),
    Offset { epoch: String, offset: u64 },
}

/// What a follower came to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Number(u64),
    /// It was told that something may be missing here.
    Gap,
}

/// A client that follows [`NUMBERS`].
pub(crate) struct Follower {
    address: SocketAddr,
    way: Way,
    client: Client,
    position: Position,
    /// What the last reply brought and was not looked at yet.
    recovered: VecDeque<Heard>,
    /// What came on the other channel of a stream of several.
    aside: Ledger,
    /// How often it was told by 2500 or came back by itself, and with which outcome.
    pub(crate) recoveries: Vec<bool>,
}

enum Client {
    /// It has left.
    Away,
    Stream(Box<SseClient>),
    Socket(Box<WsClient>),
}

impl Follower {
    /// Comes for the first time.
    pub(crate) async fn join(address: SocketAddr, way: Way) -> Self {
        let follower = Self::enter(address, way, None).await;
        follower.unwrap_or_else(|| panic!("nobody is at {address}"))
    }

    /// Drops its connection, without a word, and comes back from where it stands.
    pub(crate) async fn come_again(mut self) -> Self {
        assert!(self.go_to(self.address).await, "nobody is at {} any more", self.address);
        self
    }

    /// Drops its connection, without a word, and goes to a gateway from where it stands; `false` when that one is gone.
    pub(crate) async fn go_to(&mut self, address: SocketAddr) -> bool {
        assert!(self.recovered.is_empty(), "it leaves between two messages, not inside a reply");
        self.client = Client::Away;
        let Some(mut there) = Self::enter(address, self.way, Some(self.position.clone())).await else {
            return false;
        };
        there.recoveries.splice(0..0, std::mem::take(&mut self.recoveries));
        there.aside = std::mem::take(&mut self.aside);
        *self = there;
        true
    }

    /// The gateway it is at.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Nothing of the last reply is left to be looked at.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.recovered.is_empty()
    }

    /// `None` when the gateway is gone.
    async fn enter(address: SocketAddr, way: Way, from: Option<Position>) -> Option<Self> {
        let mut follower = match way {
            Way::Socket(encoding) => {
                let client = Client::Socket(Box::new(WsClient::try_speaking(address, encoding).await?));
                let position = Position::Offset { epoch: String::new(), offset: 0 };
                Self::new(address, way, client, position)
            }
            Way::Stream | Way::Streams => return Self::open(address, way, from).await,
        };
        follower.subscribe(from).await.then_some(follower)
    }

    fn new(address: SocketAddr, way: Way, client: Client, position: Position) -> Self {
        let (recovered, aside, recoveries) = (VecDeque::new(), Ledger::default(), Vec::new());
        Self { address, way, client, position, recovered, aside, recoveries }
    }

    async fn open(address: SocketAddr, way: Way, from: Option<Position>) -> Option<Self> {
        let last = match &from {
            Some(Position::Cursor(cursor)) => Some(cursor.as_str()),
            _ => None,
        };
        let (stream, subscribed) = SseClient::try_begin(address, way.path(), last).await?;
        let state: Value = serde_json::from_str(&subscribed.data).unwrap();
        let client = Client::Stream(Box::new(stream));
        let mut follower = Self::new(address, way, client, Position::Cursor(subscribed.id));
        if from.is_some() {
            follower.recoveries.push(state["channels"][NUMBERS]["recovered"] == true);
        }
        Some(follower)
    }

    /// Subscribes over a socket: what was missed is heard before anything else. `false` when the gateway is gone, or
    /// wants to be asked again.
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
        let early = socket.came_early();
        assert!(early.is_empty(), "before the reply to the subscribe: {early:?}");
        let result = &reply["subscribe"];
        assert!(result.is_object(), "{reply}");
        assert_eq!(result["was_recovering"] == true, from.is_some(), "{reply}");
        if from.is_some() {
            self.recoveries.push(result["recovered"] == true);
            if result["recovered"] != true {
                self.recovered.push_back(Heard::Gap);
            }
        }
        let epoch = result["epoch"].as_str().unwrap_or_default().to_owned();
        let mut last = result["offset"].as_u64().unwrap_or_default();
        for publication in result["publications"].as_array().into_iter().flatten() {
            let publication = Publication::read(NUMBERS.to_owned(), publication);
            assert_eq!(publication.offset, last + 1, "inside the reply: {publication:?}");
            last = publication.offset;
            self.recovered.push_back(Heard::Number(number(&publication.data)));
        }
        self.position = Position::Offset { epoch, offset: last };
        true
    }

    /// What it hears next; its connection must not end.
    pub(crate) async fn next(&mut self) -> Heard {
        match self.next_or_end().await {
            Ok(heard) => heard,
            Err(end) => panic!("{:?}: {end}", self.way),
        }
    }

    /// What it hears next, or how its connection ended.
    pub(crate) async fn next_or_end(&mut self) -> Result<Heard, String> {
        loop {
            if let Some(heard) = self.recovered.pop_front() {
                return Ok(heard);
            }
            match &mut self.client {
                Client::Away => return Err("it has left".to_owned()),
                Client::Stream(stream) => match super::soon("an event", stream.next()).await {
                    Next::Event(event) => self.event(event),
                    end => return Err(format!("{end:?}")),
                },
                Client::Socket(socket) => match socket.next().await {
                    Incoming::Publication(publication) => return Ok(self.publication(&publication)),
                    Incoming::Push(push) if push["push"]["unsubscribe"]["code"] == 2500 => {
                        if !self.subscribe(Some(self.position.clone())).await {
                            return Err("gone while it subscribed again".to_owned());
                        }
                    }
                    Incoming::Closed(why) => return Err(format!("closed: {why:?}")),
                    other => panic!("{:?}: {other:?}", self.way),
                },
            }
        }
    }

    fn event(&mut self, Event { name, data, id }: Event) {
        self.position = Position::Cursor(id);
        let of_aside = |data: &str| data.contains(r#""channel":"aside""#);
        match name.as_str() {
            "gap" if of_aside(&data) => self.aside.enter(Heard::Gap),
            "gap" => self.recovered.push_back(Heard::Gap),
            "message" | NUMBERS => self.recovered.push_back(Heard::Number(number(&data))),
            ASIDE => self.aside.enter(Heard::Number(number(&data))),
            _ => panic!("{:?}: an event {name}: {data}", self.way),
        }
    }

    /// What SDKs rely on: the next offset is the last one and one.
    fn publication(&mut self, publication: &Publication) -> Heard {
        let Position::Offset { offset, .. } = &mut self.position else { unreachable!() };
        assert_eq!(publication.offset, *offset + 1, "a hole that was not told: {publication:?}");
        *offset = publication.offset;
        Heard::Number(number(&publication.data))
    }
}

/// The number that a payload tells: alone, or as a field.
pub(crate) fn number(data: &str) -> u64 {
    let value: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
    value.as_u64().or_else(|| value["number"].as_u64()).unwrap_or_else(|| panic!("no number: {data}"))
}

/// What one client was given and told, against what was published: 1, 2, 3 and so on.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The first number that was heard.
    pub(crate) first: u64,
    pub(crate) last: Option<u64>,
    pub(crate) delivered: u64,
    /// Numbers that are missing, each hole told of.
    pub(crate) missed: u64,
    pub(crate) gaps: usize,
    /// A gap was told, and nothing has come since.
    pub(crate) told: bool,
}

impl Ledger {
    /// The ledger of somebody who was there before the first number.
    pub(crate) fn from_the_first() -> Self {
        Self { first: 1, last: Some(0), ..Self::default() }
    }

    /// Delivered and announced make up everything; nothing comes twice or in disorder.
    pub(crate) fn enter(&mut self, heard: Heard) {
        let Heard::Number(number) = heard else {
            (self.gaps, self.told) = (self.gaps + 1, true);
            return;
        };
        if let Some(last) = self.last {
            assert!(number > last, "{number} after {last}: twice, or in disorder");
            assert!(number == last + 1 || self.told, "{number} after {last}, and no gap was told");
            self.missed += number - last - 1;
        } else {
            self.first = number;
        }
        self.delivered += 1;
        (self.last, self.told) = (Some(number), false);
    }

    /// Has a follower read until this number.
    pub(crate) async fn read(&mut self, follower: &mut Follower, number: u64) {
        while !self.has(number) {
            self.enter(follower.next().await);
        }
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.last.is_some_and(|last| last >= number)
    }
}
