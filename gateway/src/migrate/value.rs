//! Values as servers hand them out whole: DUMP, with the moment of expiry.
//!
//! Owns what is known of a key and its value. Must never be used for values that are too large to hold.

use std::fmt;

use redis::Value;

use super::clock::Expiry;
use super::keyspace::{Call, Keyspace, read};
use super::trouble::{Trouble, said};

/// A type of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    /// A module's, of which only DUMP knows the content.
    Other(String),
}

impl Kind {
    /// Reads the answer to TYPE; `None`: no such key.
    pub(super) fn read(answer: &str) -> Option<Self> {
        Some(match answer {
            "none" => return None,
            "string" => Self::String,
            "list" => Self::List,
            "set" => Self::Set,
            "zset" => Self::SortedSet,
            "hash" => Self::Hash,
            "stream" => Self::Stream,
            other => Self::Other(other.to_owned()),
        })
    }

    /// As TYPE says it.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value in the server's own format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dump {
    pub(super) payload: Vec<u8>,
    pub(super) expiry: Expiry,
}

impl Dump {
    /// The CRC-64 that every payload ends with.
    pub(super) fn stamp(&self) -> Option<u64> {
        self.payload.last_chunk::<8>().map(|last| u64::from_le_bytes(*last))
    }
}

/// What asking for a value came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Gone,
    Dump(Dump),
    /// The server will not hand it out whole.
    Refused(String),
}

/// Reads values whole, in one round trip.
pub(super) async fn dumps(space: &mut Keyspace, keys: &[&[u8]]) -> Result<Vec<Found>, Trouble> {
    if !space.knows("DUMP") {
        return Ok(vec![Found::Refused(format!("{} does not know DUMP", space.name())); keys.len()]);
    }
    let calls = keys.iter().flat_map(|key| [Call::new("DUMP", key), space.expiry(key)]).collect();
    let mut answers = space.ask(calls).await?.into_iter();
    let mut found = Vec::with_capacity(keys.len());
    while let (Some(payload), Some(expiry)) = (answers.next(), answers.next()) {
        found.push(judge(space, payload, expiry)?);
    }
    Ok(found)
}

fn judge(space: &Keyspace, payload: Value, expiry: Value) -> Result<Found, Trouble> {
    match payload {
        Value::BulkString(payload) => Ok(match space.read_expiry(expiry)? {
            Expiry::Gone => Found::Gone,
            expiry => Found::Dump(Dump { payload, expiry }),
        }),
        Value::Nil => Ok(Found::Gone),
        Value::ServerError(error) => match Trouble::answer(space.name(), &error) {
            Trouble::Key(_) => Ok(Found::Refused(said(&error))),
            trouble => Err(trouble),
        },
        _ => Err(Trouble::Key(format!("{}: an answer to DUMP that nobody understands", space.name()))),
    }
}

/// A key's type, and how many bytes it takes, about; `None`: no such key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) kind: Kind,
    /// Zero where the server does not tell.
    pub(super) bytes: u64,
}

/// Measures keys in one round trip.
pub(super) async fn measure(space: &mut Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Measure>>, Trouble> {
    let mut calls: Vec<Call> = keys.iter().map(|key| Call::new("TYPE", key)).collect();
    if space.knows("MEMORY") {
        calls.extend(keys.iter().map(|key| Call::sub("MEMORY", "USAGE", key)));
    }
    let mut kinds = space.ask(calls).await?;
    let mut sizes = kinds.split_off(keys.len()).into_iter();
    let mut measures = Vec::with_capacity(keys.len());
    for kind in kinds {
        let kind = Kind::read(&read::<String>(space.name(), kind)?);
        // Where MEMORY USAGE is not allowed, sizes are unknown, and values are taken for small ones.
        let bytes = sizes.next().and_then(|bytes| read::<u64>(space.name(), bytes).ok());
        measures.push(kind.map(|kind| Measure { kind, bytes: bytes.unwrap_or(0) }));
    }
    Ok(measures)
}
