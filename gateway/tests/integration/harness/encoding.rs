//! The two encodings of the WebSocket protocol: encodes commands, decodes messages. It must never repair a message.

use serde_json::Value;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::protobuf;
use super::ws::{Incoming, Publication};

/// The encoding of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub(crate) const BOTH: [Self; 2] = [Self::Json, Self::Protobuf];

    /// The path that selects this encoding.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Json => "/connection/websocket",
            Self::Protobuf => "/connection/websocket?cf_protocol=protobuf",
        }
    }

    /// One message with these commands.
    pub(crate) fn commands(self, commands: &[Value]) -> Message {
        match self {
            Self::Json => Message::text(commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")),
            Self::Protobuf => Message::binary(commands.iter().flat_map(protobuf::command).collect::<Bytes>()),
        }
    }

    /// The response to a protocol ping.
    pub(crate) fn pong(self) -> Message {
        match self {
            Self::Json => Message::text("{}"),
            Self::Protobuf => Message::binary(vec![0]),
        }
    }

    /// Everything in a message of the gateway, in order.
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

/// Decodes a line of JSON; the data of a publication is kept as received.
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

/// Converts a Protobuf reply, which already has the shape of its JSON.
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
