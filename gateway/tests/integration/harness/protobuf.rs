//! The Protobuf encoding by hand, from tables of field numbers; an unknown field fails the test. Values have the shape
//! of the JSON encoding. It must never use the codec of the gateway.

use serde_json::{Map, Value};

/// A field: number, name and kind.
type Field = (u64, &'static str, Kind);

#[derive(Clone, Copy)]
enum Kind {
    Number,
    Flag,
    Text,
    /// Bytes that hold JSON.
    Json,
    One(&'static [Field]),
    Many(&'static [Field]),
    Map(&'static [Field]),
    /// A map of strings.
    Texts,
}

use Kind::{Flag, Json, Many, Number, One, Text, Texts};

const COMMAND: &[Field] = &[
    (1, "id", Number),
    (4, "connect", One(CONNECT)),
    (5, "subscribe", One(SUBSCRIBE)),
    (6, "unsubscribe", One(&[(1, "channel", Text)])),
    (7, "publish", One(&[(1, "channel", Text), (2, "data", Json)])),
    (10, "history", One(HISTORY)),
];
const CONNECT: &[Field] = &[(3, "subs", Kind::Map(SUBSCRIBE))];
const SUBSCRIBE: &[Field] = &[
    (1, "channel", Text),
    (3, "recover", Flag),
    (6, "epoch", Text),
    (7, "offset", Number),
    (9, "positioned", Flag),
    (10, "recoverable", Flag),
    (14, "flag", Number),
];
const HISTORY: &[Field] =
    &[(1, "channel", Text), (7, "limit", Number), (8, "since", One(POSITION)), (9, "reverse", Flag)];
const POSITION: &[Field] = &[(1, "offset", Number), (2, "epoch", Text)];

const REPLY: &[Field] = &[
    (1, "id", Number),
    (2, "error", One(&[(1, "code", Number), (2, "message", Text), (3, "temporary", Flag)])),
    (4, "push", One(PUSH)),
    (5, "connect", One(CONNECTED)),
    (6, "subscribe", One(SUBSCRIBED)),
    (7, "unsubscribe", One(&[])),
    (8, "publish", One(&[])),
    (
        11,
        "history",
        One(&[(1, "publications", Many(PUBLICATION)), (2, "epoch", Text), (3, "offset", Number)]),
    ),
];
const PUSH: &[Field] = &[
    (2, "channel", Text),
    (4, "pub", One(PUBLICATION)),
    (7, "unsubscribe", One(&[(2, "code", Number), (3, "reason", Text)])),
];
const PUBLICATION: &[Field] =
    &[(4, "data", Json), (5, "info", One(INFO)), (6, "offset", Number), (7, "tags", Texts)];
const INFO: &[Field] = &[(1, "user", Text), (2, "client", Text)];
const CONNECTED: &[Field] = &[
    (1, "client", Text),
    (2, "version", Text),
    (6, "subs", Kind::Map(SUBSCRIBED)),
    (7, "ping", Number),
    (8, "pong", Flag),
];
const SUBSCRIBED: &[Field] = &[
    (3, "recoverable", Flag),
    (6, "epoch", Text),
    (7, "publications", Many(PUBLICATION)),
    (8, "recovered", Flag),
    (9, "offset", Number),
    (10, "positioned", Flag),
    (12, "was_recovering", Flag),
];

/// A length-delimited command.
pub(super) fn command(command: &Value) -> Vec<u8> {
    delimited(&encode(command, COMMAND))
}

/// All replies of a message.
pub(super) fn replies(mut message: &[u8]) -> Vec<Value> {
    let mut replies = Vec::new();
    while !message.is_empty() {
        let body = take(&mut message);
        replies.push(decode(body, REPLY));
    }
    replies
}

fn encode(value: &Value, fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().unwrap() {
        let (number, _, kind) = fields.iter().find(|(_, known, _)| known == name).unwrap();
        match kind {
            // A negative number is encoded as 64-bit two's complement.
            Number => {
                let bits = value.as_u64().unwrap_or_else(|| value.as_i64().unwrap().cast_unsigned());
                out.extend([varint(number << 3), varint(bits)].concat());
            }
            Flag => out.extend([varint(number << 3), varint(value.as_bool().unwrap().into())].concat()),
            Text => out.extend(bytes(*number, value.as_str().unwrap().as_bytes())),
            Json => out.extend(bytes(*number, value.to_string().as_bytes())),
            One(fields) => out.extend(bytes(*number, &encode(value, fields))),
            Many(fields) => {
                let all = value.as_array().unwrap().iter();
                out.extend(all.flat_map(|value| bytes(*number, &encode(value, fields))));
            }
            Kind::Map(fields) => {
                for (key, value) in value.as_object().unwrap() {
                    let entry = [bytes(1, key.as_bytes()), bytes(2, &encode(value, fields))].concat();
                    out.extend(bytes(*number, &entry));
                }
            }
            Texts => unreachable!("no command has them"),
        }
    }
    out
}

fn decode(mut body: &[u8], fields: &[Field]) -> Value {
    let mut object = Map::new();
    while !body.is_empty() {
        let tag = read(&mut body);
        let Some((_, name, kind)) = fields.iter().find(|(number, _, _)| *number == tag >> 3) else {
            panic!("field {} is not in the schema: {object:?}", tag >> 3)
        };
        let place = object.entry(*name);
        match kind {
            Number => drop(place.or_insert_with(|| read(&mut body).into())),
            Flag => drop(place.or_insert_with(|| (read(&mut body) != 0).into())),
            Text => drop(place.or_insert_with(|| text(take(&mut body)).into())),
            Json => {
                let data = take(&mut body);
                place.or_insert_with(|| serde_json::from_slice(data).unwrap_or_else(|_| text(data).into()));
            }
            One(fields) => drop(place.or_insert_with(|| decode(take(&mut body), fields))),
            Many(fields) => {
                let value = decode(take(&mut body), fields);
                place.or_insert_with(|| Value::Array(Vec::new())).as_array_mut().unwrap().push(value);
            }
            Kind::Map(fields) => {
                let entry = decode(take(&mut body), &[(1, "key", Text), (2, "value", One(fields))]);
                let key = entry["key"].as_str().unwrap_or_default().to_owned();
                let map = place.or_insert_with(|| Map::new().into()).as_object_mut().unwrap();
                map.insert(key, entry["value"].clone());
            }
            Texts => {
                let entry = decode(take(&mut body), &[(1, "key", Text), (2, "value", Text)]);
                let text = |name| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let map = place.or_insert_with(|| Map::new().into()).as_object_mut().unwrap();
                map.insert(text("key"), text("value").into());
            }
        }
    }
    object.into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), delimited(content)].concat()
}

fn delimited(content: &[u8]) -> Vec<u8> {
    [&varint(content.len() as u64)[..], content].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn read(body: &mut &[u8]) -> u64 {
    let length = 1 + body.iter().position(|byte| byte & 0x80 == 0).expect("a whole varint");
    let (digits, rest) = body.split_at(length);
    *body = rest;
    digits.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn take<'a>(body: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(read(body)).unwrap();
    let (content, rest) = body.split_at(length);
    *body = rest;
    content
}
