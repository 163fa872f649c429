//! Values as servers hand them out whole: DUMP, with the moment of expiry.
//!
//! Owns what is known of a key and its value. Must never be used for values that are too large to hold.

use std::fmt;

use redis::Value;

use super::clock::Expiry;
use super::error::{Error, server_message};
use super::keyspace::{KeyCommand, Keyspace, read};

/// A type of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    /// A module's, of which only DUMP supports the content.
    Other(String),
}

impl ValueType {
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

impl fmt::Display for ValueType {
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
    pub(super) fn checksum(&self) -> Option<u64> {
        self.payload.last_chunk::<8>().map(|last| u64::from_le_bytes(*last))
    }
}

/// What asking for a value came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DumpReply {
    Missing,
    Dump(Dump),
    /// The server will not hand it out whole.
    Rejected(String),
}

/// Reads values whole, in one round trip.
pub(super) async fn dumps(space: &mut Keyspace, keys: &[&[u8]]) -> Result<Vec<DumpReply>, Error> {
    if !space.supports("DUMP") {
        return Ok(vec![DumpReply::Rejected(format!("{} does not know DUMP", space.name())); keys.len()]);
    }
    let calls = keys.iter().flat_map(|key| [KeyCommand::new("DUMP", key), space.expiry(key)]).collect();
    let mut answers = space.query(calls).await?.into_iter();
    let mut found = Vec::with_capacity(keys.len());
    while let (Some(payload), Some(expiry)) = (answers.next(), answers.next()) {
        found.push(parse_dump(space, payload, expiry)?);
    }
    Ok(found)
}

fn parse_dump(space: &Keyspace, payload: Value, expiry: Value) -> Result<DumpReply, Error> {
    match payload {
        Value::BulkString(payload) => Ok(match space.read_expiry(expiry)? {
            Expiry::Gone => DumpReply::Missing,
            expiry => DumpReply::Dump(Dump { payload, expiry }),
        }),
        Value::Nil => Ok(DumpReply::Missing),
        Value::ServerError(error) => match Error::answer(space.name(), &error) {
            Error::Key(_) => Ok(DumpReply::Rejected(server_message(&error))),
            trouble => Err(trouble),
        },
        _ => Err(Error::Key(format!("{}: an answer to DUMP that nobody understands", space.name()))),
    }
}

/// A key's type, and how many bytes it takes, about; `None`: no such key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyInfo {
    pub(super) kind: ValueType,
    /// Zero where the server does not tell.
    pub(super) bytes: u64,
}

/// Measures keys in one round trip.
pub(super) async fn key_info(space: &mut Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<KeyInfo>>, Error> {
    let mut calls: Vec<KeyCommand> = keys.iter().map(|key| KeyCommand::new("TYPE", key)).collect();
    if space.supports("MEMORY") {
        calls.extend(keys.iter().map(|key| KeyCommand::sub("MEMORY", "EXIT_USAGE", key)));
    }
    let mut kinds = space.query(calls).await?;
    let mut sizes = kinds.split_off(keys.len()).into_iter();
    let mut infos = Vec::with_capacity(keys.len());
    for kind in kinds {
        let kind = ValueType::read(&read::<String>(space.name(), kind)?);
        // Where MEMORY EXIT_USAGE is not allowed, sizes are unknown, and values are taken for small ones.
        let bytes = sizes.next().and_then(|bytes| read::<u64>(space.name(), bytes).ok());
        infos.push(kind.map(|kind| KeyInfo { kind, bytes: bytes.unwrap_or(0) }));
    }
    Ok(infos)
}
