//! The two encodings of the WebSocket protocol: commands out, whatever comes in. It must never mend what it got.

use serde_json::Value;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::protobuf;
use super::ws::{Incoming, Publication};

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub(crate) const BOTH: [Self; 2] = [Self::Json, Self::Protobuf];

    /// Where a client of this encoding connects to.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Json => "/connection/websocket",
            Self::Protobuf => "/connection/websocket?cf_protocol=protobuf",
        }
    }

    /// One message that holds these commands.
    pub(crate) fn commands(self, commands: &[Value]) -> Message {
        match self {
            Self::Json => Message::text(commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")),
            Self::Protobuf => Message::binary(commands.iter().flat_map(protobuf::command).collect::<Bytes>()),
        }
    }

    /// The answer to a ping of the protocol.
    pub(crate) fn pong(self) -> Message {
        match self {
            Self::Json => Message::text("{}"),
            Self::Protobuf => Message::binary(vec![0]),
        }
    }

    /// Everything that a message of the gateway holds, in its order.
    pub(crate) fn decode(self, message: &[u8]) -> Vec<Incoming> {
        match self {
            Self::Json => std::str::from_utf8(message).unwrap().split('\n').map(json).collect(),
            Self::Protobuf => protobuf::replies(message).into_iter().map(value).collect(),
        }
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
    offset: u64,
    #[serde(default)]
    tags: Value,
    #[serde(default)]
    info: Value,
}

/// A line of JSON; the data of a publication stays as it was written.
fn json(line: &str) -> Incoming {
    if line == "{}" {
        return Incoming::Ping;
    }
    let parsed: Line<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    match parsed.push {
        Some(Push { channel, publication: Some(Body { data, offset, tags, info }) }) => {
            let (channel, data) = (channel.unwrap_or_default(), data.get().to_owned());
            Incoming::Publication(Publication { channel, data, offset, tags, info })
        }
        Some(_) => Incoming::Push(serde_json::from_str(line).unwrap()),
        None => Incoming::Reply(serde_json::from_str(line).unwrap()),
    }
}

/// A reply of Protobuf, in the shape that it has in JSON.
fn value(reply: Value) -> Incoming {
    if reply.as_object().is_some_and(serde_json::Map::is_empty) {
        return Incoming::Ping;
    }
    match reply["push"].get("pub") {
        Some(publication) => {
            let channel = reply["push"]["channel"].as_str().unwrap_or_default().to_owned();
            Incoming::Publication(Publication::read(channel, publication))
        }
        None if reply.get("push").is_some() => Incoming::Push(reply),
        None => Incoming::Reply(reply),
    }
}
