//! The commands of the store, and their replies.
//!
//! Owns the commands on the wire. Pure. A key is read by its type: several keys in one command would have to be in one
//! hash slot and of one type.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

use super::error::{ErrorScope, StoreError, check};
use super::key::{KeyType, KeyValue};
use super::status::ServerRole;
use super::watch_table::WatchId;

/// A request of a caller.
#[derive(Debug)]
pub(super) enum StoreRequest {
    /// Reads a key; for a watched key, also its TTL.
    Read { key: Bytes, kind: KeyType, watch: Option<WatchId> },
    /// Stores a string with a TTL.
    Set { key: Bytes, value: Bytes, ttl: Duration },
    /// Deletes a key.
    Delete { key: Bytes },
    /// Extends a TTL.
    Touch { key: Bytes, ttl: Duration },
    /// Runs a script on one key, which returns a string or nil.
    ReadByScript { key: Bytes, script: &'static str },
    /// Runs a script on one key, which returns an integer.
    Script { script: &'static str, key: Bytes, arguments: Vec<Bytes> },
}

/// The reply to a request.
#[derive(Debug)]
pub(super) enum StoreReply {
    /// The value and the TTL of a key that is watched.
    Watched(WatchedValue),
    /// The value of a key.
    Value(Option<KeyValue>),
    /// Whether the key was changed.
    Changed(bool),
    /// The result of a script.
    Number(i64),
}

impl StoreRequest {
    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Read { key, .. }
            | Self::Set { key, .. }
            | Self::Delete { key }
            | Self::Touch { key, .. }
            | Self::Script { key, .. }
            | Self::ReadByScript { key, .. } => key,
        }
    }

    /// Bytes of key and value.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Set { key, value, .. } => key.len() + value.len(),
            Self::Script { key, arguments, .. } => {
                key.len() + arguments.iter().map(Bytes::len).sum::<usize>()
            }
            Self::Read { .. } | Self::Delete { .. } | Self::Touch { .. } | Self::ReadByScript { .. } => {
                self.key().len()
            }
        }
    }

    /// Whether it only reads.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    /// The watched key that it reads.
    pub(super) fn watch(&self) -> Option<WatchId> {
        match self {
            Self::Read { watch, .. } => *watch,
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::Touch { .. }
            | Self::Script { .. }
            | Self::ReadByScript { .. } => None,
        }
    }

    /// Adds the command to a pipeline; for a watched key, [`write_watched_read`] adds it.
    pub(super) fn write(&self, pipeline: &mut Pipeline) {
        match self {
            Self::Read { key, kind, watch: None } => write_read(pipeline, key, *kind),
            Self::Read { key, kind, watch: Some(_) } => write_watched_read(pipeline, key, *kind),
            Self::Set { key, value, ttl } => {
                pipeline.cmd("SET").arg(&key[..]).arg(&value[..]).arg("PX").arg(milliseconds(*ttl));
            }
            Self::Delete { key } => {
                pipeline.cmd("DEL").arg(&key[..]);
            }
            Self::Touch { key, ttl } => {
                pipeline.cmd("PEXPIRE").arg(&key[..]).arg(milliseconds(*ttl)).arg("GT");
            }
            Self::ReadByScript { key, script } => {
                pipeline.cmd("EVAL").arg(*script).arg(1).arg(&key[..]);
            }
            Self::Script { script, key, arguments } => {
                let command = pipeline.cmd("EVAL").arg(*script).arg(1).arg(&key[..]);
                arguments.iter().fold(command, |command, argument| command.arg(&argument[..]));
            }
        }
    }

    /// Parses the reply to any request except the read of a watched key.
    pub(super) fn parse(&self, reply: Value) -> Result<StoreReply, (StoreError, ErrorScope)> {
        match self {
            Self::Read { kind, .. } => parse_value(*kind, reply).map(StoreReply::Value),
            Self::ReadByScript { .. } => parse_value(KeyType::String, reply).map(StoreReply::Value),
            Self::Script { .. } => match check(reply)? {
                Value::Int(number) => Ok(StoreReply::Number(number)),
                _ => Err(unexpected()),
            },
            Self::Set { .. } => check(reply).map(|_| StoreReply::Changed(true)),
            Self::Delete { .. } | Self::Touch { .. } => {
                check(reply).map(|reply| StoreReply::Changed(matches!(reply, Value::Int(1..))))
            }
        }
    }
}

/// At least one millisecond: Redis rejects 0.
fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn write_read(pipeline: &mut Pipeline, key: &[u8], kind: KeyType) {
    let command = match kind {
        KeyType::String => "GET",
        KeyType::Hash => "HGETALL",
        KeyType::Exists => "EXISTS",
    };
    pipeline.cmd(command).arg(key);
}

/// Adds the two commands that read a watched key.
pub(super) fn write_watched_read(pipeline: &mut Pipeline, key: &[u8], kind: KeyType) {
    write_read(pipeline, key, kind);
    pipeline.cmd("PTTL").arg(key);
}

