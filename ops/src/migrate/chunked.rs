//! Copies and compares values in chunks, by type: for servers that do not accept each other's DUMP, and for values that
//! are too large to hold in memory.
//!
//! Owns reading, writing and comparing each type. Must never hold more than one chunk. Must never expose a partial
//! value: it is assembled under a temporary key and renamed.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::error::{Error, MigrateError, check_reply};
use super::keyspace::{KeyCommand, Keyspace, read};
use super::value::ValueType;
use earshot_redis_link::slot::slot;

mod chunk;
mod stream;

use chunk::Chunk;

/// Size of a chunk of a string, and approximate size of other chunks.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// Maximum number of elements in a chunk.
const CHUNK_ITEMS_MAX: u64 = 1000;

/// Suffix of temporary keys.
const TEMP_SUFFIX: &str = ":earshot-migrate";

/// TTL of temporary keys, in case the run is killed.
const TEMP_KEY_TTL_MS: u64 = 10 * 60 * 1000;

/// Remaining TTL below which a key may have expired already by another clock.
const EXPIRY_MARGIN_MS: i64 = 1000;

/// A value to be read in chunks.
#[derive(Debug)]
pub(super) struct ChunkedValue<'v> {
    pub(super) space: &'v mut Keyspace,
    pub(super) key: &'v [u8],
    pub(super) kind: &'v ValueType,
    /// Approximate size; zero if unknown.
    pub(super) bytes: u64,
    /// Cancels the operation between two chunks.
    pub(super) stop: &'v CancellationToken,
}

/// Result of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyStatus {
    Done,
    /// The key exists and must not be replaced.
    Exists,
    /// The key expired during the copy.
    Expired,
}

/// Whether a key is a temporary key of a migration.
pub(super) fn is_temp_key(key: &[u8]) -> bool {
    key.ends_with(TEMP_SUFFIX.as_bytes())
}

/// Name of the temporary key, in the same slot as the key.
fn temp_key(key: &[u8]) -> Vec<u8> {
    let is_tagged = key.contains(&b'{') && key.contains(&b'}');
    let (open, close): (&[u8], &[u8]) = if is_tagged { (b"", b"") } else { (b"{", b"}") };
    [open, key, close, TEMP_SUFFIX.as_bytes()].concat()
}

