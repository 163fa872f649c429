//! Whole values: DUMP with the expiry.
//!
//! Owns the facts about a key and its value. Must never be used for values that are too large for memory.

use std::fmt;

use redis::Value;

use super::clock::Expiry;
use super::error::{Error, server_message};
use super::keyspace::{KeyCommand, Keyspace, read};

/// Redis type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    /// Type of a module, whose content is accessible only with DUMP.
    Other(String),
}

impl ValueType {
    /// Parses the reply to TYPE; `None` if the key does not exist.
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

    /// Name as in the reply to TYPE.
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

/// Serialized value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dump {
    pub(super) payload: Vec<u8>,
    pub(super) expiry: Expiry,
}

impl Dump {
    /// CRC-64 at the end of the payload.
    pub(super) fn checksum(&self) -> Option<u64> {
        self.payload.last_chunk::<8>().map(|last| u64::from_le_bytes(*last))
    }
}

/// Result of DUMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DumpReply {
    Missing,
    Dump(Dump),
    /// The server rejected the command.
    Rejected(String),
}

/// Reads values in one round trip.
pub(super) async fn dumps(space: &mut Keyspace, keys: &[&[u8]]) -> Result<Vec<DumpReply>, Error> {
    if !space.supports("DUMP") {
        return Ok(vec![DumpReply::Rejected(format!("{} does not support DUMP", space.name())); keys.len()]);
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
            error => Err(error),
        },
        _ => Err(Error::Key(format!("{}: unexpected reply to DUMP", space.name()))),
    }
}

/// Type and approximate size of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyInfo {
    pub(super) kind: ValueType,
    /// Zero if the server does not report it.
    pub(super) bytes: u64,
}

/// Reads type and size of keys in one round trip; `None` for missing keys.
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
        // Without permission for MEMORY USAGE, sizes are unknown and values are treated as small.
        let bytes = sizes.next().and_then(|bytes| read::<u64>(space.name(), bytes).ok());
        infos.push(kind.map(|kind| KeyInfo { kind, bytes: bytes.unwrap_or(0) }));
    }
    Ok(infos)
}
