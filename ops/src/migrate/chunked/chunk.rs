//! A chunk of a value: how it is read, written and compared.
//!
//! Owns the commands of each type and the cursors between chunks. Must never interpret an element.

use redis::Value;

use super::super::error::{Error, check_reply};
use super::super::keyspace::{KeyCommand, Keyspace, read as read_answer};
use super::super::value::ValueType;
use super::{CHUNK_BYTES, query_each};

/// Some elements of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Chunk {
    Bytes(Vec<u8>),
    /// List elements.
    Items(Vec<Vec<u8>>),
    /// Set members.
    Members(Vec<Vec<u8>>),
    /// Hash fields with values.
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
    Scored(Vec<(Vec<u8>, f64)>),
    /// Stream entries: id, and fields with values.
    Entries(Vec<(String, Vec<Vec<u8>>)>),
}

/// Cursor of the first chunk.
pub(super) fn first_cursor(kind: &ValueType) -> String {
    match kind {
        ValueType::Stream => "-".to_owned(),
        _ => "0".to_owned(),
    }
}

/// Reads the chunk at a cursor; returns it with the next cursor, or `None` at the end.
pub(super) async fn read(
    space: &mut Keyspace,
    key: &[u8],
    kind: &ValueType,
    from: &str,
    count: u64,
) -> Result<(Chunk, Option<String>), Error> {
    match kind {
        ValueType::Set | ValueType::Hash => scan(space, key, kind, from, count).await,
        ValueType::Stream => {
            let answer = space
                .query_one(KeyCommand::new("XRANGE", key).arg(from).arg("+").arg("COUNT").arg(count))
                .await?;
            let entries = entries(answer).ok_or_else(|| unexpected_reply("XRANGE"))?;
            // An exclusive range, which needs Redis 6.2.
            let next =
                entries.last().filter(|_| entries.len() as u64 == count).map(|(id, _)| format!("({id}"));
            Ok((Chunk::Entries(entries), next))
        }
        _ => range(space, key, kind, from, count).await,
    }
}

async fn range(
    space: &mut Keyspace,
    key: &[u8],
    kind: &ValueType,
    from: &str,
    count: u64,
) -> Result<(Chunk, Option<String>), Error> {
    let start: u64 = from.parse().unwrap_or(0);
    let step = if *kind == ValueType::String { CHUNK_BYTES } else { count };
    let last = start + step - 1;
    let (chunk, length) = match kind {
        ValueType::String => {
            let bytes: Vec<u8> =
                space.query_one(KeyCommand::new("GETRANGE", key).arg(start).arg(last)).await?;
            let length = bytes.len();
            (Chunk::Bytes(bytes), length)
        }
        ValueType::SortedSet => {
            let call = KeyCommand::new("ZRANGE", key).arg(start).arg(last).arg("WITHSCORES");
            let scored = scored(space.query_one(call).await?).ok_or_else(|| unexpected_reply("ZRANGE"))?;
            let length = scored.len();
            (Chunk::Scored(scored), length)
        }
        _ => {
            let items: Vec<Vec<u8>> =
                space.query_one(KeyCommand::new("LRANGE", key).arg(start).arg(last)).await?;
            let length = items.len();
            (Chunk::Items(items), length)
        }
    };
    Ok((chunk, (length as u64 == step).then(|| (start + step).to_string())))
}

async fn scan(
    space: &mut Keyspace,
    key: &[u8],
    kind: &ValueType,
    from: &str,
    count: u64,
) -> Result<(Chunk, Option<String>), Error> {
    let command = if *kind == ValueType::Set { "SSCAN" } else { "HSCAN" };
    let call = KeyCommand::new(command, key).arg(from).arg("COUNT").arg(count);
    let (cursor, elements): (String, Vec<Vec<u8>>) = space.query_one(call).await?;
    let chunk =
        if *kind == ValueType::Set { Chunk::Members(elements) } else { Chunk::Pairs(pairs(elements)) };
    Ok((chunk, (cursor != "0").then_some(cursor)))
}

impl Chunk {
    /// Commands that append the chunk to a key.
    pub(super) fn write(self, key: &[u8]) -> Vec<KeyCommand> {
        let one = |name: &str| KeyCommand::new(name, key);
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => vec![one("SET").arg("")],
            Self::Bytes(bytes) => vec![one("APPEND").arg(bytes)],
            Self::Items(items) if !items.is_empty() => vec![one("RPUSH").arg(items)],
            Self::Members(members) if !members.is_empty() => vec![one("SADD").arg(members)],
            Self::Pairs(pairs) if !pairs.is_empty() => {
                vec![pairs.into_iter().fold(one("HSET"), |call, (field, value)| call.arg(field).arg(value))]
            }
            Self::Scored(scored) if !scored.is_empty() => {
                vec![
                    scored.into_iter().fold(one("ZADD"), |call, (member, score)| call.arg(score).arg(member)),
                ]
            }
            Self::Entries(entries) => {
                entries.into_iter().map(|(id, fields)| one("XADD").arg(id).arg(fields)).collect()
            }
            Self::Items(_) | Self::Members(_) | Self::Pairs(_) | Self::Scored(_) => Vec::new(),
        }
    }

    /// Whether a set or hash contains the whole chunk. With equal lengths, this implies equality.
    pub(super) async fn is_contained_in(&self, space: &mut Keyspace, key: &[u8]) -> Result<bool, Error> {
        match self {
            Self::Members(members) => {
                let calls =
                    members.iter().map(|member| KeyCommand::new("SISMEMBER", key).arg(member)).collect();
                Ok(query_each::<i64>(space, calls).await?.into_iter().all(|found| found == 1))
            }
            Self::Pairs(pairs) if pairs.is_empty() => Ok(true),
            Self::Pairs(pairs) => {
                let fields: Vec<&[u8]> = pairs.iter().map(|(field, _)| field.as_slice()).collect();
                let values: Vec<Option<Vec<u8>>> =
                    space.query_one(KeyCommand::new("HMGET", key).arg(fields)).await?;
                Ok(pairs.iter().map(|(_, value)| Some(value)).eq(values.iter().map(Option::as_ref)))
            }
            _ => Ok(false),
        }
    }
}

fn pairs(flat: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((field, value));
    }
    pairs
}

fn scored(answer: Value) -> Option<Vec<(Vec<u8>, f64)>> {
    let Value::Array(rows) = answer else { return None };
    let row = |row| match row {
        Value::Array(row) => match <[Value; 2]>::try_from(row) {
            Ok([Value::BulkString(member), Value::Double(score)]) => Some((member, score)),
            _ => None,
        },
        _ => None,
    };
    rows.into_iter().map(row).collect()
}

/// Parses a reply to XRANGE.
pub(super) fn entries(answer: Value) -> Option<Vec<(String, Vec<Vec<u8>>)>> {
    let Value::Array(rows) = answer else { return None };
    rows.into_iter().map(|row| redis::from_redis_value(row).ok()).collect()
}

/// Whether each of these ids exists in a stream.
pub(super) async fn existing(space: &mut Keyspace, key: &[u8], ids: &[String]) -> Result<Vec<bool>, Error> {
    let calls = ids.iter().map(|id| KeyCommand::new("XRANGE", key).arg(id).arg(id)).collect();
    let answers = space.query(calls).await?;
    answers
        .into_iter()
        .map(|answer| {
            read_answer::<Vec<Value>>(space.name(), check_reply(space.name(), answer)?)
                .map(|rows| !rows.is_empty())
        })
        .collect()
}

fn unexpected_reply(command: &str) -> Error {
    Error::Key(format!("unexpected reply to {command}"))
}