impl ChunkedValue<'_> {
    /// Copies the value to a key of the target. The key appears complete, with its expiry, in one step at the end.
    pub(super) async fn copy(
        &mut self,
        target: &mut Keyspace,
        key: &[u8],
        expiry: Expiry,
        replace: bool,
    ) -> Result<CopyStatus, Error> {
        let temp_key = temp_key(key);
        if target.is_cluster() && slot(&temp_key) != slot(key) {
            return Err(Error::Key("its hash tag permits no temporary key in the same slot".to_owned()));
        }
        execute_all(target, vec![KeyCommand::new("UNLINK", &temp_key)]).await?;
        if *self.kind == ValueType::Stream {
            stream::create_empty(target, &temp_key).await?;
        }
        self.copy_chunks(target, &temp_key).await?;
        if *self.kind == ValueType::Stream {
            stream::copy_groups(self.space, self.key, target, &temp_key).await?;
        }
        let copied = finish(target, &temp_key, key, expiry, replace).await?;
        if copied == CopyStatus::Expired && !self.is_expiring().await? {
            return Err(Error::Key("its temporary key was lost during the copy".to_owned()));
        }
        Ok(copied)
    }

    /// Whether the key has expired or is about to: the clocks of two servers differ slightly.
    async fn is_expiring(&mut self) -> Result<bool, Error> {
        let left: i64 = self.space.query_one(KeyCommand::new("PTTL", self.key)).await?;
        Ok(left == -2 || (0..EXPIRY_MARGIN_MS).contains(&left))
    }

    async fn copy_chunks(&mut self, target: &mut Keyspace, temp_key: &[u8]) -> Result<(), Error> {
        let count = self.chunk_items().await?;
        let mut mark = Some(chunk::first_cursor(self.kind));
        while let Some(from) = mark {
            self.check_cancelled()?;
            let (chunk, next) = chunk::read(self.space, self.key, self.kind, &from, count).await?;
            if let Chunk::Pairs(pairs) = &chunk {
                self.refuse_expiring_fields(pairs).await?;
            }
            let mut calls = chunk.write(temp_key);
            calls.push(KeyCommand::new("PEXPIRE", temp_key).arg(TEMP_KEY_TTL_MS));
            execute_all(target, calls).await?;
            mark = next;
        }
        Ok(())
    }

    /// First difference between the value and a key of the target, if any. Ignores the expiry.
    pub(super) async fn difference(
        &mut self,
        target: &mut Keyspace,
        key: &[u8],
    ) -> Result<Option<String>, Error> {
        let kind: String = target.query_one(KeyCommand::new("TYPE", key)).await?;
        if kind != self.kind.as_str() {
            return Ok(Some(format!("type: {} at the source, {kind} at the target", self.kind)));
        }
        let Some(length) = self.kind.length_command() else {
            return Ok(Some(format!("values of module type {} can only be compared with DUMP", self.kind)));
        };
        let here: u64 = self.space.query_one(KeyCommand::new(length, self.key)).await?;
        let there: u64 = target.query_one(KeyCommand::new(length, key)).await?;
        if here != there {
            return Ok(Some(format!("{length}: {here} at the source, {there} at the target")));
        }
        if !self.chunks_match(target, key).await? {
            return Ok(Some("content".to_owned()));
        }
        if *self.kind == ValueType::Stream {
            return stream::difference(self.space, self.key, target, key).await;
        }
        Ok(None)
    }

    async fn chunks_match(&mut self, target: &mut Keyspace, key: &[u8]) -> Result<bool, Error> {
        let count = self.chunk_items().await?;
        let mut mark = Some(chunk::first_cursor(self.kind));
        while let Some(from) = mark {
            self.check_cancelled()?;
            let (chunk, next) = chunk::read(self.space, self.key, self.kind, &from, count).await?;
            let is_same = match self.kind {
                ValueType::Set | ValueType::Hash => chunk.is_contained_in(target, key).await?,
                _ => chunk::read(target, key, self.kind, &from, count).await?.0 == chunk,
            };
            if !is_same {
                return Ok(false);
            }
            mark = next;
        }
        Ok(true)
    }

    /// Number of elements in a chunk of about [`CHUNK_BYTES`].
    async fn chunk_items(&mut self) -> Result<u64, Error> {
        let Some(length) = self.kind.length_command() else {
            return Err(Error::Key(format!(
                "values of module type {} can only be moved with DUMP and RESTORE",
                self.kind
            )));
        };
        let length: u64 = self.space.query_one(KeyCommand::new(length, self.key)).await?;
        let each = (self.bytes / length.max(1)).max(1);
        Ok((CHUNK_BYTES / each).clamp(1, CHUNK_ITEMS_MAX))
    }

    /// Rejects hashes whose fields have their own TTLs (Redis 7.4 and newer): only DUMP preserves them.
    async fn refuse_expiring_fields(&mut self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Error> {
        // A server without this command has no field TTLs.
        if pairs.is_empty() || !self.space.supports("HPEXPIRETIME") {
            return Ok(());
        }
        let fields: Vec<&[u8]> = pairs.iter().map(|(field, _)| field.as_slice()).collect();
        let call = KeyCommand::new("HPEXPIRETIME", self.key).arg("FIELDS").arg(fields.len()).arg(fields);
        match self.space.query_one::<Vec<i64>>(call).await {
            Ok(times) if times.iter().any(|time| *time >= 0) => {
                Err(Error::Key("its fields have TTLs, which only DUMP and RESTORE preserve".to_owned()))
            }
            Ok(_) | Err(Error::Key(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.stop.is_cancelled() { Err(MigrateError::Stopped.into()) } else { Ok(()) }
    }
}

/// Sets the expiry of the temporary key and renames it.
async fn finish(
    target: &mut Keyspace,
    temp_key: &[u8],
    key: &[u8],
    expiry: Expiry,
    replace: bool,
) -> Result<CopyStatus, Error> {
    let ends = match expiry {
        Expiry::At(at) => KeyCommand::new("PEXPIREAT", temp_key).arg(at),
        Expiry::Never | Expiry::Gone => KeyCommand::new("PERSIST", temp_key),
    };
    let rename = KeyCommand::new(if replace { "RENAME" } else { "RENAMENX" }, temp_key).arg(key);
    let mut answers = target.query(vec![ends, rename]).await?.into_iter();
    check_reply(target.name(), answers.next().unwrap_or_default())?;
    let copied = match answers.next().unwrap_or_default() {
        Value::Okay | Value::Int(1) => return Ok(CopyStatus::Done),
        Value::Int(_) => CopyStatus::Exists,
        Value::ServerError(error) if error.details().is_some_and(|text| text.contains("no such key")) => {
            CopyStatus::Expired
        }
        other => return Err(check_reply(target.name(), other).err().unwrap_or_else(unexpected_reply)),
    };
    execute_all(target, vec![KeyCommand::new("UNLINK", temp_key)]).await?;
    Ok(copied)
}

fn unexpected_reply() -> Error {
    Error::Key("unexpected reply to RENAME".to_owned())
}

/// Executes commands that must all succeed.
async fn execute_all(space: &mut Keyspace, calls: Vec<KeyCommand>) -> Result<(), Error> {
    for answer in space.query(calls).await? {
        check_reply(space.name(), answer)?;
    }
    Ok(())
}

/// Executes commands and converts each reply.
async fn query_each<T: redis::FromRedisValue>(
    space: &mut Keyspace,
    calls: Vec<KeyCommand>,
) -> Result<Vec<T>, Error> {
    let answers = space.query(calls).await?;
    answers.into_iter().map(|answer| read(space.name(), answer)).collect()
}

impl ValueType {
    fn length_command(&self) -> Option<&'static str> {
        match self {
            Self::String => Some("STRLEN"),
            Self::List => Some("LLEN"),
            Self::Set => Some("SCARD"),
            Self::SortedSet => Some("ZCARD"),
            Self::Hash => Some("HLEN"),
            Self::Stream => Some("XLEN"),
            Self::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_key_is_in_the_same_slot() {
        for key in ["room:1", "{express}:room:1", "a{b}c"] {
            let temp_key = temp_key(key.as_bytes());
            assert!(is_temp_key(&temp_key), "{key}");
            assert_eq!(slot(&temp_key), slot(key.as_bytes()), "{key}");
        }
    }
}