/// The reply to the read of a watched key.
#[derive(Debug)]
pub(super) struct WatchedValue {
    pub(super) value: Option<KeyValue>,
    pub(super) expires_in: Option<Duration>,
}

/// Parses the replies to [`write_watched_read`]. A TTL that cannot be read counts as none.
pub(super) fn parse_watched_read(
    kind: KeyType,
    value: Value,
    ttl: &Value,
) -> Result<WatchedValue, (StoreError, ErrorScope)> {
    let value = parse_value(kind, value)?;
    let expires_in = match ttl {
        Value::Int(ttl) => u64::try_from(*ttl).ok().map(Duration::from_millis),
        _ => None,
    };
    Ok(WatchedValue { value, expires_in })
}

fn parse_value(kind: KeyType, reply: Value) -> Result<Option<KeyValue>, (StoreError, ErrorScope)> {
    match (kind, check(reply)?) {
        (KeyType::Exists, Value::Int(0)) | (KeyType::String, Value::Nil) => Ok(None),
        (KeyType::Exists, Value::Int(_)) => Ok(Some(KeyValue::Present)),
        (KeyType::String, Value::BulkString(value)) => Ok(Some(KeyValue::Bytes(value.into()))),
        (KeyType::Hash, reply) => {
            let fields = parse_hash(reply).ok_or_else(unexpected)?;
            // Redis keeps no empty hash.
            Ok((!fields.is_empty()).then_some(KeyValue::Hash(fields)))
        }
        _ => Err(unexpected()),
    }
}

fn parse_hash(reply: Value) -> Option<Vec<(Bytes, Bytes)>> {
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        _ => None,
    };
    match reply {
        Value::Array(values) => {
            let mut values = values.into_iter();
            let mut fields = Vec::with_capacity(values.len() / 2);
            while let Some(name) = values.next() {
                fields.push((bytes(name)?, bytes(values.next()?)?));
            }
            Some(fields)
        }
        Value::Map(fields) => {
            fields.into_iter().map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect()
        }
        _ => None,
    }
}

fn unexpected() -> (StoreError, ErrorScope) {
    (StoreError::Rejected("the reply has an unexpected type".to_owned()), ErrorScope::Command)
}

/// Parses the reply to `ROLE`.
pub(super) fn parse_role(reply: &Value) -> ServerRole {
    let Value::Array(parts) = reply else { return ServerRole::Unknown };
    match parts.first() {
        Some(Value::BulkString(name)) if name == b"master" => ServerRole::Primary,
        Some(Value::BulkString(name)) if name == b"slave" => ServerRole::Replica,
        _ => ServerRole::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::BulkString(value.into())
    }

    #[test]
    fn parses_values_by_type() {
        let bytes = |value: &'static str| Bytes::from(value);
        let hash = KeyValue::Hash(vec![(bytes("a"), bytes("1"))]);
        for (kind, reply, value) in [
            (KeyType::String, Value::Nil, None),
            (KeyType::String, text("x"), Some(KeyValue::Bytes(bytes("x")))),
            (KeyType::Hash, Value::Array(Vec::new()), None),
            (KeyType::Hash, Value::Map(Vec::new()), None),
            (KeyType::Hash, Value::Array(vec![text("a"), text("1")]), Some(hash.clone())),
            (KeyType::Hash, Value::Map(vec![(text("a"), text("1"))]), Some(hash)),
            (KeyType::Exists, Value::Int(0), None),
            (KeyType::Exists, Value::Int(1), Some(KeyValue::Present)),
        ] {
            assert_eq!(parse_value(kind, reply), Ok(value));
        }
        for (kind, reply) in [
            (KeyType::String, Value::Int(1)),
            (KeyType::Hash, Value::Nil),
            (KeyType::Hash, Value::Array(vec![text("a")])),
            (KeyType::Exists, Value::Nil),
        ] {
            assert_eq!(
                parse_value(kind, reply),
                Err(unexpected()),
                "never takes an odd reply for a missing key"
            );
        }
    }

    #[test]
    fn reads_the_ttl_of_a_watched_key() {
        for (ttl, expires_in) in [
            (Value::Int(1500), Some(Duration::from_millis(1500))),
            (Value::Int(-1), None),
            (Value::Int(-2), None),
            (Value::Nil, None),
        ] {
            assert_eq!(parse_watched_read(KeyType::String, text("x"), &ttl).unwrap().expires_in, expires_in);
        }
    }

    #[test]
    fn parses_the_role() {
        assert_eq!(parse_role(&Value::Array(vec![text("master"), Value::Int(0)])), ServerRole::Primary);
        assert_eq!(parse_role(&Value::Array(vec![text("slave")])), ServerRole::Replica);
        assert_eq!(parse_role(&Value::Nil), ServerRole::Unknown);
    }
}
