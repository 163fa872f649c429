//! One piece of a value: how it is read, written, and found again.
//!
//! Owns the commands of each type and the marks between two pieces. Must never interpret an element.

use redis::Value;

use super::super::keyspace::{Call, Keyspace, read as read_answer};
use super::super::trouble::{Trouble, checked};
use super::super::value::Kind;
use super::{PIECE_BYTES, ask_each};

/// Some of a value's elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// Of a list.
    Items(Vec<Vec<u8>>),
    /// Of a set.
    Members(Vec<Vec<u8>>),
    /// Of a hash.
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
    Scored(Vec<(Vec<u8>, f64)>),
    /// Of a stream: id, and fields with values.
    Entries(Vec<(String, Vec<Vec<u8>>)>),
}

/// The mark before the first piece.
pub(super) fn beginning(kind: &Kind) -> String {
    match kind {
        Kind::Stream => "-".to_owned(),
        _ => "0".to_owned(),
    }
}

/// Reads the piece behind a mark, and the mark behind the piece; `None` at the end.
pub(super) async fn read(
    space: &mut Keyspace,
    key: &[u8],
    kind: &Kind,
    from: &str,
    count: u64,
) -> Result<(Piece, Option<String>), Trouble> {
    match kind {
        Kind::Set | Kind::Hash => scan(space, key, kind, from, count).await,
        Kind::Stream => {
            let answer =
                space.ask_one(Call::new("XRANGE", key).arg(from).arg("+").arg("COUNT").arg(count)).await?;
            let entries = entries(answer).ok_or_else(|| strange("XRANGE"))?;
            // The mark excludes the entry itself; that needs Redis 6.2.
            let next =
                entries.last().filter(|_| entries.len() as u64 == count).map(|(id, _)| format!("({id}"));
            Ok((Piece::Entries(entries), next))
        }
        _ => range(space, key, kind, from, count).await,
    }
}

async fn range(
    space: &mut Keyspace,
    key: &[u8],
    kind: &Kind,
    from: &str,
    count: u64,
) -> Result<(Piece, Option<String>), Trouble> {
    let start: u64 = from.parse().unwrap_or(0);
    let step = if *kind == Kind::String { PIECE_BYTES } else { count };
    let last = start + step - 1;
    let (piece, length) = match kind {
        Kind::String => {
            let bytes: Vec<u8> = space.ask_one(Call::new("GETRANGE", key).arg(start).arg(last)).await?;
            let length = bytes.len();
            (Piece::Bytes(bytes), length)
        }
        Kind::SortedSet => {
            let call = Call::new("ZRANGE", key).arg(start).arg(last).arg("WITHSCORES");
            let scored = scored(space.ask_one(call).await?).ok_or_else(|| strange("ZRANGE"))?;
            let length = scored.len();
            (Piece::Scored(scored), length)
        }
        _ => {
            let items: Vec<Vec<u8>> = space.ask_one(Call::new("LRANGE", key).arg(start).arg(last)).await?;
            let length = items.len();
            (Piece::Items(items), length)
        }
    };
    Ok((piece, (length as u64 == step).then(|| (start + step).to_string())))
}

async fn scan(
    space: &mut Keyspace,
    key: &[u8],
    kind: &Kind,
    from: &str,
    count: u64,
) -> Result<(Piece, Option<String>), Trouble> {
    let command = if *kind == Kind::Set { "SSCAN" } else { "HSCAN" };
    let call = Call::new(command, key).arg(from).arg("COUNT").arg(count);
    let (cursor, elements): (String, Vec<Vec<u8>>) = space.ask_one(call).await?;
    let piece = if *kind == Kind::Set { Piece::Members(elements) } else { Piece::Pairs(pairs(elements)) };
    Ok((piece, (cursor != "0").then_some(cursor)))
}

impl Piece {
    /// The commands that add it to a key.
    pub(super) fn write(self, key: &[u8]) -> Vec<Call> {
        let one = |name: &str| Call::new(name, key);
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

    /// Whether a set or hash has all of it. With lengths that are equal, that makes the values equal.
    pub(super) async fn is_within(&self, space: &mut Keyspace, key: &[u8]) -> Result<bool, Trouble> {
        match self {
            Self::Members(members) => {
                let calls = members.iter().map(|member| Call::new("SISMEMBER", key).arg(member)).collect();
                Ok(ask_each::<i64>(space, calls).await?.into_iter().all(|found| found == 1))
            }
            Self::Pairs(pairs) if pairs.is_empty() => Ok(true),
            Self::Pairs(pairs) => {
                let fields: Vec<&[u8]> = pairs.iter().map(|(field, _)| field.as_slice()).collect();
                let values: Vec<Option<Vec<u8>>> = space.ask_one(Call::new("HMGET", key).arg(fields)).await?;
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

/// Reads the answer to XRANGE.
pub(super) fn entries(answer: Value) -> Option<Vec<(String, Vec<Vec<u8>>)>> {
    let Value::Array(rows) = answer else { return None };
    rows.into_iter().map(|row| redis::from_redis_value(row).ok()).collect()
}

/// Asks for the ids that exist among some of a stream.
pub(super) async fn existing(space: &mut Keyspace, key: &[u8], ids: &[String]) -> Result<Vec<bool>, Trouble> {
    let calls = ids.iter().map(|id| Call::new("XRANGE", key).arg(id).arg(id)).collect();
    let answers = space.ask(calls).await?;
    answers
        .into_iter()
        .map(|answer| {
            read_answer::<Vec<Value>>(space.name(), checked(space.name(), answer)?)
                .map(|rows| !rows.is_empty())
        })
        .collect()
}

fn strange(command: &str) -> Trouble {
    Trouble::Key(format!("an answer to {command} that nobody understands"))
}
